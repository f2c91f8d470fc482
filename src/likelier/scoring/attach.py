"""Choose a scorer for the model at hand, and teach the model to answer `model(batch=...)` with it.

The work happens inside the model's own `forward`, so that wrappers (DDP, FSDP, autocast, LoRA) see it. The
shared-prefix scorer is taken where it gives the plain one's numbers, which is tried, not looked up: models that ignore
transformers' attention interface, or that carry a state along the row, give others without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from types import MethodType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.data.vocabulary import embedding_rows, require_rows_for
from likelier.models.layers import backbone_of, causal_model, frozen, value_head
from likelier.objectives.scored import SequenceScores
from likelier.scoring.attention import UnknownAttentionError, install_attention, restore_attention
from likelier.scoring.batch import Batch, collate
from likelier.scoring.logprobs import HeadTransform
from likelier.scoring.plain import score_plain
from likelier.scoring.shared_prefix import score_shared_prefix
from likelier.scoring.trial import TRIAL, trial_key
from likelier.scoring.values import score_values_plain, score_values_shared
from likelier.utils.errors import LikelierError, ModelError, whole_reason
from likelier.utils.remembered import recall, remember
from likelier.utils.terminal import busy

ScorerName = Literal["auto", "shared-prefix", "plain"]
_Scorers: TypeAlias = dict[str, Callable[[nn.Module, Batch], SequenceScores]]
_SCORERS: _Scorers = {"plain": score_plain, "shared-prefix": score_shared_prefix}
_OF_VALUES: _Scorers = {"plain": score_values_plain, "shared-prefix": score_values_shared}
_VERSIONS = {"plain": "plain-2", "shared-prefix": "shared-prefix-1"}  # raise one when its numbers change
_TOLERANCES = {  # the scorers' mean difference: nats a token, and as a share of what the prompt does
    torch.float64: (1e-8, 3e-5),
    torch.float32: (1e-5, 3e-5),
    torch.bfloat16: (0.05, 0.2),
    torch.float16: (0.05, 0.2),
}
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


@dataclass(frozen=True)
class ScorerChoice:
    """Which scorer runs, and why. `version` is part of a stored score's identity."""

    name: str
    reason: str

    @property
    def version(self) -> str:
        """The scorer's name and the version of its numbers."""
        return _VERSIONS[self.name]


def scorer_of(model: nn.Module) -> ScorerChoice:
    """The scorer that a model was given."""
    choice = getattr(model, "_likelier_scorer", None)
    assert isinstance(choice, ScorerChoice), "attach_scorer(model) comes first"
    return choice


def attach_scorer(
    model: Any,
    *,
    autocast: bool = False,
    scorer: ScorerName = "auto",
    groups: Sequence[Group] = (),
    known: bool = False,
) -> ScorerChoice:
    """Let `model(batch=batch)` score a batch; every other call goes to the model's own forward.

    Args:
        model: a causal language model, or an adapter on one; on the device where it will be scored.
        autocast: score in bfloat16 arithmetic, wherever it is called from: policy and reference, training and
            evaluation take the same way.
        scorer: `auto` takes the shared-prefix scorer where it gives the plain one's numbers on the longest of `groups`
            and on a made-up group longer than the model's attention windows, and else the plain one.
        groups: what will be scored, so that the trial is as long as it needs to be.
        known: take a trial that this machine remembers of the same architecture, versions and precision (see
            `trial_key`); one that the shared-prefix scorer passes is remembered in any case.

    Raises:
        ModelError: the model's head is not understood, or `scorer="shared-prefix"` was asked for and is not exact here,
            or a text holds a token that the embedding has no row for.
    """
    if "_likelier_scorer" not in vars(model):  # an adapter around an attached model would hand on its attributes
        verify_head(model, autocast=autocast)
    _require_known_tokens(causal_model(model), groups)
    model._likelier_autocast = autocast
    with busy("trying the scorer on the longest rows"):
        model._likelier_scorer = _chosen(model, scorer, groups, known)
    return scorer_of(model)


