"""Advice that fits the run: nothing that it has already, nothing that pulls the other way than a graver verdict does.

What a method does not take, the checks do not propose (`takes`, `may_become`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from likelier.insight.diagnose.facts import Facts
from likelier.insight.verdicts import Verdict

_MENTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)?)(?: +([\w.,+-]*\w))?")
_OTHER_COMMAND = re.compile(r"likelier (?!train\b)[a-z-]+ ")
_STEPS = "steps"
_WORDS = {"more steps": 1, "fewer steps": -1, "one epoch": -1}
_OF_STEPS = ("epochs", "max_steps")


def fitting(facts: Facts, verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts, the worst first, each with the advice that fits the run and those before it."""
    pulled: dict[str, int] = {}
    found = []
    for one in verdicts:
        kept = [words for words in one.advice if not has_already(facts, words) and _agrees(facts, words, pulled)]
        found.append(replace(one, advice=tuple(kept)))
    return found


def mentions(words: str) -> list[tuple[str, str]]:
    """The options of a run that an advice names, with underscores, each with the word behind it, empty without one."""
    if _OTHER_COMMAND.search(words):
        return []
    return [(name.replace("-", "_"), value.rstrip(",")) for name, value in _MENTION.findall(words)]


def takes(facts: Facts, hyperparameter: str) -> bool:
    """Whether the run's method has it; beside soft labels the weight of a likelihood term has no place."""
    if hyperparameter == "nll_weight" and facts.card.options.use_votes == "soft":
        return False
    return hyperparameter in facts.card.hyperparameters


def may_become(facts: Facts, method: str) -> bool:
    """Whether the run could be one of this method, which is for pairs: its own is another one for pairs, and the
    signals that it uses are some that the other one has a place for.
    """
    return facts.run.method != method and facts.wants_pairs and keeps_signals(facts, method)


def keeps_signals(facts: Facts, method: str) -> bool:
    """Whether a method has a place for the margins and soft labels that the run uses."""
    margins, soft = facts.card.options.use_margins is not None, facts.card.options.use_votes == "soft"
    return not (margins or soft) or has_place(method, margins=margins, soft=soft)


def has_place(method: str, *, margins: bool = False, soft: bool = False) -> bool:
    """Whether a method has a place for margins and soft labels."""
    from likelier.objectives import METHODS  # brings torch, which a reader does without where it can

    kind = METHODS.get(method)
    return kind is not None and (kind.takes_margins or not margins) and (kind.takes_soft_labels or not soft)


def has_already(facts: Facts, words: str) -> bool:
    """Whether the run has an option with the value that is proposed."""
    return any(value and _alike(_own(facts, name), value) for name, value in mentions(words))


def _own(facts: Facts, name: str) -> Any:
    """What a run has for an option, as far as it recorded that; None where it does not say."""
    card = facts.card
    if name == "learning_rate":
        return facts.peak_rate
    named = (card.block(name) for name in ("options", "run", "online", "fingerprint"))
    blocks = (card.hyperparameters, card.lora, *named)
    return next((block[name] for block in blocks if block.get(name) is not None), None)


def _alike(own: Any, value: str) -> bool:
    number = _number(value)
    return own is not None and (str(own) == value if number is None else _number(own) == number)


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


# --- directions ----------------------------------------------------------------------------------------------------


def _agrees(facts: Facts, words: str, pulled: dict[str, int]) -> bool:
    """Whether nothing before pulls the other way; remembers where this one pulls."""
    pulls = dict(_pulls(facts, words))
    if any(pulled.get(name, way) != way for name, way in pulls.items()):
        return False
    pulled.update(pulls)
    return True


def _pulls(facts: Facts, words: str) -> Iterator[tuple[str, int]]:
    """What an advice makes larger (1) or smaller (-1)."""
    yield from ((_STEPS, way) for phrase, way in _WORDS.items() if phrase in words)
    for name, value in mentions(words):
        wanted, own = _number(value), _number(_own_of_steps(facts, name))
        if wanted is not None and own is not None and wanted != own:
            yield _STEPS if name in _OF_STEPS else name, 1 if wanted > own else -1


def _own_of_steps(facts: Facts, name: str) -> Any:
    """As `_own`; of how long it trains what it did."""
    if name == "max_steps":
        return facts.steps
    if name == "epochs":
        return facts.epochs
    return _own(facts, name)
