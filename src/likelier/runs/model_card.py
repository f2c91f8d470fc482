"""The README.md of a run's folder: what was trained, how, on what, against what, and how to use it.

Everything comes from run.json. What a user or a file named is escaped, and local paths are cut down to their last part:
the page may be published.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from likelier.runs.card import RunCard
from likelier.runs.folder import RunFolder
from likelier.utils.console import one_line
from likelier.utils.files import base_names, write_whole
from likelier.utils.redaction import without_secrets
from likelier.utils.yaml_text import as_yaml

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BUILT_IN = {"demo": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_MARKUP = re.compile(r"([\\`*_\[\]|~#$])")
_SHOWN = {
    "eval_rewards/accuracies": "reward accuracy",
    "eval_ranking_accuracy": "ranking accuracy",
    "eval_rewards/margins": "reward margin",
    "eval_rewards/chosen": "reward of the chosen answer",
    "eval_rewards/rejected": "reward of the rejected answer",
    "eval_loss": "loss",
    "eval_reward": "reward of its own answers",
    "eval_best_of_n": "the best of several answers to each prompt",
}
_SHARES = ("eval_rewards/accuracies", "eval_ranking_accuracy")
_PLACE = "path/to/this/folder"

_USE_MODEL = f'''```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{_PLACE}")
model = AutoModelForCausalLM.from_pretrained("{_PLACE}", dtype="auto")
```'''
_USE_ADAPTER = f'''```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{_PLACE}")
model = AutoPeftModelForCausalLM.from_pretrained("{_PLACE}", dtype="auto")  # loads the base model too
```'''
_USE_REWARDS = f'''```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{_PLACE}")
model = AutoModelForSequenceClassification.from_pretrained("{_PLACE}", dtype="auto")  # its one output is the reward
```'''
_USE_REWARDS_ADAPTER = f'''```python
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{_PLACE}")
model = AutoPeftModelForSequenceClassification.from_pretrained("{_PLACE}", num_labels=1)  # loads the base model too
```'''


def write_model_card(folder: RunFolder) -> None:
    """Write README.md from run.json. Raises `RunFolderError` if there is no run.json."""
    write_whole(
        folder.path / "README.md",
        model_card(folder.card(), base_names(str(folder.path.resolve()))).encode("utf-8", "replace"),
    )


def model_card(card: RunCard, name: str, *, merged: Mapping[str, Any] | None = None) -> str:
    """The page of a run called `name`; with `merged` (merge.json's content) that of the model made of it."""
    raw, name, merged = without_secrets([dict(card.raw), name, merged])
    card = RunCard.of(raw)
    known = card.with_base_names
    is_adapter = merged is None and bool(card.adapter)
    sections = [
        _front_matter(card, is_adapter),
        f"# {escaped(name)}",
        _what(known, card, is_adapter, merged),
        _section("Merging", _table(_merging(merged)) if merged else ""),
        _section("Training", _table(_training(known))),
        _section("Data", _bullets(_data(known))),
        _section("Reference", _reference(known)),
        _section("Evaluation", _evaluation(known)),
        _section("Stages", _stages(known)),
        _section("Use", _use(is_adapter, known.facts.reads_values)),
        _section("Versions", _table(known.versions.items())),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def escaped(text: Any) -> str:
    """One line of text in which nothing is markup, neither Markdown nor HTML, and nothing becomes a link."""
    line = _MARKUP.sub(r"\\\1", html.escape(one_line(str(text)), quote=False))
    return line.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def base_model_id(card: RunCard) -> str | None:
    """The hub id of the model that training began with; None for a local one."""
    name = card.run.model or ""
    return _BUILT_IN.get(name) or (name if HUB_ID.fullmatch(name) else None)


def _front_matter(card: RunCard, is_adapter: bool) -> str:
    kind = "reward-model" if card.facts.reads_values else None
    tags = ["likelier", "preference-optimization", card.method, kind, "lora" if is_adapter else None]
    base = base_model_id(card)
    content: dict[str, Any] = {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-classification" if card.facts.reads_values else "text-generation",
        "tags": [str(tag) for tag in tags if tag],
    }
    if base is not None:
        content |= {"base_model": base, "base_model_relation": "adapter" if is_adapter else "finetune"}
    return f"---\n{as_yaml(content).strip()}\n---"


def _what(known: RunCard, card: RunCard, is_adapter: bool, merged: Mapping[str, Any] | None) -> str:
    began = escaped(base_model_id(card) or known.run.model or known.policy or "a language model")
    method = escaped(known.method or "an unknown method")
    if merged is not None:
        what = f"{began} with a LoRA adapter merged into it" if merged.get("adapter") else f"{began}, trained further"
    else:
        what = f"A LoRA adapter for {began}" if is_adapter else f"{began}, trained further"
    made = f"{what}, by {method} with likelier." if card.method else f"{what}, with likelier."
    done = known.status or "done"
    return made if done == "done" or merged is not None else f"{made} The run ended early: {escaped(done)}."


def _section(title: str, content: str) -> str:
    return f"## {title}\n\n{content}" if content else ""


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {escaped(name)} | {escaped(value)} |" for name, value in rows if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _merging(merged: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    check = merged["check"]
    yield "made from", merged["run"]
    yield "base", merged.get("base")
    yield "hash of the base's weights", merged.get("base_weights")
    yield "adapter", _pairs(merged.get("adapter") or {}) or None
    yield "weights written as", merged["dtype"] + (f", {merged['rounding']} rounding" if merged["rounding"] else "")
    yield "checked on", f"{check['answers']} answers, {check['tokens']} tokens"
    if check.get("of") == "scores":
        yield (
            "difference from the run",
            f"{check['difference']:.2g} in an answer's score (allowed {check['tolerance']:.2g})",
        )
        yield "mean score of training answers", f"{merged['reward_offset']:.4f}, which likelier takes off"
        return
    yield "difference from the run", f"{check['difference']:.2g} nats a token (allowed {check['tolerance']:g})"
    yield "difference of single tokens", f"{check['token_difference']:.2g} nats on average"
    if check["adapter_effect"] is not None:
        yield "what the adapter does to them", f"{check['adapter_effect']:.2g} nats on average"


def _training(known: RunCard) -> Iterator[tuple[str, Any]]:
    yield "method", known.method
    yield from known.hyperparameters.items()
    yield "in words", known.explained
    yield "adapter", _pairs(known.adapter) or None
    yield "learning rate", known.learning_rate
    yield "items in a step", known.options.batch_size
    yield "steps", known.steps
    yield "seed", known.options.seed
    yield "arithmetic", known.arithmetic
    yield "seconds", None if known.training_seconds is None else round(known.training_seconds, 1)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_list(value)}" for name, value in values.items())


def _list(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _data(known: RunCard) -> Iterator[str]:
    run, data = known.run, known.data
    for title, named in (("training", run.data), ("evaluation", run.eval_data)):
        if named:
            yield f"{title}: {', '.join(_data_sets(named))}"
    if run.eval_fraction:
        yield f"evaluation: {run.eval_fraction:.0%} of the prompts, held out"
    if known.data_format:
        yield f"read as: {escaped(known.data_format)}"
    for title, counts in (("training", data.train), ("evaluation", data.eval)):
        if counts and counts.used:
            left_out = escaped(counts.unusable)
            yield f"{title} rows used: {escaped(counts.used)}; left out after tokenization: {left_out}"
    if known.unusable_rows:
        yield f"left out before: {escaped(_pairs(known.unusable_rows))}"
    if data.max_length:
        median = data.median_answer_length or 0
        yield f"at most {escaped(data.max_length)} tokens a row; the median answer has {median:g}"
    if data.hash:
        yield f"hash of the training rows as tokens: {escaped(data.hash)}"


def _data_sets(named: Any) -> list[str]:
    """The names of one data set, or of several with their weights."""
    found = []
    for one in named if isinstance(named, list) else [named]:
        weight = one.get("weight", 1) if isinstance(one, dict) else 1
        name = escaped(one.get("path") if isinstance(one, dict) else one)
        found.append(name if weight == 1 else f"{name} (weight {escaped(weight)})")
    return found


def _reference(known: RunCard) -> str:
    reference = known.reference
    lines = [escaped(reference.words)] if reference.words else []
    if reference.weights:
        lines.append(f"hash of its weights: {escaped(reference.weights)}")
        lines.append(f"hash of its weights, precision and scorer: {escaped(reference.identity)}")
    return _bullets([*lines, *filter(None, [reference.proof])])


def _evaluation(known: RunCard) -> str:
    start, end = known.evaluation_start, known.evaluation_end
    rows = [
        f"| {title} | {_value(start, name)} | {_value(end, name)} |"
        for name, title in _SHOWN.items()
        if name in start or name in end
    ]
    if not rows:
        return ""
    held = known.data.held_out
    head = f"On {escaped(held)} held-out rows; in brackets the 95 % interval.\n\n" if held else ""
    return head + "\n".join(["| | before | after |", "|---|---|---|", *rows])


def _value(metrics: Mapping[str, Any], name: str) -> str:
    if name not in metrics:
        return ""
    form = ".1%" if name in _SHARES else ".4f"
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = f" [{low:{form}}, {high:{form}}]" if low is not None and high is not None else ""
    return f"{metrics[name]:{form}}{interval}"


def _stages(known: RunCard) -> str:
    lines = []
    for number, stage in enumerate(known.stages, 1):
        against = f"; reference: {escaped(stage.reference.words)}" if stage.reference.words else ""
        words = f"{stage.name} ({stage.method or '?'}), in {stage.folder}: {stage.status or '?'}"
        lines.append(f"{number}. {escaped(words)}{against}")
    return "\n".join(lines)


def _use(is_adapter: bool, gives_rewards: bool) -> str:
    if gives_rewards:
        plain = _USE_REWARDS_ADAPTER if is_adapter else _USE_REWARDS
        again = f"With likelier, as what rewards answers:\n\n```text\nlikelier sample --reward model:{_PLACE} ...\n```"
    else:
        plain = _USE_ADAPTER if is_adapter else _USE_MODEL
        again = f"With likelier, beside its reference:\n\n```text\nlikelier chat {_PLACE}\n```"
    merge = f"As one folder for any other tool:\n\n```text\nlikelier merge {_PLACE} merged\n```"
    return "\n\n".join([plain, again, *([merge] if is_adapter else [])])
