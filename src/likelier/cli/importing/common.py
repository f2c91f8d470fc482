"""What the importers share: the account of a source's options, rules that translate one option, and conversions.

A `Draft` holds the source's values, our options as they come about, and notes. Every key of the source ends in one of
two places: among the translated ones, or in a note. `finish` sees to that, so nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from likelier.data.names import Named, distinct_names, short_name
from likelier.utils.errors import ConfigError

Kind = Literal["missing", "differs", "decided", "left out", "unknown", "default", "same", "off"]
Convert = Callable[["Draft", str, Any], Any]

# Placeholders that are refused when a run starts, since no such file or folder exists.
NO_MODEL = "./name-your-model"
NO_DATA = "./name-your-data.jsonl"
_OFF_WORDS = ("no", "none", "None", "null", "off", "false", "False", "0")


@dataclass(frozen=True)
class Note:
    """What a user must know about some options of the source (`keys`; none where it is about something absent)."""

    kind: Kind
    keys: tuple[str, ...]
    text: str


@dataclass
class Draft:
    """An import under way."""

    tool: str
    path: str
    values: Mapping[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    translated: set[str] = field(default_factory=set)

    def given(self, key: str) -> bool:
        """Whether the source says anything under this key; null says nothing."""
        return self.values.get(key) is not None

    def take(self, key: str, default: Any = None) -> Any:
        """The value, accounted for as translated; where there is none, the default."""
        if not self.given(key):
            self.off([key])
            return default
        self.translated.add(key)
        return self.values[key]

    def number(self, key: str, default: float | None = None) -> Any:
        """`take`, read as a number: YAML reads 5e-6 as text."""
        value = self.take(key, default)
        return None if value is None else as_number(self, key, value)

    def whole(self, key: str, default: int | None = None) -> Any:
        """`number` without a fraction."""
        value = self.number(key, default)
        if value is not None and value != int(value):
            raise self.error(f"{key}: {value!r} is not a whole number")
        return None if value is None else int(value)

    def put(self, name: str, value: Any) -> None:
        """Set an option of ours."""
        self.options[name] = value

    def put_default(self, name: str, value: Any) -> None:
        """Set an option of ours to what the source tool does where its file says nothing."""
        self.options[name] = value
        self.notes.append(Note("default", (), f"{name}: {value:g}" if isinstance(value, float) else f"{name}: {value}"))

    def put_or_default(self, name: str, value: Any, default: Any) -> Any:
        """Set an option of ours to a given value, else to the source tool's default. Gives what was set."""
        if value is None:
            self.put_default(name, default)
            return default
        self.put(name, value)
        return value

    def note(self, kind: Kind, keys: Iterable[str], text: str) -> None:
        """Say something about those of `keys` that the source has; keys that it lacks are left out of the note."""
        self.notes.append(Note(kind, tuple(key for key in keys if key in self.values), text))

    def off(self, keys: Iterable[str]) -> None:
        """Account for options that are unset or switched off in the source, or say there what is done here anyway."""
        for key in keys:
            if key in self.values and key not in self.accounted:
                value = self.values[key]
                unset = not value or value in _OFF_WORDS
                self.notes.append(Note("off", (key,), "") if unset else Note("same", (key,), str(value)))

    def error(self, text: str) -> ConfigError:
        """An error that names the file."""
        return ConfigError(f"{self.path}: {text}")

    @property
    def accounted(self) -> set[str]:
        """The keys of the source that were translated or are named in a note."""
        return self.translated.union(*(note.keys for note in self.notes))


@dataclass(frozen=True)
class Rule:
    """What becomes of one option of the source.

    `to` is an option of ours, or `trainer.NAME`, or empty; `convert` makes its value. `text` is said in a note of
    `kind` wherever the option is in use, that is, has another value than those of `off`. A rule that `refuses` stops
    the import there.
    """

    to: str = ""
    convert: Convert = lambda draft, key, value: value
    kind: Kind = "decided"
    text: str = ""
    off: tuple[Any, ...] = (False,)
    refuses: bool = False


def option(to: str, convert: Convert | None = None) -> Rule:
    """The same under another name."""
    return Rule(to, convert or Rule.convert, off=())


def trainer_option(name: str, convert: Convert | None = None) -> Rule:
    """One of transformers' own, which the `trainer` block takes."""
    return Rule(f"trainer.{name}", convert or Rule.convert, off=())


def decided(text: str, *, off: tuple[Any, ...] = (False,)) -> Rule:
    """Needs no option here."""
    return Rule(text=text, off=off)


def left_out(text: str, *, off: tuple[Any, ...] = (False,)) -> Rule:
    """Has no counterpart here."""
    return Rule(kind="left out", text=text, off=off)


def refused(text: str, *, off: tuple[Any, ...] = (False,)) -> Rule:
    """Makes another method of it, which is not here."""
    return Rule(text=text, off=off, refuses=True)


def each(rule: Rule, *keys: str) -> dict[str, Rule]:
    """The same rule for several options."""
    return dict.fromkeys(keys, rule)


