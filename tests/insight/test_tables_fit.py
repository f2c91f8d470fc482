"""Tables of pages stand in narrow parts that stack on a phone, and an audit's page says what its numbers count."""

import re
from pathlib import Path

from likelier.data.audit import audit_records
from likelier.data.audit.catalogue import CATALOGUE
from likelier.insight.audit import NO_DEFECTS, as_html
from likelier.insight.compare.page import MOST_COLUMNS, by_theme, in_parts
from likelier.insight.compare.page import as_html as comparison_page
from likelier.insight.compare.subjects import read_comparison
from likelier.insight.compare.text import Findings
from tests.helpers.audit_rows import pair
from tests.insight.test_compare import make_run


def test_no_table_of_a_comparison_is_wide_and_none_loses_a_figure(tmp_path: Path) -> None:
    end = {"answer_length_ratio": 1.1, "repetition": 0.02, "reward": 0.4, "win_rate": 0.5, "pair_accuracy": 0.6}
    runs = [make_run(tmp_path / name, beta=beta, end=end) for name, beta in (("a", 0.1), ("b", 0.2))]
    found = Findings.of(read_comparison(runs))
    tables = by_theme(found)
    assert len(found.table[0]) > 10 and max(len(rows[0]) for _, rows in tables) <= MOST_COLUMNS
    assert {cell for _, rows in tables for cell in rows[0]} == set(found.table[0])
    page = comparison_page(found)
    assert 'class="card scroll"' not in page and 'data-head="ranking accuracy"' in page
    assert {len(re.findall("<th>", one)) <= MOST_COLUMNS for one in page.split("<table")[1:]} == {True}


def test_a_wide_table_falls_into_parts_behind_its_names() -> None:
    rows = [[f"{row}.{at}" for at in range(11)] for row in range(2)]
    parts = in_parts(rows, 1)
    assert [len(part[0]) for part in parts] == [7, 5] and all(part[0][0] == "0.0" for part in parts)
    assert [cell for part in parts for cell in part[1][1:]] == rows[1][1:]


def test_rows_that_a_rule_gets_right_are_called_no_defects() -> None:
    assert set(NO_DEFECTS) <= set(CATALOGUE)
    rows = [pair(n, f"what is number {n}", f"it is {n} " * 9, f"no {n}") for n in range(1, 81)]
    page = as_html(audit_records([*rows, rows[0]]))
    assert 'id="length-bias"' in page and 'id="exact-duplicates"' in page
    for name in re.findall(r'<article class="card" id="([a-z-]+)"', page):
        part = page.split(f'id="{name}"')[1].split("</article>")[0]
        assert 'class="unit"' in part and ("no defects" in part) == (name in NO_DEFECTS), name
        assert "(labels: rows)" not in part
    assert 'class="scroll"' not in page
