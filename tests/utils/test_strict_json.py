"""Objects with very many names are read in linear time, also where one of them stands twice."""

from __future__ import annotations

import json
from time import perf_counter

import pytest

from likelier.utils.strict_json import BrokenJson, parse_json


def wide(count: int, *more: str) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: 1" for name in (*(f"n{i}" for i in range(count)), *more)) + "}"


@pytest.mark.parametrize("twice", ["n39999", "n20000", "n0"])
def test_a_name_that_stands_twice_among_40000_is_found_at_once(twice: str) -> None:
    start = perf_counter()
    with pytest.raises(BrokenJson, match=f"the name '{twice}' stands twice in one object; keep one"):
        parse_json(wide(40_000, twice))
    assert perf_counter() - start < 2  # it was half a minute


def test_wide_objects_inside_others_are_read_as_quickly() -> None:
    start = perf_counter()
    assert len(parse_json(f'{{"inner": [{wide(40_000)}]}}')["inner"][0]) == 40_000
    with pytest.raises(BrokenJson, match="'n1' stands twice"):
        parse_json(f'{{"inner": [{wide(40_000, "n1")}, {wide(40_000, "n1")}]}}')
    assert perf_counter() - start < 2


def test_the_first_name_to_come_back_is_named() -> None:
    with pytest.raises(BrokenJson, match="the name 'b' stands twice"):
        parse_json('{"a": 1, "b": 2, "b": 3, "a": 4}')
