"""What other libraries raise is said whole: the cause may lie in any line of it."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likelier.utils.errors import whole_reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Error(s) in loading:\n\tsize mismatch for a.\n\n\tsize mismatch for b."), "size mismatch for b"),
        (ValueError("\n\n  the cause stands in the third line  \n"), "the cause stands in the third line"),
        (OSError("one\r\ntwo\u2028three"), "one two three"),
        (AssertionError(), "AssertionError"),
        (RuntimeError(" \n\t\n"), "RuntimeError"),
        (subprocess.TimeoutExpired("x", 3), "timed out after 3"),
    ],
)
def test_every_line_is_said_and_none_is_empty(error: Exception, words: str) -> None:
    found = whole_reason(error)
    assert words in found and "\n" not in found and not found.endswith(".")


def test_of_what_is_long_the_beginning_and_the_end_are_kept() -> None:
    found = whole_reason(RuntimeError("first words\n" + "layer after layer\n" * 500 + "CUDA error: the cause"))
    assert found.startswith("first words") and found.endswith("CUDA error: the cause") and len(found) <= 600


@given(st.text(), st.integers(20, 600))
def test_a_reason_is_one_line_of_limited_length(text: str, most: int) -> None:
    found = whole_reason(ValueError(text), most)
    assert found and len(found) <= most and len(found.splitlines()) == 1
