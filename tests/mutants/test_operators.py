"""What `make mutants` plants, and what it leaves alone because nobody could see it."""

from __future__ import annotations

import pytest

pytest.importorskip("mutmut", reason="comes with the extra `mutants`")

from tests.mutants.operators import mutants


def planted(source: str) -> list[str]:
    """The changed lines."""
    return [mutant.after for mutant in mutants("file.py", f"{source}\n", "1")]


@pytest.mark.parametrize(
    "source",
    [
        "if TYPE_CHECKING:\n    import numpy as np",
        "def f(x: tuple[Literal[1], 'Text']) -> 'int | None': ...",
        "from __future__ import annotations",
        "y = cast('list[int]', x)",
        "x = float('-inf')",
        "x = torch.equal(a, b)",
        "x = max(a, b)",
        "x = zip(a, strict=True)",
        "raise ValueError('a', 1)",
        "x = 'words that somebody reads'",
    ],
)
def test_what_nobody_can_see_is_not_planted(source: str) -> None:
    assert planted(source) == []


@pytest.mark.parametrize(
    ("source", "some"),
    [
        ("if ready:\n    f()", {"if False:", "pass"}),
        ("x = float(a - b)", {"x = float(a + b)", "x = float(a)"}),
        ("x = f(a, b)", {"x = f(b, a)"}),
        ("x = torch.where(a, b, c)", {"x = torch.where(b, a, c)"}),
        ("x = f(a, size=3)", {"x = f(a, )", "x = f(a, size=4)"}),
        ("warn(text, stacklevel=2)", {"pass"}),
        ("x = ['name', a > 1]", {"x = ['XXnameXX', a > 1]", "x = ['name', a >= 1]", "x = ['name', a > 2]"}),
        ("x = a if b else c", {"x = a if (b) and False else c"}),
    ],
)
def test_what_is_computed_is_planted(source: str, some: set[str]) -> None:
    found = planted(source)
    assert some <= set(found) and len(found) == len(set(found))


def test_functions_that_are_left_out_have_none() -> None:
    source = "def f(a):\n    return a + 1\n\n\ndef g(a):\n    return a - 2\n"
    assert {one.line for one in mutants("f", source, "1", ["f"])} == {6}


def test_the_seed_alone_draws_the_order() -> None:
    source = "x = a + 1\ny = b < 2\n"
    assert [one.after for one in mutants("f", source, "1")] == [one.after for one in mutants("f", source, "1")]
    orders = [[one.after for one in mutants("f", source, str(seed))] for seed in range(8)]
    assert len(set(map(tuple, orders))) > 1 and len({frozenset(order) for order in orders}) == 1