def finish(draft: Draft, rules: Mapping[str, Rule]) -> None:
    """Apply the rules to every option that is not accounted for yet; name those that no rule knows."""
    for key, value in draft.values.items():
        if key in draft.accounted:
            continue
        rule = rules.get(key)
        if value is None:
            draft.off([key])
        elif rule is None:
            draft.note("unknown", [key], "")
        else:
            _apply(draft, key, value, rule)


def _apply(draft: Draft, key: str, value: Any, rule: Rule) -> None:
    if value in rule.off or (False in rule.off and value in ("", [], {})):
        draft.off([key])
    elif rule.refuses:
        raise draft.error(f"{key}: {value!r}: {rule.text}")
    elif rule.to:
        converted = rule.convert(draft, key, value)
        block, _, name = rule.to.rpartition(".")
        (draft.trainer if block else draft.options)[name] = converted
        draft.translated.add(key)
    if rule.text and key not in draft.accounted:
        draft.note(rule.kind, [key], rule.text)


def missing(draft: Draft, name: str, placeholder: str) -> str:
    """A value that stops the run, for something that the source does not say."""
    draft.note("missing", (), f"{name}: the source names none; put it in place of {placeholder}")
    return placeholder


# --- conversions ---------------------------------------------------------------------------------------------------


def as_number(draft: Draft, key: str, value: Any) -> float:
    """A number, also from text; whole numbers stay whole."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not isfinite(number):
        raise draft.error(f"{key}: {value!r} is not a number")
    return value if isinstance(value, int) else number


def as_names(draft: Draft, key: str, value: Any) -> str:
    """A name or a list of names, as text with commas."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(map(str, value))
    raise draft.error(f"{key}: {value!r} is neither a name nor a list of names")


def as_list(value: Any) -> list[Any]:
    """A list, from a list, nothing, or a single thing."""
    return value if isinstance(value, list) else [] if value is None else [value]


def as_block(draft: Draft, key: str, value: Any) -> dict[str, Any]:
    """A block of names and values."""
    if not isinstance(value, dict):
        raise draft.error(f"{key}: {value!r} must be a block of names and values")
    return value


def pick(draft: Draft, keys: Iterable[str]) -> tuple[str, Any]:
    """The first of several names of one option that is given, and its value; all of them are accounted for."""
    found = ("", None)
    for key in keys:
        if found[0] and draft.given(key):
            draft.note("differs", [key], f"{found[0]} says the same and was taken")
        elif draft.given(key):
            found = (key, draft.take(key))
        else:
            draft.off([key])
    return found


# --- parts that every tool has -------------------------------------------------------------------------------------


def batch_size(draft: Draft, *, each_device: int, accumulated: int, processes: int, keys: Iterable[str]) -> None:
    """Pairs of one optimizer step, from the three numbers that tools cut it into."""
    total = each_device * accumulated * processes
    draft.put("batch_size", total)
    per = "1 process is assumed, multiply by the number that ran" if processes == 1 else f"{processes} processes"
    draft.note(
        "differs",
        keys,
        f"batch_size {total} is the whole optimizer step: {each_device} a device x {accumulated} accumulated, {per}",
    )


def held_out(draft: Draft, key: str) -> None:
    """A share of the data held out for evaluation."""
    share = draft.number(key)
    if share and share < 1:
        draft.put("eval_fraction", share)
        draft.note("differs", [key], "eval_fraction is a share of the prompts, not of the rows")
    elif share:
        draft.note("left out", [key], "eval_fraction is a share of the prompts, not a number of rows")


def own_template(draft: Draft, key: str, name: str) -> None:
    """A chat template that a tool brings along under a name."""
    text = f"{name}: the model's own template is taken; if it is another one, name a file in chat_template"
    draft.note("differs", [key], text)


_SILENT = {"split": (None, "", "train")}  # the split train is the one that is taken anyway


def data_sets(draft: Draft, entries: list[dict[str, Any]]) -> Any:
    """The value of `data`: a bare path where that says it all, else a list of blocks with names that differ. Without
    any, one that stops the run.
    """
    if not entries:
        return missing(draft, "data", NO_DATA)
    for entry in entries:
        if not isinstance(entry.get("path"), str) or not entry["path"]:
            raise draft.error(f"a data set has path {entry.get('path')!r}; it must be a file, a folder or a hub id")
    entries = [
        {name: value for name, value in entry.items() if value not in _SILENT.get(name, (None, ""))}
        for entry in entries
    ]
    if len(entries) == 1 and set(entries[0]) == {"path"}:
        return entries[0]["path"]
    names = distinct_names([Named(entry["path"], entry.get("subset") or entry.get("split")) for entry in entries])
    for number, (entry, name) in enumerate(zip(entries, names, strict=True)):
        if names.count(name) > 1:  # the same rows twice, which only a number tells apart
            entry.setdefault("name", f"{name}-{number + 1}")
        elif name != short_name(entry["path"]):
            entry.setdefault("name", name)
    return entries


def is_file(path: Any) -> bool:
    """Whether a data set's path is meant as a file, on which a split or a revision has no effect."""
    endings = (".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".gz")
    return isinstance(path, str) and path.endswith(endings)