def _require_known_tokens(causal: Any, groups: Sequence[Group]) -> None:
    """Raises `ModelError` where a text spells a token that the tokenizer knows and the model does not."""
    rows = embedding_rows(causal)
    for group in groups:
        for ids in (group.prompt, *group.answers):
            if len(ids) and int(ids.max()) >= rows:
                require_rows_for(ids.tolist(), rows, str(group.source))


def _patch(model: Any) -> None:
    original = model.forward

    def forward(self: Any, *args: Any, batch: Any = None, how: Any = None, **kwargs: Any) -> Any:
        if batch is None:
            return self._likelier_forward(*args, **kwargs)
        score = _scorers(self)[self._likelier_scorer.name] if how is None else how
        # No cache: every weight is used once a pass, and the cache would hold a copy of all weights until its end.
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self._likelier_autocast, cache_enabled=False):
            return score(self, batch)

    own = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    known = signature(original)  # generation asks for it, and would leave out position_ids with ours
    patched: Any = forward
    patched.__signature__ = known.replace(parameters=[own, *known.parameters.values()])
    model._likelier_forward = original
    model.forward = MethodType(forward, model)


def _scorers(model: nn.Module) -> _Scorers:
    """Those that a model's head is for: words, or values."""
    return _SCORERS if value_head(model) is None else _OF_VALUES


def _chosen(model: nn.Module, asked: ScorerName, groups: Sequence[Group], known: bool) -> ScorerChoice:
    if asked not in get_args(ScorerName):
        raise ValueError(f"scorer={asked!r} is unknown; known: {', '.join(get_args(ScorerName))}")
    if asked == "plain":
        restore_attention(causal_model(model))
        return ScorerChoice("plain", "asked for")
    what, unit = ("log-probabilities", "nats") if value_head(model) is None else ("scores", "of score")
    made_up, real = _tried_on(model, groups)
    restore_attention(causal_model(model))
    key = trial_key(model, made_up.longest, 0 if real is None else real.longest)
    before = recall(TRIAL, key) if known and key is not None else None
    try:
        if before is not None:
            install_attention(causal_model(model))
            return ScorerChoice("shared-prefix", f"{_equal(before, unit)}, as tried here before")
        difference, allowed = _try(model, made_up, real)
        failure = f"{what} differ by {difference:.3g} {unit} a token"
        if difference <= allowed:
            if key is not None:
                remember(TRIAL, key, difference)
            return ScorerChoice("shared-prefix", _equal(difference, unit))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what a model's own code does with a row that it was not made for is open
        failure = whole_reason(error)
    restore_attention(causal_model(model))
    reason = f"{type(causal_model(model)).__name__} cannot share a prompt between answers: {failure}"
    if asked == "shared-prefix":
        raise ModelError(f"{reason}; let scorer be auto")
    return ScorerChoice("plain", reason)


def _equal(difference: float, unit: str) -> str:
    return f"equal to the plain scorer within {difference:.1e} {unit} a token"


def _tried_on(model: nn.Module, groups: Sequence[Group]) -> tuple[Group, Group | None]:
    """A made-up group and the longest of those that will be scored, if any are known."""
    config = causal_model(model).config.get_text_config()
    real = max(groups, key=lambda group: group.longest, default=None)
    return _made_up_group(config, real.longest if real else getattr(config, "max_position_embeddings", 2048)), real


def _try(model: Any, made_up: Group, real: Group | None) -> tuple[float, float]:
    """Score the longest group and a made-up one with both scorers: how far these are apart, and how far they may be,
    in nats a token.

    The plain scorer runs before and after our attention is installed: a model that looks at its attention's name must
    not change by it. The difference must also be small beside what the prompt does to the answers, or a model that
    hardly looks at its prompt (a fresh one) would pass with any mask.
    """
    if any(isinstance(module, nn.Conv1d) for module in backbone_of(causal_model(model)).modules()):
        raise UnknownAttentionError("it has convolutions along the row")
    device = next(model.parameters()).device
    batches = [collate([group], device=device) for group in (made_up, real) if group is not None]
    without_prompt = collate([replace(made_up, prompt=made_up.prompt[-1:])], device=device)
    plain, shared = (_scorers(model)[name] for name in ("plain", "shared-prefix"))
    with frozen(model):
        restore_attention(causal_model(model))
        expected = [model(batch=batch, how=plain).token_logps for batch in batches]
        effect = _apart(expected[0], model(batch=without_prompt, how=plain).token_logps)
        install_attention(causal_model(model))
        found = [model(batch=batch, how=shared).token_logps for batch in batches]
        gaps = [_apart(new, old) for new, old in zip(found, expected, strict=True)]
        gaps.append(_apart(model(batch=batches[0], how=plain).token_logps, expected[0]))
    dtype = torch.bfloat16 if model._likelier_autocast else next(model.parameters()).dtype
    tolerance, share = _TOLERANCES[dtype]
    return max(gaps), min(tolerance, share * effect)


