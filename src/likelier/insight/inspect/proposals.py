"""Rows that are worth a look: those that the last evaluation found telling, and a few that were trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from likelier.data.load import PreferenceData
from likelier.data.records import Content, Record, answer_text, answers_of
from likelier.insight.inspect.subject import row_words
from likelier.runs.reader import read_run
from likelier.scoring.restore import card_of, final_model, recorded_data
from likelier.utils.shell import quoted


class Proposal(NamedTuple):
    """The words that name a row to `likelier inspect RUN`, and why it is worth a look."""

    words: str
    why: str


def propose_rows(run: str) -> list[Proposal]:
    """Telling held-out pairs first, then rows that were trained on. Raises `LikelierError` as `recorded_data` does."""
    name = final_model(run)
    card = card_of(name)
    data = recorded_data(card, run)
    split_of_one = card.run.eval_data is None
    return [*_telling(run, data, split_of_one), *_trained(data)]


def proposed(run: str, proposals: Sequence[Proposal]) -> str:
    """The proposals, as a person types them."""
    lines = [(f"likelier inspect {quoted(run)} {one.words}", one.why) for one in proposals]
    width = max((len(line) for line, _ in lines), default=0)
    listing = "\n".join(f"  {line:<{width}}  {why}" for line, why in lines)
    return f"name a row with --row N, or type one with --prompt, --chosen and --rejected; rows worth a look:\n{listing}"


def _telling(run: str, data: PreferenceData, split_of_one: bool) -> Iterator[Proposal]:
    held_out: dict[str, dict[str, Record]] = {}
    for one in data.test:
        held_out.setdefault(_without_folder(str(one.source)), {})[str(one.source)] = one
    for pair in read_run(run).detail("end").pairs:
        alike = held_out.get(_without_folder(pair.source), {})
        record = next(iter(alike.values())) if len(alike) == 1 else alike.get(pair.source)
        if record is not None:
            words = f"--row {row_words(record.source)}{'' if split_of_one else ' --held-out'}"
            yield Proposal(words, f"held out: {pair.why}, margin {pair.margin:+.3g}")


def _without_folder(place: str) -> str:
    """A place by its file's own name: the card keeps whole paths, evaluations what was typed."""
    return place.rpartition("/")[2]


def _trained(data: PreferenceData) -> Iterator[Proposal]:
    """The first row, and those with the longest and the shortest answers."""
    if not data.train:
        return
    by_length = sorted(data.train, key=lambda one: sum(map(_length, answers_of(one))))
    said = {"the first row": data.train[0], "the longest answers": by_length[-1], "the shortest answers": by_length[0]}
    for why, record in said.items():
        yield Proposal(f"--row {row_words(record.source)}", f"trained on: {why}")


def _length(answer: Content) -> int:
    return len(answer_text(answer) or getattr(answer, "ids", ()))
