"""The table of `make mutants` names files that exist and mistakes that the sources still have room for."""

from pathlib import Path

import pytest
import yaml

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "src" / "likelier"
TABLE = yaml.safe_load((TESTS / "mutants" / "table.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TABLE["modules"])
def test_a_row_names_sources_and_tests_that_exist(name: str) -> None:
    row = TABLE["modules"][name]
    assert [file for file in row["files"] if not (PACKAGE / file).is_file()] == []
    named = [*row["tests"], *row.get("without", [])]
    assert [test for test in named if not (TESTS / f"{test.partition('::')[0]}.py").is_file()] == []


@pytest.mark.parametrize("name", TABLE["modules"])
def test_functions_of_a_gpu_alone_are_still_there(name: str) -> None:
    row = TABLE["modules"][name]
    sources = "".join((PACKAGE / file).read_text(encoding="utf-8") for file in row["files"])
    assert [function for function in row.get("on_a_gpu", []) if f"def {function}(" not in sources] == []


def test_equivalent_mistakes_have_a_reason_and_a_line_that_is_still_there() -> None:
    for known in TABLE["equivalent"]:
        assert known["before"] != known["after"] and known["reason"]
        source = (PACKAGE / known["file"]).read_text(encoding="utf-8")
        lines = " ".join(line.strip() for line in source.splitlines())
        assert known["before"] in lines, f"{known['file']} no longer has: {known['before']}"
