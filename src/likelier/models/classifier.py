"""A sequence classifier as a reward: one output is the reward, of two it is the log-odds of the second.

Its scores do not depend on what else is in the batch. Decoders are read at their last real token, which transformers
takes to be the last one that is no padding: where padding is the end token, it would read the token before the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from likelier.data.options import ChatOptions
from likelier.data.records import Message
from likelier.data.rendering import render
from likelier.data.vocabulary import embedding_rows, require_rows_for
from likelier.models.loading import quiet
from likelier.models.policy import load_policy
from likelier.models.safe_loading import check_model_folder, loading_failed, read_config, read_tokenizer
from likelier.models.token_budget import default_token_budget
from likelier.utils.errors import ConfigError, ModelError
from likelier.utils.files import local, read_object

# What the tokenizer makes of a prompt with its answer: `input_ids`, and for two texts `token_type_ids` beside them.
Row: TypeAlias = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Classifier:
    """A loaded classifier; `where` begins what is told of a failure. `offset` is taken off its scores: a reward model's
    mean over the answers that it learnt from, whose own zero means nothing.
    """

    model: Any
    tokenizer: Any
    where: str
    offset: float = 0.0

    @property
    def reads_every_token(self) -> bool:
        """Whether its head is put on every token, of which one is taken (a decoder), and not on a pooled text."""
        return hasattr(self.model, "score")

    @property
    def limit(self) -> int:
        """The most tokens that it can take."""
        return min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 2**31))

    def scores(self, rows: Sequence[Row], places: Sequence[str], token_budget: int | None = None) -> Tensor:
        """The rewards (n,) of rows of `row_of`, float32 on the CPU. `places` say where each is from.

        Raises `ConfigError` for a row that is longer than the classifier can take, `ModelError` for ids without a row
        in its embedding.
        """
        every = [list(row["input_ids"]) for row in rows]
        for ids, place in zip(every, places, strict=True):
            if len(ids) > self.limit:
                raise ConfigError(
                    f"{self.where}: {place}: it takes {self.limit} tokens, and the prompt with its answer has "
                    f"{len(ids)}: a cut answer would be judged as another; let answers be shorter, or leave the prompt "
                    "out"
                )
            require_rows_for(ids, embedding_rows(self.model), f"{self.where}: {place}", self.tokenizer)
        budget = token_budget or default_token_budget(self.model, self.model.device)
        found = torch.empty(len(rows))
        for part in _parts([len(ids) for ids in every], budget):
            found[part] = self._score([rows[number] for number in part])
        return found - self.offset

    @torch.no_grad()
    def _score(self, rows: Sequence[Row]) -> Tensor:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        given = {"attention_mask": mask.long()}
        for name in rows[0].keys() & {"input_ids", "token_type_ids"}:
            given[name] = torch.zeros_like(mask, dtype=torch.long)
            given[name][mask] = torch.tensor([value for row in rows for value in row[name]])
        given = {name: values.to(self.model.device) for name, values in given.items()}
        if self.reads_every_token:
            with _seen(self.model.score) as seen:
                self.model(**given)
            logits = seen[0][torch.arange(len(rows)), lengths - 1]
        else:
            logits = self.model(**given).logits
        logits = logits.float().cpu()
        return logits[:, -1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]

    def row_of(self, prompt: str | tuple[Message, ...], answer: str, place: str, *, ended: bool = True) -> Row:
        """A prompt with its answer as it reads them: a conversation by its chat template; texts side by side where it
        reads two (as BERT does), else joined, with the end token behind an answer that `ended`.

        Raises `RowRefused` for what the template refuses, `ModelError` for a conversation of several turns without one.
        """
        if not isinstance(prompt, str) and self.tokenizer.chat_template:
            text = render(self.tokenizer, (*prompt, Message("assistant", answer)), ChatOptions(), place)
            return self.tokenizer(text, add_special_tokens=False)
        if not isinstance(prompt, str):
            if len(prompt) != 1:
                raise ModelError(
                    f"{self.where}: {place}: the prompt is a conversation of {len(prompt)} turns, and the tokenizer "
                    "has no chat template to write them with; take another reward model"
                )
            prompt = prompt[0].content
        if not self.reads_every_token:
            return self.tokenizer(prompt, answer)
        ids, end = self.tokenizer(prompt + answer)["input_ids"], self.tokenizer.eos_token_id
        return {"input_ids": [*ids, end] if ended and end is not None and ids[-1:] != [end] else ids}


@contextmanager
def _seen(module: Any) -> Iterator[list[Tensor]]:
    """What a module gives while it is called."""
    seen: list[Tensor] = []

    def keep(module: Any, given: Any, found: Tensor) -> None:
        seen.append(found)

    hook = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def is_classifier(folder: Path) -> bool:
    """Whether a folder holds a sequence classifier, or an adapter that makes one of its base. A folder that cannot be
    read holds none: who loads it says what is wrong with it.
    """
    adapter = folder / "adapter_config.json"
    try:
        told = read_object(adapter if adapter.is_file() else folder / "config.json")
    except (OSError, ValueError):
        return False
    kinds = [told["task_type"]] if "task_type" in told else told.get("architectures") or []
    return any(str(kind) == "SEQ_CLS" or str(kind).endswith("ForSequenceClassification") for kind in kinds)


def load_classifier(name: str, where: str) -> Classifier:
    """Load a hub id or a folder, on the GPU where there is one.

    Raises `ModelError` for what is no trained classifier, `ConfigError` for one with more than two outputs.
    """
    from transformers import AutoModelForSequenceClassification

    if (local(name) / "adapter_config.json").is_file():
        policy = load_policy(name, values=True)
        policy.model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
        return Classifier(policy.model, policy.tokenizer, where)
    try:
        if local(name).is_dir():
            check_model_folder(local(name), name)
        read_config(name, name)
        tokenizer = read_tokenizer(name)
        with quiet():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{where}: {loading_failed(name, 'a sequence classifier', error)}") from error
    _require_head(model, found, where)
    if model.config.pad_token_id is None:  # transformers refuses a batch without one; scores are read without it
        model.config.pad_token_id = 0
    model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    return Classifier(model, tokenizer, where)


def _require_head(model: Any, found: Mapping[str, Any], where: str) -> None:
    if found["missing_keys"]:
        raise ModelError(
            f"{where} has no trained head for a reward (missing: {sorted(found['missing_keys'])[:3]}); "
            "name a sequence classifier"
        )
    if model.config.num_labels > 2:
        raise ConfigError(f"{where} has {model.config.num_labels} outputs; it must have one or two")


def _parts(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The rows' numbers in batches of at most `budget` tokens with padding, rows of like lengths together."""
    parts: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if parts and (len(parts[-1]) + 1) * lengths[number] <= budget:
            parts[-1].append(number)
        else:
            parts.append([number])
    return parts
