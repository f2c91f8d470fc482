"""A column map: which column of a file is what, and what its values mean. Given in YAML or as flags, never as code.

Every role that is not named is looked for under its own name, so a map holds only what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, get_args

from likelier.utils.errors import ConfigError, nearest

PairsFrom = Literal["all", "best", "adjacent"]
RanksBest = Literal["smallest", "largest", "order"]
ScoresBest = Literal["largest", "smallest"]
PromptIs = Literal["system", "context", "unused"]


def _role(text: str, *, many: bool = False) -> Any:
    """A field that names a column, or with `many` several."""
    return field(default=None, metadata={"help": text, "kind": "many" if many else "one"})


def _setting(text: str, kind: type) -> Any:
    """A field that says how values are read."""
    return field(default=None, metadata={"help": text, "kind": kind})


@dataclass(frozen=True)
class Columns:
    """Names of columns by their role, and what coded values mean. `a.b` names `b` inside the objects of column `a`.

    `prompt` may also be several columns, joined by line breaks. Every role of `TEXT_ROLES` may be a template such as
    `"{instruction}\\n{input}"`, of which a line whose columns are all empty falls away. A value in quotation marks
    (`'"Write a review."'`) is no column but the same value for every row.
    """

    prompt: str | tuple[str, ...] | None = _role("the prompt: a column, several, or a template", many=True)
    system: str | None = _role("a system prompt, which makes the row a conversation")
    tools: str | None = _role("the tools that the chat template is given")
    chosen: str | None = _role("the preferred answer")
    rejected: str | None = _role("the other answer")
    first: str | None = _role("one answer, which `winner` compares")
    second: str | None = _role("the other answer, which `winner` compares")
    winner: str | tuple[str, ...] | None = _role("who is better; several columns are several annotators", many=True)
    votes: str | tuple[str, ...] | None = _role(
        "counts of votes for `first`, for `second` and (if there are any) ties: a list column, or a column each",
        many=True,
    )
    share: str | tuple[str, ...] | None = _role(
        "instead of `winner`: how far the answer `first` is preferred, as a number on `scale`", many=True
    )
    answers: str | tuple[str, ...] | None = _role("several answers: a list column, or a column each", many=True)
    ranks: str | tuple[str, ...] | None = _role(
        "a rank for each of `answers`; `ranks_best` says which is the best", many=True
    )
    scores: str | tuple[str, ...] | None = _role(
        "a score for each of `answers`; the largest is the best, unless `scores_best` says otherwise", many=True
    )
    judgements: str | tuple[str, ...] | None = _role(
        "the winner for each pair of `answers`, in the order 1v2, 1v3, ..., 2v3, ...", many=True
    )
    completion: str | None = _role("a single answer")
    messages: str | None = _role("a conversation whose last turn is the answer")
    label: str | tuple[str, ...] | None = _role(
        "whether the single answer is good, or each of `answers`, a column each", many=True
    )
    acceptable: str | tuple[str, ...] | None = _role(
        "whether each of two compared answers is acceptable, in their order; else it is never the preferred one",
        many=True,
    )
    tree: str | None = _role("a whole conversation tree: messages with text, role, replies and rank or score")
    id: str | None = _role("the name of a message, in a tree whose messages are rows")
    parent: str | None = _role("the `id` of the message that this one replies to")
    text: str | None = _role("the text of such a message; as `turns.said`, of each message in the column `turns`")
    role: str | None = _role("who wrote such a message; as `turns.who`, of each message in the column `turns`")
    rank: str | None = _role("the rank of such a message among its siblings; `ranks_best` says which is the best")
    score: str | None = _role(
        "the score of such a message among its siblings; the largest is the best, unless `scores_best` says otherwise"
    )
    judge: str | None = _role("who judged; rows of several judges can be merged to votes (merge_votes)")
    weight: str | None = _role("a weight of the row, used with use_weights")
    margin: str | None = _role("by how much the chosen answer is better, used with use_margins")
    score_chosen: str | None = _role("a score of the chosen answer")
    score_rejected: str | None = _role("a score of the rejected answer")
    score_first: str | None = _role("a score of the answer `first`")
    score_second: str | None = _role("a score of the answer `second`")

    records: str | None = _setting(
        "where the rows are: the path of a JSON file's list (export.sessions), an XML file's element that is a row "
        "(catalog/review), a workbook's sheet",
        str,
    )
    winner_coding: str | None = _setting(
        "the values that mean first, second and tie, such as 1/2/0 or a/b/tie|both; or the first answer's share for "
        "each, such as much better=0.9/slightly better=0.6; or share, share-second, positive-first, negative-first",
        str,
    )
    scale: str | None = _setting(
        "the ends of a scale of `share` or `winner`: the number that is wholly for `first`, then the one for `second`, "
        "such as 1..2",
        str,
    )
    margin_coding: str | None = _setting("what a `margin` in words is, such as slightly better=1/much better=3", str)
    no_verdict: str | tuple[str, ...] | None = _setting(
        "the values of `winner`, `judgements` or `label` that are no verdict, such as ?,unsure: such rows are left out",
        tuple,
    )
    label_coding: str | None = _setting("the values that mean good, bad and neither, such as up/down", str)
    role_coding: str | None = _setting(
        "what the file calls the user, the assistant, the system and tools, such as customer/agent|bot", str
    )
    threshold: float | None = _setting("labels are numbers, and good from this one on", float)
    pairs_from: PairsFrom | None = _setting(
        "which pairs a ranking gives: all (default), best against the rest, adjacent", str
    )
    ranks_best: RanksBest | None = _setting(
        "which rank is the best: smallest, largest, or order (not ranks, but the answers' numbers, the best first)", str
    )
    scores_best: ScoresBest | None = _setting("which score is the best: largest (default), smallest", str)
    prompt_is: PromptIs | None = _setting(
        "what a text in `prompt` is beside whole conversations that do not say it: system (a system turn), context "
        "(text in front of the first user's turn), unused",
        str,
    )
    chat: bool | None = _setting("whether text becomes a user's and an assistant's turn", bool)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None:
                object.__setattr__(self, item.name, _checked(item, value))
        for name, kind in _CHOICES.items():
            value = getattr(self, name)
            if value not in (None, *get_args(kind)):
                raise ConfigError(f"columns: {name}={value!r} is not one of: {', '.join(get_args(kind))}")
        if self.threshold is not None and self.label_coding is not None:
            raise ConfigError("columns: threshold and label_coding were both given; keep one of them")
        for one, other in (("share", "winner"), ("votes", "winner"), ("scale", "winner_coding")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ConfigError(f"columns: {one} and {other} were both given; keep one of them")

    @property
    def given(self) -> dict[str, Any]:
        """What the map says, by name."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}

    @property
    def roles(self) -> dict[str, Any]:
        """The roles that it names columns for."""
        return {name: value for name, value in self.given.items() if name in ROLES}

    @property
    def settings(self) -> set[str]:
        """The settings that it gives, but for those that say where rows are and what their messages call things."""
        return self.given.keys() - ROLES - {"records", "role_coding"}


