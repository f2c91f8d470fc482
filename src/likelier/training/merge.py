"""`likelier merge`: an adapter and its base as one ordinary model folder, checked against what they are together. Of a
reward model its scores are compared in the place of log-probabilities.

The adapter is merged in float32 and the result written in the base's own dtype, or the one asked for; 16 bits are
rounded so that what was learned stays (see `models.stochastic_rounding`). The written folder is loaded again and must
give the log-probabilities of base + adapter before it comes to lie where it was asked for: a folder that is there was
checked.
"""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from likelier.data.formats import convert
from likelier.data.groups import Group
from likelier.data.options import DataSet
from likelier.data.records import Pair, Record
from likelier.data.sources import read_rows
from likelier.data.tokenize import default_max_length, tokenize_records
from likelier.models.adapter_parts import base_named
from likelier.models.classifier import is_classifier
from likelier.models.layers import value_head
from likelier.models.loading import save_whole
from likelier.models.merged import merged_model
from likelier.models.policy import Policy, load_policy
from likelier.models.stochastic_rounding import round_model_
from likelier.runs.card import RunCard
from likelier.runs.folder import final_folder
from likelier.runs.model_card import base_model_id, model_card
from likelier.scoring import attach_scorer
from likelier.scoring.attention import restore_attention
from likelier.scoring.implicit_rewards import AnswerScore, score_answers
from likelier.scoring.reference import Reference, ReferenceScoring, base_reference
from likelier.scoring.reference.identity import BASE_WORDS
from likelier.scoring.restore import card_of, recorded_chat, reward_offset, training_files
from likelier.utils.console import say, warn
from likelier.utils.errors import LikelierError, ModelError, RunFolderError, WrongReferenceError, writing
from likelier.utils.files import base_names, cache_folder, local, require_utf8
from likelier.utils.folders import check_writable, clear_killed, folder_when_whole
from likelier.utils.redaction import without_secrets
from likelier.utils.strict_json import encodable
from likelier.utils.terminal import busy, counting
from likelier.utils.versions import __version__, versions

