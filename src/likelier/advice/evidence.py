"""What is known of the data before a method is chosen: counts, noise and findings, from the audit of each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from likelier.data.audit import Audit, audit_records
from likelier.data.columns import Columns
from likelier.data.load import load_preferences
from likelier.data.records import Labelled, Pair, Record
from likelier.utils.console import say
from likelier.utils.errors import ConfigError

FEW_JUDGED_TWICE = 30  # cases: below, a flip rate from repeated judgements says nothing
_TOSS = 0.45  # a flip rate from here on says that the repeated cases are the disputed ones, not that all are


@dataclass(frozen=True)
class DataFile:
    """A file that holds pairs or labels, with its records and its audit."""

    path: str
    kind: str
    records: Sequence[Record]
    audit: Audit
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def account(self) -> str:
        """Rows that were read, those that can be used, and the others by reason; blank ones are among them."""
        out = ", ".join(f"{count:,} x {reason}" for reason, count in self.left_out.items())
        read = len(self.records) + sum(self.left_out.values())
        return f"{self.path}: {read:,} rows, {len(self.records):,} can be used" + (f"; left out: {out}" if out else "")


@dataclass(frozen=True)
class Evidence:
    """All files together: `pairs` are those that a majority decided, `flip_rate` the chance that one of them is the
    wrong way round (None where the data cannot tell), `flip_words` how it was estimated. `columns` are those that
    were named to read the files. `undecided` are pairs that votes or shares leave open.
    """

    files: tuple[DataFile, ...]
    pairs: int
    desirable: int
    undesirable: int
    flip_rate: float | None
    flip_words: str
    columns: Columns | None = None
    undecided: int = 0

    @property
    def labels(self) -> int:
        """Rows with a thumb up or down."""
        return self.desirable + self.undesirable

    def of_kind(self, kind: str) -> list[DataFile]:
        """The files of one kind."""
        return [file for file in self.files if file.kind == kind]

    def lines(self) -> list[str]:
        """The evidence in words, the audit's findings by name."""
        counts = {"pairs": f"{self.pairs:,} pairs", "labels": f"{self.labels:,} labels ({self.desirable:,} desirable)"}
        found = [", ".join(counts[kind] for kind in counts if self.of_kind(kind)), self.flip_words]
        if self.undecided:
            found.append(f"{self.undecided:,} pairs are ties: only soft labels (use_votes: soft) train on them")
        for file in self.files:
            found.append(file.account)
            found += [
                f"{file.path}: {one.severity}: {one.name}: {one.summary}"
                for one in file.audit.findings
                if one.severity != "info"
            ]
        return found

    def finding(self, name: str) -> Any:
        """The first finding of this name in any file."""
        found = (file.audit.finding(name) for file in self.files)
        return next((one for one in found if one is not None), None)


def gather(paths: Sequence[str], columns: Columns | None = None, *, merge_votes: bool = False) -> Evidence:
    """Read and audit the files, `columns` and `merge_votes` as in a run.

    Raises:
        ConfigError: a file holds both kinds, or no judgements at all.
        DataError: a file cannot be read.
    """
    if len(set(paths)) < len(paths):
        raise ConfigError(f"a file was named twice: {', '.join(paths)}; name each once")
    return replace(weigh([_read(path, columns, merge_votes) for path in paths]), columns=columns)


def _read(path: str, columns: Columns | None, merge_votes: bool) -> DataFile:
    data = load_preferences(path, columns=columns, merge_votes=merge_votes)
    kinds = {type(record) for record in data.train}
    if not kinds <= {Pair, Labelled}:
        raise ConfigError(f"{path} holds answers without a judgement: there is no preference in it; use --method sft")
    if len(kinds) > 1:
        raise ConfigError(f"{path} holds pairs and labels in one file; put them into two, so that each has its stage")
    audit = audit_records(data.train, data.unusable, name=path, format=data.format)
    say(f"audit of {path}: {audit.verdict}")
    return DataFile(path, data.kind, data.train, audit, data.unusable.counts())


def weigh(files: Sequence[DataFile]) -> Evidence:
    """Count, and take the noise from the file of pairs that tells most of it (from labels where there are no pairs)."""
    pairs = sum(isinstance(record, Pair) and record.is_decided for file in files for record in file.records)
    labels = [record.desirable for file in files for record in file.records if isinstance(record, Labelled)]
    telling = [file for file in files if file.kind == "pairs"] or list(files)
    most = max(telling, key=lambda file: file.audit.statistics.get("noise", {}).get("judged_twice", 0))
    rate, words = flip_rate_of(most.audit.statistics.get("noise"))
    ties = sum(isinstance(record, Pair) and not record.is_decided for file in files for record in file.records)
    return Evidence(tuple(files), pairs, sum(labels), len(labels) - sum(labels), rate, words, undecided=ties)


def flip_rate_of(noise: Any) -> tuple[float | None, str]:
    """(chance that a label which is trained on is wrong, how it was estimated) from an audit's noise statistics."""
    if noise is None or noise["judged_twice"] < FEW_JUDGED_TWICE:
        seen = 0 if noise is None else noise["judged_twice"]
        return None, f"flip rate: unknown; {seen} cases were judged more than once, fewer than {FEW_JUDGED_TWICE}"
    rate, cases = noise["flip_rate"], f"{noise['judged_twice']:,} cases judged more than once"
    if noise["from"] == "votes":
        wrong = 1 - noise["ceilings"]["of_majority"]
        return wrong, (
            f"flip rate: {wrong:.1%} of the majorities that are trained on; a single vote is wrong with chance "
            f"{rate:.1%} ({cases})"
        )
    if rate < _TOSS:
        return rate, f"flip rate: {rate:.1%} ({cases})"
    least = 1 - noise["ceilings"]["of_rows"]
    return least, f"flip rate: at least {least:.1%}: so many rows contradict others ({cases}, nearly all both ways)"
