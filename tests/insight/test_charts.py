"""Charts as parts of a page: themed, named, bounded, the same every time, and safe against what is put into them."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from likelier.insight.pages.charts import MOST_POINTS, Point, Series, line_chart, number, scatter_chart
from likelier.insight.pages.histograms import histogram_chart
from likelier.insight.report.curves import curves
from likelier.runs.card import RunCard
from likelier.runs.reader import Run

EVIL = "<script>alert(1)</script>\"'&$x$\x1b[31m\u202e"
STEPS = list(range(40))
LINE = Series("training", STEPS, [1 / (1 + step) for step in STEPS])
HELD_OUT = Series("held-out", [0, 20, 39], [0.5, 0.6, 0.7], [0.4, 0.5, 0.6], [0.6, 0.7, 0.8], dashed=True)


def parsed(chart: Markup) -> ElementTree.Element:
    """The figure as a tree: markup out of data would have become elements."""
    return ElementTree.fromstring(str(chart))


def drawings() -> list[Markup]:
    return [
        line_chart("Loss", "step", "nats", [LINE, HELD_OUT], level=(0.69, "ln 2"), note="falls"),
        line_chart("Accuracy", "step", "share", [HELD_OUT], percent=True),
        histogram_chart("Rewards", "nats", {"chosen": [1.0, 2.0, 2.5], "rejected": [-1.0, 0.0]}, level=(0.0, "zero")),
        scatter_chart("Frontier", "KL", "accuracy", [Point("a", 1, 0.5, "dpo", 0.4, 0.6), Point("b", 2, 0.7, "kto")]),
    ]


@pytest.mark.parametrize("chart", drawings(), ids=["lines", "shares", "histogram", "points"])
def test_a_chart_is_a_named_scalable_figure_in_the_pages_colours(chart: Markup) -> None:
    svg = parsed(chart).find("svg")
    assert svg is not None
    assert svg.attrib.keys() == {"viewBox", "role", "aria-label"}
    assert svg.get("role") == "img"
    assert len(svg.get("aria-label", "")) > 10
    text = str(chart)
    assert "var(--s0)" in text or "var(--s1)" in text
    assert not re.search(r"(fill|stroke): *(#|rgb|black)", text)  # every colour is a variable
    assert "font-family" not in text
    assert "metadata" not in text
    assert [element.text for element in svg.iter("text")]  # labels stay text
    assert [element.text for element in svg.iter("title")]


def test_hovering_tells_the_numbers_of_every_line_at_that_place() -> None:
    titles = [title.text for title in parsed(line_chart("Loss", "step", "", [LINE, HELD_OUT])).iter("title")]
    assert len(titles) == len(STEPS)
    assert titles[20] == "step 20\ntraining: 0.04762\nheld-out: 0.6 (0.5 to 0.7)"
    bars = parsed(histogram_chart("Rewards", "nats", {"chosen": [0.0, 1.0], "rejected": [1.0]})).iter("title")
    assert [title.text for title in bars][-1] == "0.875 to 1\nchosen: 1\nrejected: 1"
    points = parsed(scatter_chart("F", "KL", "accuracy", [Point("run", 1, 0.5, low=0.4, high=0.6)], percent=True))
    assert [title.text for title in points.iter("title")] == ["run\nKL: 1\naccuracy: 50.0\N{NO-BREAK SPACE}%"]


def test_the_same_data_give_the_same_bytes() -> None:
    assert drawings() == drawings()


def test_charts_of_one_page_have_ids_of_their_own() -> None:
    ids = [element.get("id") for chart in drawings() for element in parsed(chart).iter() if element.get("id")]
    assert len(ids) == len(set(ids)) > 0
    for chart in drawings():
        own = {element.get("id") for element in parsed(chart).iter()}
        assert set(re.findall(r"#([\w-]+)", str(chart))) <= own


def test_names_are_text_and_steer_nothing() -> None:
    charts = [
        line_chart(EVIL, EVIL, EVIL, [Series(EVIL, [0, 1], [1.0, 2.0])], level=(1.0, EVIL), note=EVIL),
        histogram_chart(EVIL, EVIL, {EVIL: [1.0, 2.0]}, level=(1.0, EVIL), note=EVIL),
        scatter_chart(EVIL, EVIL, EVIL, [Point(EVIL, 1, 2, EVIL)], note=EVIL),
    ]
    for chart in charts:
        assert not list(parsed(chart).iter("script"))
        assert "<script" not in chart
        assert "\x1b" not in chart
        assert "\u202e" not in chart
        assert "&lt;script&gt;alert(1)" in chart
        assert "$x$" in chart  # no mathematics


def test_long_lines_are_thinned_to_means_with_their_range() -> None:
    many = list(range(10_000))
    chart = line_chart("Loss", "step", "", [Series("training", many, [step % 2 for step in many], smooth=True)])
    assert len(chart) < 60_000
    titles = [title.text or "" for title in parsed(chart).iter("title")]
    assert len(titles) <= MOST_POINTS
    assert titles[0] == "step 83\ntraining (means of 84, band: least to greatest): 0.5 (0 to 1)"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(value: float) -> None:
    chart = line_chart("Loss", "step", "", [Series("a", [0, 1, 2], [1.0, value, 2.0])])
    assert len(list(parsed(chart).iter("title"))) == 2
    assert line_chart("Loss", "step", "", [Series("a", [0], [value])]) == ""
    assert histogram_chart("Rewards", "", {"a": [value]}) == ""
    assert scatter_chart("F", "", "", [Point("a", value, 1.0)]) == ""
    assert scatter_chart("F", "", "", [Point("a", 1.0, 1.0, low=value, high=value)])


def test_nothing_to_draw_is_empty() -> None:
    assert line_chart("Loss", "step", "", []) == ""
    assert line_chart("Loss", "step", "", [Series("a", [], [])]) == ""
    assert histogram_chart("Rewards", "", {"a": []}) == ""
    assert scatter_chart("F", "", "", []) == ""


def test_rounding_is_not_drawn_as_a_trend() -> None:
    flat = [0.693147 + 1e-7 * (step % 3) for step in STEPS]
    line = parsed(line_chart("Loss", "step", "", [Series("a", STEPS, flat)]))
    (path,) = [one.get("d", "") for one in line.iter("path") if "var(--s0)" in one.get("style", "")]
    heights = [float(found) for found in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]
    assert max(heights) - min(heights) < 1


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=40))
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    places = list(range(len(values)))
    assert parsed(line_chart("Loss", "step", "", [Series("a", places, values)])).find("svg") is not None
    assert parsed(histogram_chart("Rewards", "", {"a": values})).find("svg") is not None


def test_the_users_own_settings_change_nothing() -> None:
    import matplotlib

    before = drawings()
    with matplotlib.rc_context({"lines.linewidth": 9.0, "axes.grid": True, "font.size": 40, "svg.fonttype": "path"}):
        assert drawings() == before
        assert matplotlib.rcParams["font.size"] == 40  # and the other way round


@pytest.mark.slow
def test_drawing_needs_no_window_and_the_command_line_no_drawing() -> None:
    code = (
        "import sys; from likelier.insight.pages import charts, render; from likelier.insight.report import page; "
        "assert 'matplotlib' not in sys.modules; "
        "charts.line_chart('a', 'b', 'c', [charts.Series('d', [0, 1], [0, 1])]); "
        "assert 'matplotlib.pyplot' not in sys.modules; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_numbers_in_words() -> None:
    assert [number(value) for value in (0.69314, -0.5, 12345.6, 5e-6)] == ["0.6931", "−0.5", "12,346", "5e−06"]
    assert number(0.5, percent=True) == "50.0\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"needs_reference": True}, "what this method makes of an answer and its reference."),
        ({"needs_reference": False}, "what the policy itself gives an answer."),
        ({"needs_reference": False, "rewards_per_token": True}, "what the policy itself gives an answer, per token."),
    ],
)
def test_rewards_that_are_no_log_ratios_are_told_as_their_method_makes_them(
    objective: dict[str, Any], words: str, tmp_path: Path
) -> None:
    steps = [{"step": step, "rewards/chosen": 1.0, "rewards/rejected": 0.5 * step} for step in (1, 2)]
    drawn = " ".join(curves(Run(tmp_path, RunCard.of({"method": "mine", "objective": objective}), steps, [])))
    assert words in drawn and "baseline" not in drawn