MergedDtype = Literal["float32", "bfloat16"]
Compared = Literal["log-probabilities", "scores"]
_OTHER = "name another output"
EXACT, ROUNDED = 1e-5, 0.05  # nats a token: allowed in float32, and where weights were rounded to 16 bits
_ROWS, _LONGEST, _LARGEST_FILE = 8, 512, 2**26
_TORCH_DTYPES = {"F64": "float32", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Check:
    """How far the written folder is from what it was made of, in nats a token, each at the answer where it is largest.
    Of a reward model these are differences of answers' scores, and `tokens` are the answers, each read at its last.

    `difference`, that of an answer's summed log-probability, must lie within `tolerance`. `token_difference` is the
    mean over an answer's tokens of their absolute differences, which do not cancel; `adapter_effect` is the same
    between the base and base + adapter, for comparison (None without an adapter).
    """

    answers: int
    tokens: int
    texts: str
    difference: float
    tolerance: float
    token_difference: float
    adapter_effect: float | None
    of: Compared = "log-probabilities"

    def words(self) -> str:
        """What is said of it at the terminal."""
        if self.of == "scores":
            return (
                f"checked on {self.answers} answers ({self.texts}): scores differ by {self.difference:.2g} at most "
                f"(allowed {self.tolerance:.2g})"
            )
        tokens = f"single tokens by {self.token_difference:.2g} on average"
        if self.adapter_effect is not None:
            tokens += f", where the adapter moves them by {self.adapter_effect:.2g}"
        return (
            f"checked on {self.answers} answers ({self.tokens} tokens, {self.texts}): log-probabilities differ by "
            f"{self.difference:.2g} nats a token (allowed {self.tolerance:g}); {tokens}"
        )


def merge_run(run: str, output: str, *, dtype: MergedDtype | None = None) -> str:
    """Write the model of a run, its adapter merged into its base, to the new folder `output`; returns a summary.

    Args:
        run: a run's folder (of a staged one the last stage is taken), or an adapter's.
        output: the folder to be made; one that is empty may be there.
        dtype: of the written weights (default: that of the base on disk). All is computed in float32.

    Raises:
        ModelError: the folder cannot be loaded, its base is quantized, or the written model is not the one of the run.
        WrongReferenceError: the base is not the one that the run recorded.
        RunFolderError: `output` is not free or cannot be written.
    """
    source, target = final_folder(run), local(output)
    if not source.is_dir():
        raise ModelError(f"no such run folder: {run}; give a run's folder, or an adapter's")
    _check_free(target)
    card = card_of(str(source))
    _refuse_quantized(source, card)
    scores = is_classifier(source)
    policy = load_policy(str(source), dtype="float32", chat=recorded_chat(card), values=scores)
    wanted = dtype or _stored_dtype(_base_folder(source)) or "float32"
    with writing(target, mend=_OTHER, kind=RunFolderError), folder_when_whole(target) as temporary:
        told, check = _write_checked(policy, card, temporary, wanted)
        told = {"run": base_names(str(source.resolve())), **told}
        if scores:
            told["reward_offset"] = reward_offset(source)
        _write_papers(temporary, told, card, base_names(str(target.resolve())))
    what = "merged into its base" if told["adapter"] else "no adapter, nothing to merge: the model as one folder"
    return f"{source}: {what}, {wanted}\n{check.words()}\nwritten to {target}"


def _check_free(target: Path) -> None:
    """Fail before anything slow."""
    require_utf8(target, "the output")
    if target.exists() and not target.is_dir():
        raise RunFolderError(f"{target} is a file; name a folder")
    held = sorted(entry.name for entry in target.iterdir()) if target.exists() else []
    if held:
        raise RunFolderError(f"{target} is not empty (it holds {held[0]}); name another output")
    with writing(target, mend=_OTHER, kind=RunFolderError):
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_killed(target)
        check_writable(target)


def _refuse_quantized(source: Path, card: RunCard) -> None:
    serve = "serve the adapter over its base as it is, without merging"
    if card.lora.get("load_in_4bit"):
        raise ModelError(
            f"{source} was trained over a base in 4 bits: merged into the base in full precision it would be another "
            f"model than the one that was trained. Either {serve}, or train without load_in_4bit"
        )
    base = _base_folder(source)
    if base is not None and "quantization_config" in _json(base / "config.json"):
        raise ModelError(
            f"the base model {base} is quantized: an adapter merged into it would be rounded with it. Either {serve}, "
            "or train on the model that it was made from"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, RecursionError):  # who loads the model says what is wrong with it
        return {}


def _base_folder(source: Path) -> Path | None:
    """Where the files of the base (of a whole model: its own) lie; None where they are not on this machine."""
    if not (source / "adapter_config.json").is_file():
        return source
    name = str(_json(source / "adapter_config.json").get("base_model_name_or_path") or "")
    if name and local(name).is_dir():
        return local(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _stored_dtype(folder: Path | None) -> str | None:
    """The dtype of most weights as they lie on disk; None where no safetensors file tells."""
    from safetensors import SafetensorError, safe_open

    sizes: Counter[str] = Counter()
    try:
        for file in folder.glob("*.safetensors") if folder else ():
            with safe_open(str(file), framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118  (no mapping)
                    piece = weights.get_slice(name)
                    sizes[piece.get_dtype()] += math.prod(piece.get_shape())
    except (SafetensorError, OSError):  # who loads the model says what is wrong with it
        return None
    known = {kind: size for kind, size in sizes.items() if kind in _TORCH_DTYPES}
    return _TORCH_DTYPES[max(known, key=lambda kind: known[kind])] if known else None


def _write_checked(policy: Policy, card: RunCard, folder: Path, dtype: str) -> tuple[dict[str, Any], Check]:
    """Merge, write, load again, compare. Returns what merge.json tells, and the check. Raises `ModelError`."""
    groups, texts = check_texts(card, policy)
    of: Compared = "log-probabilities" if value_head(policy.model) is None else "scores"
    before = _told_of_answers(policy, groups)
    told, base = _base_facts(policy, card, groups)
    compared = partial(_compared, before, base=base, texts=texts, of=of)
    policy.model = merged_model(policy)
    if dtype != "float32":  # rounding could hide a wrong merge
        _require_same(compared(_told_of_answers(policy, groups), tolerance=EXACT))
    _save(policy.model, policy.tokenizer, folder, dtype)
    chat = policy.chat
    policy.model = None  # one model in memory at a time
    gc.collect()
    written = load_policy(str(folder), dtype="float32", chat=chat, values=of == "scores")
    check = compared(_told_of_answers(written, groups), tolerance=EXACT if dtype == "float32" else ROUNDED)
    _require_same(check)
    _warn_of_rounding(check, dtype)
    rounding = None if dtype == "float32" else "stochastic"
    return told | {"dtype": dtype, "rounding": rounding, "check": asdict(check)}, check


def _compared(
    before: list[list[float]],
    after: list[list[float]],
    *,
    base: list[list[float]] | None,
    texts: str,
    of: Compared,
    tolerance: float,
) -> Check:
    if of == "scores":  # no means over tokens, and of any size
        tolerance *= max(1.0, *(abs(value) for answer in before for value in answer))
    return Check(
        answers=len(after),
        tokens=sum(len(answer) for answer in after),
        texts=texts,
        difference=_difference(before, after),
        tolerance=tolerance,
        token_difference=_token_difference(before, after),
        adapter_effect=None if base is None else _token_difference(base, before),
        of=of,
    )


def _base_facts(
    policy: Policy, card: RunCard, groups: Sequence[Group]
) -> tuple[dict[str, Any], list[list[float]] | None]:
    """What merge.json says of adapter and base, and the base's own log-probabilities. None of it without an adapter."""
    if policy.adapter_settings is None:
        return {"adapter": None, "base": None, "base_weights": None}, None
    named = base_named(policy.model)
    if value_head(policy.model) is not None:  # a base without its head says nothing
        own = base_model_id(card) or base_names(named)
        return {"adapter": policy.adapter_settings, "base": own, "base_weights": None}, None
    reference = base_reference(policy.model, precision=policy.precision)
    _check_base(named, reference, card, policy.precision)
    told = {
        "adapter": policy.adapter_settings,
        "base": base_model_id(card) or base_names(named),
        "base_weights": reference.weights,
    }
    try:
        with reference.use():
            return told, _told_of_answers(policy, groups)
    except WrongReferenceError:  # the texts hold tokens that came with the adapter
        return told, None


def _check_base(named: str, base: Reference, card: RunCard, precision: str) -> None:
    """Where the run recorded the base as its reference: hold what lies there now against it."""
    recorded = card.reference
    if card.precision != precision or not (recorded.words or "").startswith(BASE_WORDS):
        return
    if recorded.weights in (None, base.weights):
        return
    wrong = (
        f"the base model {named} is not the one that the adapter was trained on: its weights or its config are others "
        f"(hash {base.weights}, recorded {recorded.weights})"
    )
    if card.versions.get("transformers") == versions()["transformers"]:
        raise WrongReferenceError(f"{wrong}. Put the right one in its place")
    warn(f"{wrong}; perhaps only because another version of transformers reads its config otherwise")


def _require_same(check: Check) -> None:
    if check.difference <= check.tolerance:
        return
    raise ModelError(
        f"the merged model is not the one of the run: {check.words()}. Nothing was left behind. Likely causes:\n"
        "  - 16 bits are too few for this model (--dtype float32 keeps everything)\n"
        "  - the disk, or the files of the base, are damaged"
    )


def _warn_of_rounding(check: Check, dtype: str) -> None:
    effect = check.adapter_effect
    if effect and check.token_difference > 0.1 * effect and dtype != "float32":
        warn(
            f"rounding to {dtype} moves single tokens' log-probabilities by {check.token_difference:.2g} nats, where "
            f"the adapter itself moves them by {effect:.2g}; --dtype float32 keeps what was learned as it is"
        )


def check_texts(card: RunCard, policy: Policy) -> tuple[Sequence[Group], str]:
    """A few prompts with answers, as tokens: of the run's own data where its file is at hand, else built-in ones."""
    own = _data_file(card)
    if own is not None:
        try:
            groups = _tokenized(convert(read_rows(own), own.columns).records[:_ROWS], policy)
        except LikelierError as error:
            say(f"the run's data cannot be read any more ({error}); built-in texts are taken for the check")
            groups = []
        if groups:
            return groups, f"from {Path(own.path).name}"
    lines = files("likelier.data").joinpath("honest_answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:_ROWS]]
    records = convert(
        read_rows([{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows])
    ).records
    try:
        groups = _tokenized(records, policy)
    except LikelierError:  # no chat template, or one that wants other roles
        groups = _tokenized([_as_plain_text(record) for record in records if isinstance(record, Pair)], policy)
    return groups, "built-in texts"


def _data_file(card: RunCard) -> DataSet | None:
    """The first file of training data that the card names, unless it is gone or very large."""
    sets = [(one, Path(one.path)) for one in training_files(card)[:1]]
    return next((one for one, path in sets if path.is_file() and path.stat().st_size <= _LARGEST_FILE), None)


def _tokenized(records: Sequence[Record], policy: Policy) -> Sequence[Group]:
    limit = min(_LONGEST, default_max_length(policy.context))
    talks = any(isinstance(record.prompt, tuple) for record in records)
    return tokenize_records(
        records,
        policy.tokenizer,
        max_length=limit,
        truncation="cut-prompt-left",
        chat=policy.chat if talks else None,
    ).groups


def _as_plain_text(pair: Pair) -> Pair:
    prompt, chosen, rejected = (
        content[-1].content if isinstance(content, tuple) else str(content)
        for content in (pair.prompt, pair.chosen, pair.rejected)
    )
    return Pair(f"{prompt}\n", chosen, rejected, pair.source)


def _told_of_answers(policy: Policy, groups: Sequence[Group]) -> list[list[float]]:
    """Each answer's token log-probabilities in nats, or its one score, by the plain scorer in float32 on the CPU."""
    attach_scorer(policy.model, scorer="plain")
    with counting("scoring the rows that the merge is checked on", len(groups)) as report:
        how = ReferenceScoring(cache_folder() / "reference", 1024, "cpu", report)
        found: dict[int, list[AnswerScore]] = score_answers(policy.model, groups, how, per_token=True)
    answers = [answer for number in range(len(groups)) for answer in found[number]]
    return [answer.token_logps if value_head(policy.model) is None else [answer.logp] for answer in answers]


def _difference(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> float:
    """The difference of an answer's sums per token, where it is largest; NaN counts as infinite."""
    return _largest(abs(math.fsum(one) - math.fsum(other)) / len(one) for one, other in zip(left, right, strict=True))


def _token_difference(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> float:
    """The mean absolute difference of an answer's tokens, where it is largest; NaN counts as infinite."""
    return _largest(
        math.fsum(abs(mine - theirs) for mine, theirs in zip(one, other, strict=True)) / len(one)
        for one, other in zip(left, right, strict=True)
    )


def _largest(values: Iterable[float]) -> float:
    return max(math.inf if math.isnan(value) else value for value in values)


def _save(model: Any, tokenizer: Any, folder: Path, dtype: str) -> None:
    """An ordinary Hugging Face folder: config, generation config, safetensors, tokenizer with its chat template."""
    from safetensors import SafetensorError

    restore_attention(model)
    if dtype != "float32":
        round_model_(model, getattr(torch, dtype))
    try:
        with busy("writing the merged model"):
            save_whole(model, tokenizer, folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # the disk is full, for example


def _write_papers(folder: Path, told: dict[str, Any], card: RunCard, name: str) -> None:
    content = without_secrets({"likelier": __version__, **told})
    text = encodable(json.dumps(content, indent=2, ensure_ascii=False))
    (folder / "merge.json").write_text(f"{text}\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(card, name, merged=content), encoding="utf-8", errors="replace")
