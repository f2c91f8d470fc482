"""The report in a real browser: it runs nothing, fetches nothing, and can be read on a phone, in light and in dark.

Skipped where there is no Chromium, unless LIKELIER_REQUIRE_BROWSER=1 demands one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from likelier.insight.report.page import write_report
from tests.helpers.browser import NAMES, Page, find_browser, opened
from tests.helpers.report_runs import SECTIONS, hostile_data
from tests.helpers.small_runs import save_tiny, train

REQUIRED = os.environ.get("LIKELIER_REQUIRE_BROWSER") == "1"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_browser() is None and not REQUIRED, reason=f"no browser here: none of {', '.join(NAMES)} is installed"
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a real run whose data are full of markup."""
    root = tmp_path_factory.mktemp("browsed")
    more = ("--eval-fraction", "0.25", "--eval-new-tokens", "8", "--learning-rate", "1e-2", "--eval-steps", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKELIER_CACHE", str(root / "cache"))
        return write_report(train(save_tiny(root / "tiny"), hostile_data(root), root / "run <b>&", *more))


@pytest.fixture(scope="module")
def page(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened(report, tmp_path_factory.mktemp("browser")) as page:
        yield page


def test_it_asks_for_nothing_outside_and_its_console_is_silent(page: Page, report: Path) -> None:
    assert page.requests == [report.as_uri()]
    assert page.complaints == []


def test_every_section_is_there_and_shown(page: Page) -> None:
    script = "[...document.querySelectorAll('section')].map(one => [one.id, one.getBoundingClientRect().height > 50])"
    assert page.ask(script) == [[name, True] for name in SECTIONS]
    links = page.ask("[...document.querySelectorAll('nav a')].map(one => one.getAttribute('href'))")
    assert links == [f"#{name}" for name in SECTIONS]


def test_a_script_in_the_data_stays_text(page: Page) -> None:
    assert page.ask("document.scripts.length") == 0
    assert page.ask("document.images.length") == 0
    assert page.ask("document.title") == "run <b>&"
    for section in ("tokens", "answers"):
        quotes = page.ask(f"[...document.querySelectorAll('#{section} .quote')].map(one => one.textContent)")
        assert any("<script>document.title = 'seized'" in quote for quote in quotes)


def test_charts_have_text_titles_and_ids_of_their_own(page: Page) -> None:
    assert page.ask("document.querySelectorAll('svg[role=img][aria-label]').length") >= 12
    assert page.ask("[...document.querySelectorAll('svg')].every(one => one.querySelector('title') !== null)")
    ids = page.ask("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))
    assert page.ask("document.querySelectorAll('#tokens .tok[title]').length") > 20


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_a_desk(page: Page, width: int) -> None:
    page.looks(width)
    page.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.ask("document.documentElement.scrollWidth") == width
    smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect().height))"
    assert page.ask(smallest) >= 10


def test_light_and_dark_and_print_differ_as_they_should(page: Page) -> None:
    script = """[
        getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector('svg text')).fill,
        getComputedStyle(document.querySelector('svg [style*="--s0"], svg [style*="--s5"]')).stroke,
    ]"""
    page.looks(1280, dark=False)
    light = page.ask(script)
    page.looks(1280, dark=True)
    dark = page.ask(script)
    assert all(one != two for one, two in zip(light, dark, strict=True))
    page.send("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    printed = page.ask(script)
    page.looks(1280)
    assert printed[1:] == light[1:]


def test_a_page_that_does_what_it_must_not_is_found_out(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('here')</script><img src='http://127.0.0.1:9/x.png'>", encoding="utf-8")
    with opened(bad, tmp_path) as page:
        assert "http://127.0.0.1:9/x.png" in page.requests
        assert any("here" in complaint for complaint in page.complaints)
