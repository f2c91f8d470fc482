"""Rows that were left out: what is trained on is then not the data that one believes to train on."""

from __future__ import annotations

from collections.abc import Iterator

from likelier.data.records import UNJUDGED
from likelier.insight.diagnose.catalogue import verdict
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.words import percent
from likelier.insight.verdicts import Verdict

ROWS = "rows-left-out"
LARGE = 0.1  # of the rows: a tenth is no remainder, and rows that fall out are seldom like the others
MOST_REASONS = 4  # named
USUAL_LIMIT = 2048  # tokens: --max-length where nothing is given and the model's context is no shorter
TOO_LONG = "over-max-length"


def left_out(facts: Facts) -> Iterator[Verdict]:
    """A large share of the training rows, or of the held-out rows, that could not be used."""
    parts = (("training rows", *_of_training(facts)), ("held-out rows", *_of_held_out(facts)))
    large = [(name, out, rows) for name, out, rows in parts if rows and out / rows >= LARGE]
    if not large:
        return
    counts = [(f"{name} left out", f"{out:,} of {rows:,}: {percent(out / rows)}") for name, out, rows in large]
    name, out, rows = large[0]
    title = f"{percent(round(out / rows, 2))} of the {name} were left out"
    yield verdict(ROWS, "warning", [*counts, *_reasons(facts)], _advice(facts), title=title)


def _of_training(facts: Facts) -> tuple[int, int]:
    """How many rows with a verdict fell out, of how many: unreadable ones, and those that do not fit as tokens."""
    train = facts.card.data.train
    unread = sum(count for reason, count in facts.card.unusable_rows.items() if reason not in UNJUDGED)
    out = unread + (train.unusable if train else 0)
    return out, out + (train.used if train else 0)


def _of_held_out(facts: Facts) -> tuple[int, int]:
    """As `_of_training`; of a tie no answer is the right one, so that no accuracy could be measured on it."""
    held = facts.card.data.eval
    out = held.unusable - held.undecided if held else 0
    return (out, out + held.used) if held else (0, 0)


def _reasons(facts: Facts) -> Iterator[tuple[str, str]]:
    """The commonest reasons, by the names that the audit has for them."""
    found = {one.name: one.count for one in facts.run.audit.findings if one.count}
    for name, count in sorted((found or facts.card.unusable_rows).items(), key=lambda one: -one[1])[:MOST_REASONS]:
        yield name, f"{count:,} rows, held out or not"


def _advice(facts: Facts) -> Iterator[str | None]:
    too_long = any(one.name == TOO_LONG for one in facts.run.audit.findings)
    limit, given = facts.card.data.max_length, facts.card.block("options").get("max_length")
    if too_long and limit and (given or limit >= USUAL_LIMIT):
        yield f"--max-length {2 * limit}, as far as memory and the model's context allow"
    if too_long and facts.card.options.truncation == "drop":
        yield "--truncation cut-prompt-left keeps long rows and cuts the beginning of their prompts"
    yield "likelier audit DATA --model M lists the rows that fall out, why, and what mends each kind"
