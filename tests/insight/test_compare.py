"""Comparisons: what is told side by side, what stands in the way, and which differences are more than luck."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from likelier.cli import main as cli
from likelier.insight.compare.cautions import cautions
from likelier.insight.compare.frontier import Place, frontiers
from likelier.insight.compare.measures import shown_measures, summaries, summary_words, table
from likelier.insight.compare.page import as_html
from likelier.insight.compare.paired import compare_pairs, items_of, sign_test
from likelier.insight.compare.subjects import Comparison, read_comparison
from likelier.insight.compare.text import Findings, as_json, as_text, blocks
from likelier.objectives import RewardModel
from likelier.runs.reader import read_run
from likelier.utils.errors import ConfigError, RunFolderError
from likelier.utils.statistics import bootstrap
from tests.helpers.support import clustered, clustered_error

START = {"words": "the policy itself as it was loaded", "weights": "w0", "equals_policy": True}
RIGHT = [True, True, False, True]


def make_run(
    folder: Path,
    *,
    right: list[bool] | None = None,
    method: str = "dpo",
    beta: float | None = 0.1,
    kl: float = 2.0,
    accuracy: float | None = None,
    card: dict[str, Any] | None = None,
    sources: list[str] | None = None,
    items: int = 8,
    end: dict[str, Any] | None = None,
    prompts: list[int] | None = None,
) -> Path:
    """A finished run of 2 steps as training writes it; `right` says of which held-out pairs it ranks right."""
    right = RIGHT if right is None else right
    accuracy = sum(right) / len(right) if accuracy is None else accuracy
    (folder / "evaluations").mkdir(parents=True)
    parameters = {} if beta is None else {"beta": beta}
    content = {
        "status": "done",
        "method": method,
        "hyperparameters": parameters,
        "reward_scale": beta,
        "learning_rate": {"value": 1e-4, "source": "given"},
        "options": {"batch_size": 4, "seed": 42},
        "run": {"model": "m", "data": "pairs.jsonl", "reference": "start", "dtype": "auto"},
        "reference": START,
        "steps": 2,
        "training_seconds": 5.0,
        **(card or {}),
    }
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    start = evaluation(0, 0.5, 0.0)
    rows = [start, step(1, 4), step(2, items), evaluation(2, accuracy, kl) | (end or {})]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sources = sources or [f"held.jsonl:{number}" for number in range(1, len(right) + 1)]
    table = {
        "source": sources,
        "prompt": prompts or list(range(len(right))),
        "chosen": {"logps": [-1.0] * len(right), "ref_logps": None, "lengths": [2] * len(right)},
        "rejected": {"logps": [-2.0 if one else -0.5 for one in right], "ref_logps": None, "lengths": [2] * len(right)},
    }
    detail = {"step": 2, "when": "end", "items_of": len(right), "items": table}
    (folder / "evaluations" / "step-2.json").write_text(json.dumps(detail), encoding="utf-8")
    return folder


def step(number: int, items: int) -> dict[str, Any]:
    return {"step": number, "loss": 0.6, "rewards/margins": 0.2, "rewards/accuracies": 0.5, "items": items}


def evaluation(number: int, accuracy: float, kl: float) -> dict[str, Any]:
    found = {"loss": 0.6, "ranking_accuracy": accuracy, "ranking_accuracy_low": 0.2, "ranking_accuracy_high": 0.9}
    found |= {"ranking_accuracy_per_token": accuracy, "pair_accuracy": accuracy, "rewards/margins": 0.4}
    found |= {"kl": kl, "kl_standard_error": 0.5, "answer_length_ratio": 1.5, "repetition": 0.25}
    return {"step": number, **{f"eval_{name}": value for name, value in found.items()}}


def make_sweep(folder: Path, settings: dict[str, list[Path]], **lost: str) -> Path:
    """sweep.json over runs that lie in the folder."""
    runs = [
        {
            "name": run.name,
            "folder": run.name,
            "setting": name,
            "varied": {"beta": 1},
            "seed": seed,
            "status": "done",
        }
        for name, own in settings.items()
        for seed, run in enumerate(own, 42)
    ]
    runs += [
        {"name": name, "folder": name, "setting": name, "varied": {}, "seed": 42, "status": "failed", "error": error}
        for name, error in lost.items()
    ]
    (folder / "sweep.json").write_text(json.dumps({"status": "done", "runs": runs}), encoding="utf-8")
    return folder


# --- the table ---------------------------------------------------------------------------------------------------


def test_the_table_holds_the_figures_and_the_options_that_differ(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a")
    other = make_run(
        tmp_path / "b",
        method="ipo",
        beta=None,
        card={"hyperparameters": {"tau": 5.0, "length_normalize": True}, "learning_rate": {"value": 2e-4}},
        end={"eval_logratios/chosen": 1.0, "eval_logratios/rejected": -2.5, "eval_win_rate": 0.6},
    )
    found = Findings.of(read_comparison([first, other]))
    head, a, b = (dict(zip(found.table[0], row, strict=True)) for row in found.table)
    assert "seed" not in head and "batch_size" not in head and "length_normalize" not in head
    assert (a["run"], a["method"], a["beta"], a["tau"], a["learning_rate"]) == ("a", "dpo", "0.1", "-", "0.0001")
    assert (b["run"], b["method"], b["beta"], b["tau"], b["learning_rate"]) == ("b", "ipo", "-", "5", "0.0002")
    assert a["ranking accuracy"] == "75.0% (20 to 90)" and a["KL, nats"] == "2 ± 0.5"
    assert (a["margin, nats"], b["margin, nats"]) == ("4", "3.5")  # 0.4 / beta; the difference of the log-ratios
    assert (a["length"], a["repetition"], a["items seen"], a["time"]) == ("1.50x", "25.0%", "8", "5.0 s")
    assert (a["win rate"], b["win rate"]) == ("-", "60.0%") and "judge's reward" not in head


def test_over_seeds_the_mean_and_the_standard_deviation_are_told(tmp_path: Path) -> None:
    shares = [0.5, 0.75, 0.7]
    runs = [make_run(tmp_path / f"a-{seed}", accuracy=share) for seed, share in enumerate(shares)]
    single = make_run(tmp_path / "b-0", accuracy=0.6)
    comparison = read_comparison([make_sweep(tmp_path, {"dpo beta=1": runs, "dpo beta=2": [single]})])
    several = summaries(comparison.subjects[0])["ranking_accuracy"]
    assert several.mean == pytest.approx(mean(shares)) and several.deviation == pytest.approx(stdev(shares))
    assert summary_words(several, "share") == f"{mean(shares):.1%} ± {100 * stdev(shares):.1f}"
    text = as_text(Findings.of(comparison))
    assert "Mean over seeds ± their standard deviation (n - 1); of a single run" in text
    assert "beta " not in text.splitlines()[0]  # the setting's name tells it


def test_labels_have_an_accuracy_of_their_own(tmp_path: Path) -> None:
    rows = {"eval_rewards/accuracies": 0.8}
    thumbs = make_run(tmp_path / "kto", method="kto", end=rows)
    text = (thumbs / "metrics.jsonl").read_text(encoding="utf-8")
    (thumbs / "metrics.jsonl").write_text(
        re.sub(r'"eval_(ranking|pair)_[a-z_]+": [\d.]+, ', "", text), encoding="utf-8"
    )
    found = summaries(read_comparison([thumbs, make_run(tmp_path / "dpo", end=rows)]).subjects[0])
    assert found["label_accuracy"].mean == 0.8 and "pair_accuracy" not in found and "ranking_accuracy" not in found


def test_columns_that_do_not_fit_follow_below() -> None:
    rows = [["name", "first", "second"], ["a", "1", "2"]]
    assert list(blocks(rows, 80)) == ["name  first  second", "a     1      2"]
    assert list(blocks(rows, 12)) == ["name  first", "a     1", "", "name  second", "a     2"]


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="nothing to compare with"):
        read_comparison([run])
    with pytest.raises(ConfigError, match="was named twice"):
        read_comparison([run, tmp_path / "." / "a"])
    with pytest.raises(RunFolderError, match="holds no run"):
        read_comparison([run, tmp_path / "b"])
    (tmp_path / "s").mkdir()
    with pytest.raises(RunFolderError, match="no run of the sweep is done yet: x: it broke"):
        read_comparison([make_sweep(tmp_path / "s", {}, x="it broke")])
    (tmp_path / "s" / "sweep.json").write_text('{"runs": [{}]}', encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"sweep\.json is damaged: runs\[0\]\.name is None"):
        read_comparison([tmp_path / "s"])


# --- what stands in the way --------------------------------------------------------------------------------------


def said(*runs: Path) -> str:
    return "\n".join(cautions(read_comparison(runs)))


def test_like_runs_give_no_caution_but_the_one_about_seeds(tmp_path: Path) -> None:
    simpo = {"reference": {"words": "none: this method needs no reference"}}
    runs = make_run(tmp_path / "a"), make_run(tmp_path / "b", method="simpo", card=simpo)
    assert said(*runs).startswith("One seed each") and "\n" not in said(*runs)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sources": ["held.jsonl:1", "x:2", "x:3", "x:4"]}, r"held to different rows \(a: 4, b: 4 .*, 1 in common\)"),
        ({"card": {"run": {"model": "n", "data": "pairs.jsonl"}}}, r"began with different models \(m: a; n: b\)"),
        ({"card": {"reference": {**START, "weights": "w1"}}}, "KL is measured against different references"),
        ({"card": {"options": {"eval_new_tokens": 8}}}, r"eval_new_tokens differs \(64: a; 8: b\)"),
        ({"card": {"run": {"model": "m", "data": "x/thumbs.jsonl"}}}, r"different data \(pairs.jsonl: a; thumbs"),
        ({"items": 16}, r"did not see as many answers \(16: a; 32: b\)"),
        ({"card": {"status": "failed"}}, r"b is not finished \(status: failed\): its figures are of step 2"),
    ],
)
def test_what_differs_is_told(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    assert re.search(message, said(make_run(tmp_path / "a"), make_run(tmp_path / "b", **more)))


def test_judges_that_differ_are_told(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, card={"options": {"eval_reward": f"{name}.py:f"}}) for name in "ab"]
    assert "different judges (a: a.py:f, b: b.py:f)" in said(*runs)


def test_rows_that_are_not_recorded_are_told(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, card={"fingerprint": {"eval_hash": name}}) for name in "ab"]
    assert "not recorded" not in said(*runs)
    for run in runs:
        (run / "evaluations" / "step-2.json").unlink()
    assert "Which rows a, b were held to is not recorded" in said(*runs)


def test_labels_made_of_pairs_are_the_same_rows(tmp_path: Path) -> None:
    """Not their hashes are compared, which differ by the kind of the rows, but where they stand in the data."""
    runs = [make_run(tmp_path / name, card={"fingerprint": {"eval_hash": name}}) for name in "ab"]
    table = json.loads((runs[1] / "evaluations" / "step-2.json").read_text(encoding="utf-8"))
    items = table["items"]
    table["items"] = {"source": items["source"] * 2, "prompt": items["prompt"] * 2, "label": [True] * 4 + [False] * 4}
    (runs[1] / "evaluations" / "step-2.json").write_text(json.dumps(table), encoding="utf-8")
    assert "different rows" not in said(*runs)


# --- row by row --------------------------------------------------------------------------------------------------


def test_the_paired_comparison_by_hand(tmp_path: Path) -> None:
    before = make_run(tmp_path / "a", right=[False, False, False, True, True])
    after = make_run(tmp_path / "b", right=[True, True, True, True, False])
    comparison = read_comparison([before, after])
    found = compare_pairs(comparison.subjects, comparison.subjects[0])[0]
    assert (found.items, found.prompts, found.better, found.worse) == (5, 5, 3, 1)
    assert found.difference == pytest.approx(0.4) and found.low < 0.4 < found.high
    assert found.p == pytest.approx(0.625)  # 2 (1 + 4) / 2^4
    assert found.words == "no clear difference"


def test_the_sign_test_by_hand() -> None:
    assert sign_test(0, 0) == 1 and sign_test(1, 0) == 1 and sign_test(3, 3) == 1
    assert sign_test(5, 0) == pytest.approx(2 / 32) and sign_test(0, 5) == sign_test(5, 0)
    assert 0 <= sign_test(2000, 0) < 1e-300


def test_the_bootstrap_resamples_prompts() -> None:
    none = [[0.0] * 100]
    assert bootstrap([1] * 3, [[0.5] * 3], [[0.0] * 3]) == (0.5, 0.5)
    low, high = bootstrap([1] * 100, [[1.0] * 50 + [0.0] * 50], none)
    assert low == pytest.approx(0.4, abs=0.02) and high == pytest.approx(0.6, abs=0.02)  # 0.5 ± 1.96 * 0.05
    sizes, sums = clustered(300, seed=2)
    difference, error = sum(sums) / sum(sizes), clustered_error(sizes, sums)
    expected = pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=0.15 * error)
    own, nothing = [float(one) for one in sums], [0.0] * len(sizes)
    assert bootstrap(sizes, [own], [nothing]) == expected  # prompts of unequal sizes, each drawn as a whole
    other = [size - one for size, one in zip(sizes, own, strict=True)]
    both = clustered_error(sizes, [one - against for one, against in zip(own, other, strict=True)])
    low, high = bootstrap(sizes, [own], [other])  # the same prompts are drawn for both
    assert high - low == pytest.approx(2 * 1.96 * both, rel=0.1)


def test_the_bootstrap_resamples_runs() -> None:
    """Of prompts that are all alike only the runs vary: the variance of their mean is theirs over their number."""
    means = [0.1, 0.3, 0.5, 0.7, 0.9]
    wide = 1.96 * stdev(means) / len(means) ** 0.5
    runs = [[one] * 40 for one in means]
    low, high = bootstrap([1] * 40, runs, [[0.0] * 40])
    assert low == pytest.approx(0.5 - wide, abs=0.03) and high == pytest.approx(0.5 + wide, abs=0.03)
    low, high = bootstrap([1] * 40, [[1.0] * 40], runs)
    assert low == pytest.approx(0.5 - wide, abs=0.03) and high == pytest.approx(0.5 + wide, abs=0.03)


def test_a_difference_that_hangs_on_one_seed_is_not_clear(tmp_path: Path) -> None:
    good = [make_run(tmp_path / "g0", right=[True] * 40), make_run(tmp_path / "g1", right=[False] * 40)]
    bad = [make_run(tmp_path / f"b{seed}", right=[False] * 40) for seed in range(2)]
    found = Findings.of(read_comparison([make_sweep(tmp_path, {"bad": bad, "good": good})]))
    assert found.paired[0].difference == pytest.approx(-0.5) and found.paired[0].words == "no clear difference"
    assert "interval over prompts and seeds" in found.paired_words


def test_of_one_run_each_it_is_said_that_other_seeds_may_differ(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "a", right=[True] * 20), make_run(tmp_path / "b", right=[False] * 20)
    found = Findings.of(read_comparison(runs))
    words = "Clear for these runs; other seeds may differ: b is worse (ranking accuracy); b is worse (per token)."
    assert found.clear_words == words and "and seeds" not in found.paired_words


@pytest.mark.parametrize("of_sweeps", [False, True])
def test_rows_that_only_seem_the_same_are_not_paired(tmp_path: Path, of_sweeps: bool) -> None:
    """Rows in memory, or in a file that was edited: places and lengths agree, the rows do not."""

    def card(name: str) -> dict[str, Any]:
        swept = {"sweep": {"held_out": {"hash": name}}} if of_sweeps else {}
        return {"fingerprint": {"eval_hash": "same" if of_sweeps else name}, **swept}

    first, other, third = (
        make_run(tmp_path / name, card=card(of)) for name, of in (("a", "1"), ("b", "2"), ("c", "1"))
    )
    comparison = read_comparison([first, other, third])
    assert {one.name for one in compare_pairs(comparison.subjects, comparison.subjects[0])} == {"c"}
    assert "are not the same as tokens (a, c; b)" in said(first, other, third)
    assert "not the same as tokens" not in said(first, third)


def test_rows_of_one_sweep_are_the_same_whatever_is_made_of_them(tmp_path: Path) -> None:
    """Margins in use, say, change the hash of the tokens with their signals."""
    held_out = {"sweep": {"held_out": {"hash": "1"}}}
    runs = [make_run(tmp_path / name, card={"fingerprint": {"eval_hash": name}, **held_out}) for name in "ab"]
    comparison = read_comparison(runs)
    assert compare_pairs(comparison.subjects, comparison.subjects[0]) and "as tokens" not in said(*runs)


def test_a_clear_difference_over_seeds_is_told(tmp_path: Path) -> None:
    good = [make_run(tmp_path / f"g{seed}", right=[True] * 20) for seed in range(2)]
    bad = [make_run(tmp_path / f"b{seed}", right=[False] * 15 + [True] * 5) for seed in range(2)]
    found = Findings.of(read_comparison([make_sweep(tmp_path, {"bad": bad, "good": good})]))
    assert found.against.name == "good" and [one.name for one in found.paired] == ["bad", "bad"]
    assert found.paired[0].difference == pytest.approx(-0.75) and found.paired[0].is_clear
    assert found.clear_words == "Clear: bad is worse (ranking accuracy); bad is worse (per token)."


def test_only_rows_that_are_surely_the_same_are_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", right=RIGHT, sources=["x:1", "x:1", "x:2", "x:3"])
    assert len(items_of(read_run(run))) == 2  # both pairs of x:1 have the same lengths
    other = make_run(tmp_path / "b", right=RIGHT, sources=["x:2", "x:9", "y:3", "x:8"])
    comparison = read_comparison([run, other])
    assert {one.items for one in compare_pairs(comparison.subjects, comparison.subjects[0])} == {1}
    alone = make_run(tmp_path / "c", right=RIGHT, sources=["z:1", "z:2", "z:3", "z:4"])
    comparison = read_comparison([run, alone])
    assert compare_pairs(comparison.subjects, comparison.subjects[0]) == []


# --- the frontier ------------------------------------------------------------------------------------------------


def compared(folder: Path, **places: tuple[float, float]) -> Comparison:
    return read_comparison([make_run(folder / name, kl=kl, accuracy=gain) for name, (kl, gain) in places.items()])


def test_the_frontier_by_hand(tmp_path: Path) -> None:
    found, per_token = frontiers(
        compared(tmp_path, near=(1.0, 0.6), far=(4.0, 0.8), wasted=(5.0, 0.7), worse=(2.0, 0.4))
    )
    assert (found.title, per_token.title) == ("ranking accuracy against KL", "ranking accuracy per token against KL")
    assert [place.name for place in found.best] == ["before training", "near", "far"]
    assert found.words() == [
        "Before training: 50.0% at 0 nats.",
        "On the frontier, where no other setting gives as much for less KL: near (60.0% at 1 nats); far (80.0% at 4 "
        "nats).",
        "Beaten: wasted (70.0% at 5 nats) by far; worse (40.0% at 2 nats) by near.",
        "The standard error of a run's KL is 0.5 nats: settings closer than that are alike.",
    ]


def test_equal_places_do_not_beat_each_other() -> None:
    one, other = Place("a", 1.0, 0.5), Place("b", 1.0, 0.5)
    assert not one.beats(other) and Place("c", 1.0, 0.6).beats(one) and Place("d", 0.9, 0.5).beats(one)


def test_there_is_no_frontier_over_different_references(tmp_path: Path) -> None:
    other = make_run(tmp_path / "b", card={"reference": {**START, "weights": "w1"}})
    assert frontiers(read_comparison([make_run(tmp_path / "a"), other])) == []


def test_a_method_without_reference_is_measured_from_the_same_start(tmp_path: Path) -> None:
    simpo = make_run(tmp_path / "b", method="simpo", card={"reference": {"words": "none"}})
    assert len(frontiers(read_comparison([make_run(tmp_path / "a"), simpo]))) == 2


# --- how it is shown ---------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_a_page_in_which_markup_stays_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "<script>alert(1)<\x1b[31m"
    first = make_run(tmp_path / "a", card={"status": evil})
    second = make_run(tmp_path / "b<i>", kl=3.0, card={"run": {"model": "m", "data": evil}})
    page = tmp_path / "page.html"
    assert cli.main(["compare", str(first), str(second), "--output", str(page)]) == 0
    found = capsys.readouterr()
    assert "\x1b" not in found.out and "before comparing" in found.out and f"page: {page}" in found.err
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;" in html and "b<i>" not in html and "\x1b" not in html
    frontier = html.split('id="frontier"')[1].split('id="paired"')[0]
    assert "<svg" in frontier and "b&lt;i&gt; (b&lt;i&gt;)" in frontier
    for title in ("Figures", "What is gained for how much KL", "Row by row", "Courses", "Runs"):
        assert re.search(rf"<h2[^>]*>{title}</h2>", html), title
    assert "src=" not in html and "default-src 'none'" in html


def test_the_page_shows_no_place_of_this_machine(tmp_path: Path) -> None:
    own = {"model": "/home/me/secret models/m", "data": "pairs.jsonl"}
    runs = [make_run(tmp_path / part / "run", card={"run": {**own, "dtype": part}}) for part in "ab"]
    runs.append(make_run(tmp_path / "c", card={"run": {**own, "model": "/home/me/secret/n"}, "status": "failed"}))
    found = Findings.of(read_comparison(runs))
    page = as_html(found)
    assert "secret" not in page and str(tmp_path) not in page
    assert [one.name for one in found.comparison.subjects] == ["a/run", "b/run", "c"]
    assert "began with different models" in page


def test_json_holds_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / name, kl=kl)) for name, kl in (("a", 1.0), ("b", 2.0))]
    assert cli.main(["compare", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == as_json(Findings.of(read_comparison(runs)))
    assert [one["figures"]["kl"]["runs"] for one in found["compared"]] == [
        [{"value": 1.0, "error": 0.5}],
        [{"value": 2.0, "error": 0.5}],
    ]
    assert [one["on_frontier"] for one in found["frontiers"][0]["settings"]] == [True, True, False]
    assert found["paired"][0]["difference"] == 0 and found["not_compared"] == []


def test_a_run_without_evaluation_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    bare = make_run(tmp_path / "b")
    lines = (bare / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (bare / "metrics.jsonl").write_text(
        "\n".join(line for line in lines if "eval_" not in line) + "\n", encoding="utf-8"
    )
    (bare / "evaluations" / "step-2.json").unlink()
    found = Findings.of(read_comparison([make_run(tmp_path / "a"), bare]))
    row = dict(zip(found.table[0], found.table[2], strict=True))
    assert row["ranking accuracy"] == "-" and row["items seen"] == "8" and found.paired == [] and found.frontiers == []


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / name)) for name in "ab"]
    assert cli.main(["compare", *runs, "--output", str(tmp_path)]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err


def test_reward_models_are_compared_by_accuracy_on_pairs(tmp_path: Path) -> None:
    """Their scores are no log-probabilities: nothing is divided by length, and a policy is no measure for them."""
    facts = {"objective": RewardModel().facts(), "reward_scale": None}
    runs = []
    for name, right in (("one", [True] * 6), ("other", [False] * 6)):
        run = make_run(tmp_path / name, method="reward", beta=None, right=right, card=facts)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        kept = [
            {key: value for key, value in line.items() if "ranking" not in key and "kl" not in key} for line in lines
        ]
        kept[-1]["eval_rewards/accuracies"] = kept[-1]["eval_pair_accuracy"]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        runs.append(run)
    comparison = read_comparison(runs)
    (found,) = compare_pairs(comparison.subjects, comparison.subjects[0])
    assert (found.measure, found.difference) == ("pair_accuracy", -1.0)
    head, row, _ = table(comparison, shown_measures(comparison))
    assert "label accuracy" not in head and row[head.index("reward accuracy")] == "100.0%"
    policy = read_comparison([runs[0], make_run(tmp_path / "policy", right=[True] * 6)])
    assert compare_pairs(policy.subjects, policy.subjects[0]) == []