def _apart(left: Tensor, right: Tensor) -> float:
    """The mean difference; infinite where a value is not finite."""
    gap = float((left - right).abs().mean())
    return gap if gap == gap else float("inf")


def _made_up_group(config: Any, longest: int) -> Group:
    """A prompt with two answers that lie beyond the model's attention windows, as far as `longest` tokens go."""
    windows = [value for name in _WINDOWS if isinstance(value := getattr(config, name, None), int)]
    length = max(32, min(longest, max(windows, default=32) + 32))
    ids = np.random.default_rng(0).integers(0, config.vocab_size, length + 16).astype(np.int32)
    return Group(ids[: length - 16], (ids[length - 16 : length], ids[length:]), Source("made up", 1))


def verify_head(model: Any, *, autocast: bool = False) -> None:
    """Hold our head (projection, scale, soft-capping) against the model's own logits on a few tokens."""
    if "_likelier_forward" not in vars(model):
        _patch(model)
    causal = causal_model(model)
    if backbone_of(causal) is None or (causal.get_output_embeddings() is None and value_head(model) is None):
        raise ModelError(
            f"{type(causal).__name__} is not a causal language model with a separate head; it cannot be scored"
        )
    parameter = next(causal.parameters())
    # Beside frozen weights of 16 bits lie trained ones of 32, which only autocast brings together.
    model._likelier_autocast = autocast and parameter.dtype in (torch.bfloat16, torch.float16)
    tokens = torch.arange(2, 8, device=parameter.device)[None] % causal.config.get_text_config().vocab_size
    try:
        with frozen(model):
            theirs, ours = model(batch=tokens, how=_both_logits)
    except (torch.OutOfMemoryError, LikelierError):
        raise
    except Exception as error:  # a model's own code, or an adapter on a part that is no plain layer
        raise ModelError(f"{type(causal).__name__} fails on a few tokens of text: {whole_reason(error)}") from error
    if not bool(torch.isfinite(theirs).all()):
        raise ModelError(f"{type(causal).__name__} gives logits that are not finite; its weights are damaged")
    tolerance = 1e-3 if parameter.dtype in (torch.float32, torch.float64) else 0.1
    if not torch.allclose(theirs, ours, rtol=tolerance, atol=tolerance):
        raise ModelError(
            f"{type(causal).__name__} changes its logits in a way that is not known here (largest difference "
            f"{float((theirs - ours).abs().max()):.3g}); its log-probabilities would be wrong"
        )


@contextmanager
def _without_padding(config: Any) -> Iterator[None]:
    """A classifier then reads the last token, whichever it is."""
    own, config.pad_token_id = config.pad_token_id, None
    try:
        yield
    finally:
        config.pad_token_id = own


def _both_logits(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The model's own logits, and those of its backbone's hidden states by our head."""
    causal = causal_model(model)
    head = value_head(model)
    with nullcontext() if head is None else _without_padding(causal.config):
        theirs = model._likelier_forward(input_ids=tokens, use_cache=False).logits.float()
    hidden = backbone_of(causal)(input_ids=tokens, use_cache=False).last_hidden_state
    if head is not None:
        return theirs, head(hidden[:, -1]).float()
    return theirs, HeadTransform.of(causal.config.get_text_config())(causal.get_output_embeddings()(hidden).float())
