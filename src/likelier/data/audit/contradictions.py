"""Judgements that cannot all be right: the same answers preferred both ways, both thumbs, circles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import numpy as np

from likelier.data.audit.facts import Cases
from likelier.data.audit.findings import Finding, places, severity_of
from likelier.data.audit.material import Material


def contradictory_pairs(material: Material) -> list[Finding]:
    """Distinct (prompt, unordered answers) preferred both ways."""
    return _both_ways(
        material, "contradictory-pairs", material.pair_cases, "distinct pairs of answers preferred both ways"
    )


def contradictory_labels(material: Material) -> list[Finding]:
    """Distinct (prompt, answer) called desirable and undesirable."""
    return _both_ways(material, "contradictory-labels", material.label_cases, "distinct answers with both thumbs")


def _both_ways(material: Material, name: str, cases: Cases, words: str) -> list[Finding]:
    both = [sides for _, sides in cases.items(cases.both_ways)]
    if not both:
        return []
    both.sort(key=lambda sides: min(sides[0] + sides[1]))
    dropped = [number for sides in both for number in _minority(*sides)]
    examples = [(max(one[0], other[0]), min(one[0], other[0])) for one, other in both]
    rows = sum(len(one) + len(other) for one, other in both)
    fewer = sum(min(len(one), len(other)) for one, other in both) / rows
    return material.finding(
        name,
        [later for later, _ in examples],
        words,
        of=len(cases),
        more=f", in {rows:,} rows, of which {fewer:.1%} are on the smaller side",
        related=material.sources(earlier for _, earlier in examples),
        details={"rows": rows, "share": len(both) / len(cases), "minority_share": fewer},
        records=dropped,
    )


def _minority(one: list[int], other: list[int]) -> list[int]:
    """The records on the side that fewer take; all where both are equal."""
    if len(one) == len(other):
        return [*one, *other]
    return one if len(one) < len(other) else other


def intransitive_cycles(material: Material) -> list[Finding]:
    """Circles of preferences over the answers of one prompt that have no preference in common.

    What is preferred both ways as often is no preference; a majority is one. Contradictory pairs are thus no circle.
    """
    prompts: dict[int, dict[tuple[int, int], list[int]]] = defaultdict(dict)
    for (prompt, low, high), (one, other) in material.pair_cases.items(_of_many_edges(material.pair_cases)):
        edge = (low, high) if len(one) > len(other) else (high, low)
        prompts[prompt][edge] = one if len(one) > len(other) else other
    found = [cycle for edges in prompts.values() if len(edges) > 2 for cycle in _cycles(edges)]
    if not found:
        return []
    found.sort(key=lambda cycle: min(min(records) for records in cycle))
    rows = sorted({number for cycle in found for records in cycle for number in records})
    concerned = len({int(material.prompts[cycle[0][0]]) for cycle in found})
    compared = sum(len(edges) > 2 for edges in prompts.values())
    finding = Finding(
        "intransitive-cycles",
        len(found),
        severity_of("intransitive-cycles", concerned / compared),
        f"circles of preferences: {len(found):,}, in {concerned:,} of {compared:,} prompts with 3 or more comparisons",
        places(material.sources(cycle[0][0] for cycle in found)),
        details={"prompts": concerned, "rows": len(rows), "longest": max(map(len, found))},
        quotes=material.quotes([cycle[0][0] for cycle in found]),
        records=tuple(rows),
    )
    return [finding]


def _of_many_edges(cases: Cases) -> np.ndarray:
    """A mask of the cases that a majority decides, of prompts with three or more of these: fewer make no circle."""
    decided = cases.counts[:, 0] != cases.counts[:, 1]
    _, place = np.unique(cases.prompts, return_inverse=True)
    return decided & (np.bincount(place[decided], minlength=len(place) and int(place.max()) + 1)[place] > 2)


def _cycles(edges: Mapping[tuple[int, int], list[int]]) -> Iterator[list[list[int]]]:
    """Circles that share no edge, one after the other, each as the records of its edges."""
    left = dict(edges)
    while True:
        graph: dict[int, set[int]] = defaultdict(set)
        for better, worse in left:
            graph[better].add(worse)
        try:
            TopologicalSorter(graph).prepare()
            return
        except CycleError as error:
            nodes = error.args[1]
        yield [left.pop((better, worse)) for worse, better in pairwise(nodes)]
