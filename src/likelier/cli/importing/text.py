"""Files at both ends: reading a configuration of another tool, and writing ours with its notes as comments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from likelier.cli.importing.common import Draft, Kind, Note
from likelier.training.config import read_yaml
from likelier.utils.console import one_line
from likelier.utils.errors import ConfigError
from likelier.utils.strict_json import BrokenJson, parse_json
from likelier.utils.yaml_text import as_yaml, comment

_WIDTH = 100

# Headings in the order in which notes are shown.
_HEADINGS: dict[Kind, str] = {
    "missing": "To be filled in before this can run:",
    "differs": "Different here:",
    "left out": "Without a counterpart here, left out:",
    "unknown": "Unknown to the importer, left out:",
    "decided": "Needs no option here:",
    "default": "Defaults of {tool}, written out because they differ here or matter:",
    "same": "The same here, without an option:",
    "off": "Unset or switched off there, as here:",
}

# The order of our options in the file; what is not named here comes after, before the trainer block.
_ORDER = (
    *("method", "model", "data", "output", "reference", "eval_data", "eval_fraction", "dtype", "push_to_hub"),
    *("chat_template", "chat_template_kwargs", "system_prompt"),
    *("beta", "tau", "length_normalize", "gamma_beta_ratio", "allow_small_beta", "label_smoothing"),
    *("flip_probability", "desirable_weight", "undesirable_weight", "nll_weight", "center_weight"),
    *("answers_per_prompt", "preference_loss", "advantage", "aggregation", "clip_low", "clip_high"),
    *("clip_dual", "weight_high", "kl_coefficient", "gamma", "gae_lambda", "value_clip", "value_coefficient"),
    *(
        "critic_learning_rate",
        "critic_warmup",
        "score_clip",
        "updates_per_rollout",
        "reward",
        "reward_weights",
        "combine",
    ),
    *("max_new_tokens", "temperature", "truncated", "missing_eos_penalty"),
    *("lora_r", "lora_alpha", "lora_dropout", "lora_targets", "load_in_4bit"),
    *("batch_size", "learning_rate", "scheduler", "warmup", "max_steps", "epochs", "order", "max_length", "truncation"),
)

_CLEARLY = 2  # times as many names of its own as another tool has in a file tell whose that is

# Files that make a configuration instead of being one, and how one is got out of them.
_DUMP = (
    ", whose configuration is there only while it runs. Where it has made its DPOConfig, KTOConfig, RewardConfig, "
    "GRPOConfig, PPOConfig or TrainingArguments (here: args), add the line\n"
    '    open("config.json", "w").write(args.to_json_string())\n'
    "run it up to there, and import config.json. Model, data and LoRA are no part of it: name them in the run file"
)
_PROGRAMS = {
    ".py": f"Python script{_DUMP}",
    ".ipynb": f"notebook{_DUMP}",
    ".sh": "shell script; write the options of its command into a YAML file, `name: value` a line without the dashes, "
    "and import that",
}


_SHARED = {"center_rewards_coefficient", "reward_model"}  # of Axolotl, and of TRL or verl under the same name


def read_source(path: str) -> dict[str, Any]:
    """The options of a YAML or JSON file. Raises `ConfigError` with the line where it cannot be read."""
    ending = Path(path).suffix.lower()
    if ending in _PROGRAMS:
        raise ConfigError(f"{path} is a {_PROGRAMS[ending]}")
    return read_json(Path(path)) if ending == ".json" else read_yaml(path)


def read_json(path: Path) -> dict[str, Any]:
    """The names and values of a JSON file. Raises `ConfigError` with the line where it cannot be read."""
    try:
        loaded = parse_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except BrokenJson as error:
        place = path if error.line is None else f"{path}:{error.line}"
        column = "" if error.column is None else f" at column {error.column}"
        raise ConfigError(f"{place}: broken JSON{column}: {error.reason}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected names and values, found {type(loaded).__name__}")
    return loaded


def recognise(path: str, values: Mapping[str, Any], marks: Mapping[str, frozenset[str]]) -> str:
    """The tool whose own option names the file has, or far more of them than of any other's. Raises `ConfigError` where
    that is none, or several.
    """
    if {"method", "model"} <= values.keys():
        raise ConfigError(f"{path} has the keys method and model: it is a run file of likelier already")
    given = {name for name, value in values.items() if value is not None}
    found = {tool: sorted(own & given) for tool, own in marks.items()}
    found = {tool: keys for tool, keys in found.items() if keys}
    found = {tool: keys for tool, keys in found.items() if set(keys) - _SHARED} or found
    first, *others = sorted(found, key=lambda tool: len(found[tool]), reverse=True) or [""]
    if found and all(len(found[first]) >= _CLEARLY * len(found[tool]) for tool in others):
        return first
    if not found:
        raise ConfigError(
            f"{path} has no option that tells whose configuration it is; name the tool with --from ({', '.join(marks)})"
        )
    named = "; ".join(f"{tool}: {', '.join(keys[:4])}" for tool, keys in found.items())
    raise ConfigError(f"{path} has options of several tools ({named}); name the right one with --from")


def render(draft: Draft) -> str:
    """Our YAML: the notes as a block of comments, then the options."""
    lines = [f"Imported from {draft.tool}, {Path(draft.path).name}. Check what is said here before you run it."]
    for line in note_lines(draft):
        lines += [""] * (not line.startswith(" ")) + [line]
    comments = "\n".join(map(comment, lines))
    return f"{comments}\n\n{_options(draft)}"


def _options(draft: Draft) -> str:
    places = {name: place for place, name in enumerate(_ORDER)}
    options = dict(sorted(draft.options.items(), key=lambda item: places.get(item[0], len(places))))
    if draft.trainer:
        options["trainer"] = draft.trainer
    return as_yaml(options, _WIDTH)


def note_lines(draft: Draft) -> Iterator[str]:
    """The notes under their headings, wrapped; a heading has no indent."""
    for kind, heading in _HEADINGS.items():
        texts = _joined([note for note in draft.notes if note.kind == kind])
        if texts:
            yield heading.format(tool=draft.tool)
        for text in texts:
            yield from textwrap.wrap(
                one_line(text), _WIDTH - 2, initial_indent="  ", subsequent_indent="    ", break_long_words=False
            )


def _joined(notes: list[Note]) -> list[str]:
    """One text for all notes that say the same of different options."""
    keys: dict[str, list[str]] = {}
    for note in notes:
        keys.setdefault(note.text, []).extend(note.keys)
    wordless = [note.text for note in notes if not note.keys]
    if notes and notes[0].kind == "default":
        return [", ".join(dict.fromkeys(wordless))]
    named = [(", ".join(dict.fromkeys(names)), text) for text, names in keys.items()]
    return [": ".join(part for part in pair if part) for pair in named]