TEXT_ROLES = frozenset({"prompt", "system", "chosen", "rejected", "first", "second", "answers", "completion"})
_CHOICES = {"pairs_from": PairsFrom, "ranks_best": RanksBest, "scores_best": ScoresBest, "prompt_is": PromptIs}
_FIELDS: dict[str, Field[Any]] = {item.name: item for item in fields(Columns)}
ROLES = frozenset(name for name, item in _FIELDS.items() if item.metadata["kind"] in ("one", "many"))


def _checked(item: Field[Any], value: Any) -> Any:
    """The value as the field's type. Raises `ConfigError` naming both."""
    kind = item.metadata["kind"]
    if kind == "many" and isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return tuple(value)
    if kind in ("one", "many"):
        if isinstance(value, str) and value:
            return value
        wanted = "a column's name" if kind == "one" else "a column's name or a list of them"
        raise ConfigError(f"columns: {item.name}={value!r}; give {wanted}")
    return _setting_value(item.name, value, kind)


def _setting_value(name: str, value: Any, kind: type) -> Any:
    if kind is tuple:
        return tuple(map(str, value)) if isinstance(value, (list, tuple)) else tuple(str(value).split(","))
    if kind is bool:
        words = {"true": True, "false": False, "yes": True, "no": False}
        found = words.get(str(value).lower())
        if found is None:
            raise ConfigError(f"columns: {name}={value!r} is neither true nor false")
        return found
    if kind is float:
        try:
            return float("x" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"columns: {name}={value!r} is not a number") from None
    if isinstance(value, Mapping):  # YAML: a block of values and numbers
        return "/".join(f"{key}={number}" for key, number in value.items())
    return str(value)


COLUMNS_HELP = "which column is what, such as prompt=task,input chosen=good rejected=bad (see docs/data.md)"


EVAL_DATA_HELP = "held-out preferences, named like data"
EVAL_FRACTION_HELP = "hold out this share of the prompts instead"
MERGE_VOTES_HELP = "make one row with votes of rows that judge the same answers to the same prompt (see docs/data.md)"


def columns_of(value: Any) -> Columns | None:
    """A column map from YAML (a block) or from flags (`name=column` words).

    Raises `ConfigError` for a name that is unknown, with the nearest known one, or for a value that cannot be.
    """
    if value is None or isinstance(value, Columns):
        return value
    if isinstance(value, (list, tuple)):
        value = _from_words(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"columns: must be a block of roles and column names, found {type(value).__name__}")
    named = {str(name).replace("-", "_"): what for name, what in value.items()}
    for name in named:
        if name not in _FIELDS:
            close = nearest(name, _FIELDS)
            raise ConfigError(f"columns: unknown role {name!r}{close}; known: {', '.join(_FIELDS)}")
    return Columns(**named)


def _from_words(words: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = str(word).partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not value:
            raise ConfigError(f"columns: {word!r} is not ROLE=COLUMN, such as prompt=question or prompt=task,input")
        if name in found:
            raise ConfigError(f"columns: {name} was given twice; keep one")
        found[name] = _word_value(name, value)
    return found


def constant(name: str) -> str | None:
    """What a name in quotation marks says for every row; None for the name of a column."""
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] == '"' else None


def _word_value(name: str, value: str) -> Any:
    """Several columns are separated by commas, unless the text is a template, a constant or a sentence."""
    if name in TEXT_ROLES and ("{" in value or constant(value) is not None or _is_sentence(value)):
        return value.replace("\\n", "\n")
    if name not in _FIELDS or _FIELDS[name].metadata["kind"] != "many" or constant(value) is not None:
        return value
    return tuple(part.strip() for part in value.split(",")) if "," in value else value


def _is_sentence(value: str) -> bool:
    return " " in value and value.endswith((".", "?", "!", ":"))
