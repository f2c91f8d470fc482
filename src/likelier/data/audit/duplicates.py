"""Rows that stand in the file again, word for word or nearly so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from tempfile import TemporaryFile

import numpy as np

from likelier.data import views
from likelier.data.audit.facts import UNDECIDED, first_of_equal, text_of
from likelier.data.audit.findings import Finding
from likelier.data.audit.material import Material
from likelier.data.audit.shingles import common_share, shingles, word_pairs
from likelier.data.record_table import folder_of_rows
from likelier.data.records import Labelled, Pair, answers_of
from likelier.data.views import by_numbers

SIMILAR = 0.8
BANDS, ROWS_A_BAND = 20, 6
_BLOCK = 250
_SEED = 42
_TRIALS = 8
_TOLD_FROM = 10  # answers judged in several rows


def exact_duplicates(material: Material) -> list[Finding]:
    """Rows with the prompt, the answers and the label of an earlier row, as duplicates or as further judgements of the
    same; the first of each is not counted.
    """
    first = _first_of_each(material)
    again = np.flatnonzero(first != np.arange(len(first))).tolist()
    repeats = list(zip(again, first[again].tolist(), strict=True))
    agreeing = set(_further_judgements(material, first))
    copies = [one for one in repeats if one[0] not in agreeing]
    others = [one for one in repeats if one[0] in agreeing]
    return [
        *_repeats(material, "exact-duplicates", copies, "rows that repeat an earlier one word for word"),
        *_repeats(material, "repeated-judgements", others, "rows in which somebody else judges as in an earlier one"),
    ]


def _further_judgements(material: Material, first: np.ndarray) -> Iterator[int]:
    """Rows that agree with an earlier one and are no copies of it: by another judge, out of another file, or in a file
    that is made of repeated judgements.
    """
    heard: dict[int, set[tuple[str, str]]] = {}
    repeated = _is_judged_repeatedly(material)
    several = np.flatnonzero(np.bincount(first, minlength=len(first))[first] > 1).tolist()
    for number, record in zip(several, by_numbers(material.records, several), strict=True):
        who = (record.source.file, getattr(record, "judge", ""))
        before = heard.setdefault(int(first[number]), set())
        if isinstance(record, (Pair, Labelled)) and before and (who not in before or (repeated and not who[1])):
            yield number
        before.add(who)


def _is_judged_repeatedly(material: Material) -> bool:
    """Whether most answers are judged in several rows, and some of these disagree, which copies never do. Of a few rows
    that cannot be told.
    """
    cases = np.concatenate([material.pair_cases.counts, material.label_cases.counts])
    several = cases[cases.sum(axis=1) > 1]
    return len(several) >= _TOLD_FROM and 2 * len(several) > len(cases) and bool(several.all(axis=1).any())


def _first_of_each(material: Material) -> np.ndarray:
    """For each record the first record that says the same. An undecided pair is the same either way round, but never
    the same as a decided one.
    """
    judgements, keys = material.facts.judgements[:, None], material.keys.numbers
    answers = np.where(judgements == UNDECIDED, np.sort(keys[:, 1:], axis=1), keys[:, 1:])
    return first_of_equal(np.concatenate([judgements, keys[:, :1], answers], axis=1))


def near_duplicates(material: Material) -> list[Finding]:
    """Rows whose prompt and answers are each nearly those of an earlier row that is kept.

    MinHash signatures of the answers' word pairs (Broder 1997) are cut into bands; rows that share a band are
    candidates (20 bands of 6: found with 99.8 % where 0.8 of the word pairs are common). Candidates are then compared
    in full, so that what is reported is so.
    """
    first = _first_of_each(material)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    signatures = _signatures(material, distinct)
    repeats = []
    removed: set[int] = set()
    for row, earlier in _candidates(signatures):
        if row in removed:
            continue
        for other in earlier[:_TRIALS]:
            if other not in removed and _is_near(material, int(distinct[row]), int(distinct[other])):
                removed.add(row)
                repeats.append((int(distinct[row]), int(distinct[other])))
                break
    return _repeats(material, "near-duplicates", repeats, "rows that nearly repeat an earlier one")


def _repeats(material: Material, name: str, repeats: Sequence[tuple[int, int]], words: str) -> list[Finding]:
    earlier = material.sources(number for _, number in repeats)
    return material.finding(name, [number for number, _ in repeats], words, related=earlier)


def _signatures(material: Material, numbers: np.ndarray) -> np.ndarray:
    """(rows, BANDS * ROWS_A_BAND) uint32: MinHash of the word pairs of all answers of a row."""
    from rensa import RMinHash  # type: ignore[attr-defined]  # a compiled module without stubs

    size = BANDS * ROWS_A_BAND
    found = _room((len(numbers), size))
    for start in range(0, len(numbers), _BLOCK):
        block = by_numbers(material.records, numbers[start : start + _BLOCK].tolist())
        texts = ["\n".join(map(text_of, answers_of(record))) for record in block]
        hashes, offsets = word_pairs(texts)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.tolist(), size, _SEED)
        found[start : start + len(block)] = matrix.to_rows()
    return found


def _room(shape: tuple[int, int]) -> np.ndarray:
    """uint32, of many rows in a file that is mapped and has no name."""
    folder = folder_of_rows() if shape[0] > views.IN_MEMORY else None
    if folder is None:
        return np.empty(shape, dtype=np.uint32)
    with TemporaryFile(dir=folder) as stream:
        return np.memmap(stream, dtype=np.uint32, mode="w+", shape=shape)


def _candidates(signatures: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """For each row that shares a band with earlier ones, in order, these rows: those with the likeliest match first.

    Of all that share a band, the first one and the one before are taken, so that a large heap of equal rows costs no
    more than its size.
    """
    bands = [_band_mates(signatures[:, band * ROWS_A_BAND : (band + 1) * ROWS_A_BAND]) for band in range(BANDS)]
    mates = np.unique(np.concatenate(bands), axis=0)
    if not len(mates):
        return
    similarity = np.concatenate(
        [
            (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(1)
            for part in np.array_split(mates, 1 + len(mates) // 5000)
        ]
    )
    keep = similarity >= SIMILAR - 0.2  # far below what 120 places could miss
    mates, similarity = mates[keep], similarity[keep]
    order = np.lexsort((mates[:, 1], -similarity, mates[:, 0]))
    for row, found in groupby(mates[order].tolist(), key=itemgetter(0)):
        yield row, [other for _, other in found]


def _band_mates(band: np.ndarray) -> np.ndarray:
    """(n, 2): rows of one band with the first row that has the same values, and with the one before them."""
    keys = np.ascontiguousarray(band).view(np.dtype((np.void, band.dtype.itemsize * band.shape[1])))[:, 0]
    _, heap = np.unique(keys, return_inverse=True)
    order = np.argsort(heap, kind="stable")
    same = np.flatnonzero(heap[order][1:] == heap[order][:-1]) + 1
    heads = np.maximum.accumulate(np.where(np.diff(heap[order], prepend=-1) != 0, np.arange(len(order)), 0))
    first = np.stack([order[same], order[heads[same]]], 1)
    before = np.stack([order[same], order[same - 1]], 1)
    return np.concatenate([first, before])


def _is_near(material: Material, one: int, other: int) -> bool:
    """Whether every part of a record is near the same part of the other, and a label is the same. Pairs that come of
    one row (a ranking with two answers that are alike) are not near duplicates.
    """
    left, right, judgements = material.records[one], material.records[other], material.facts.judgements
    if left.source == right.source or judgements[one] != judgements[other]:
        return False
    if len(material.keys[one]) != len(material.keys[other]):
        return False
    pairs = zip((left.prompt, *answers_of(left)), (right.prompt, *answers_of(right)), strict=True)
    equal = (a == b for a, b in zip(material.keys[one], material.keys[other], strict=True))
    return all(
        same or common_share(_set_of(text_of(a)), _set_of(text_of(b))) >= SIMILAR
        for same, (a, b) in zip(equal, pairs, strict=True)
    )


@lru_cache(maxsize=2048)
def _set_of(text: str) -> np.ndarray:
    return shingles(text)
