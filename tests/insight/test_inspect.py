"""`likelier inspect`: against `likelier score`, against hand computation, for every method; what it shows."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier.cli import main as cli
from likelier.data.load import load_preferences
from likelier.data.token_text import token_texts
from likelier.data.tokenize import tokenize_records
from likelier.insight.inspect.look import Inspection, Place, look
from likelier.insight.inspect.subject import RowName, row_of_file
from likelier.insight.pages.heatmap import (
    legend,
    legend_text,
    level_of,
    numbers_of,
    pieces_of,
    scale_of,
    token_spans,
    token_text,
)
from likelier.models.policy import load_policy
from likelier.objectives import METHODS
from likelier.runs.card import RunCard
from likelier.scoring.restore import recorded_data, times_of
from tests.helpers.small_runs import SmallRuns, pair_rows, read_card, staged, train, write_card, write_rows
from tests.helpers.support import tiny_tokenizer

Json = dict[str, Any]
HYPERPARAMETERS: dict[str, Json] = {
    "dpo": {"beta": 0.3, "label_smoothing": 0.1, "nll_weight": 0.5},
    "robust": {"beta": 0.3, "flip_probability": 0.2},
    "ipo": {"tau": 0.7},
    "kto": {"beta": 0.3, "desirable_weight": 1.5},
    "simpo": {"beta": 2.5, "gamma_beta_ratio": 0.4},
    "hinge": {"beta": 0.3},
    "sigmoid_norm": {"beta": 4.0},
    "apo_zero": {"beta": 0.3},
    "apo_down": {"beta": 0.3},
    "dpop": {"beta": 0.3, "penalty": 5.0},
    "exo": {"beta": 0.3, "label_smoothing": 0.1},
    "nca": {"beta": 0.3},
    "sppo": {"beta": 0.5},
    "discopop": {"beta": 0.3, "discopop_tau": 0.3},
    "f_dpo": {"beta": 0.3, "divergence": "js"},
    "cal_dpo": {"beta": 0.3},
    "cpo": {"beta": 0.3, "nll_weight": 0.0},
    "orpo": {"odds_weight": 0.3},
    "alphapo": {"beta": 2.5, "gamma_beta_ratio": 0.4, "alpha": 0.5},
    "slic": {"delta": 2.0, "likelihood_weight": 0.3},
    "wpo": {"beta": 0.3},
    "infonca": {"beta": 0.3},
    "nca_scores": {"beta": 0.3},
    "ld_dpo": {"beta": 0.3, "ld_alpha": 0.4},
    "aot": {"beta": 0.3},
    "aot_unpaired": {"beta": 0.3},
    "weighted_sum": {
        "loss": "dpo=0.8 hinge=0.2",
        "nll_weight": 0.5,
        "dpo.beta": 0.3,
        "dpo.label_smoothing": 0.0,
        "hinge.beta": 0.1,
    },
    "sft": {},
    "bco_pair": {"beta": 0.3},
    "bco": {"beta": 0.3},
    "beta_dpo": {"beta": 0.3},
    "mpo": {
        "loss": "dpo=0.8 bco_pair=0.2",
        "nll_weight": 1.0,
        "dpo.beta": 0.3,
        "dpo.label_smoothing": 0.0,
        "bco_pair.beta": 0.3,
    },
}
SHIFT, STEP_BETA = 0.25, 0.4
_SHIFTED = {"chosen": [6.0, 6.0], "rejected": [-2.0, 4.0]}  # SHIFT is the middle of 1 and -0.5
STATES: dict[str, Json] = {
    "bco_pair": _SHIFTED,
    "bco": _SHIFTED,
    "beta_dpo": {"mean_margin": 0.1, "beta": STEP_BETA},
    "mpo": {f"bco_pair.{side}": sums for side, sums in _SHIFTED.items()},
}
HAVE_LOGITS = ("dpo", "robust", "kto", "simpo", "sigmoid_norm", "dpop", "ld_dpo", "bco", "beta_dpo")
Z0 = 0.25


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def dpo_by_hand(margin: float, smoothing: float = 0.0) -> float:
    return -(1 - smoothing) * math.log(sigmoid(margin)) - smoothing * math.log(sigmoid(-margin))


def losses_by_hand(
    method: str, pw: float, pl: float, rw: float, rl: float, nw: float, nl: float, tw: float, tl: float
) -> list[float]:
    """Each loss from the papers' formulas: policy and reference sums of chosen and rejected, their lengths, and the
    log-ratios of what the longer one has beyond the other.
    """
    dw, dl = pw - rw, pl - rl
    fall = max(0.0, -dw)
    return {
        "dpo": lambda: [dpo_by_hand(0.3 * (dw - dl), 0.1) - 0.5 * pw / nw],
        "robust": lambda: [
            (-0.8 * math.log(sigmoid(0.3 * (dw - dl))) + 0.2 * math.log(sigmoid(-0.3 * (dw - dl)))) / 0.6
        ],
        "ipo": lambda: [(dw / nw - dl / nl - 1 / 1.4) ** 2],
        "kto": lambda: [1.5 * (1 - sigmoid(0.3 * (dw - Z0))), 1 - sigmoid(-0.3 * (dl - Z0))],
        "simpo": lambda: [dpo_by_hand(2.5 * (pw / nw - pl / nl - 0.4))],
        "hinge": lambda: [max(0.0, 1 - 0.3 * (dw - dl))],
        "sigmoid_norm": lambda: [dpo_by_hand(4.0 * (dw / nw - dl / nl))],
        "apo_zero": lambda: [1 - sigmoid(0.3 * dw) + sigmoid(0.3 * dl)],
        "apo_down": lambda: [sigmoid(0.3 * dw) + 1 - sigmoid(0.3 * (dw - dl))],
        "dpop": lambda: [dpo_by_hand(0.3 * (dw - dl - 5.0 * fall))],
        "exo": lambda: [_divergence(0.3 * (dw - dl), 0.9) + _divergence(0.3 * (dl - dw), 0.1)],
        "nca": lambda: [
            -math.log(sigmoid(0.3 * dw)) - 0.5 * math.log(sigmoid(-0.3 * dw)) - 0.5 * math.log(sigmoid(-0.3 * dl))
        ],
        "sppo": lambda: [0.5 * (dw - 1) ** 2 + 0.5 * (dl + 1) ** 2],
        "discopop": lambda: [
            sigmoid(dl - dw) * dpo_by_hand(0.3 * (dw - dl)) + sigmoid(dw - dl) * math.exp(-0.3 * (dw - dl))
        ],
        "f_dpo": lambda: [dpo_by_hand(0.3 * (math.log(sigmoid(dw)) - math.log(sigmoid(dl))))],
        "cal_dpo": lambda: [dpo_by_hand(0.3 * (dw - dl)) + (0.3 * dw - 0.5) ** 2 + (0.3 * dl + 0.5) ** 2],
        "cpo": lambda: [dpo_by_hand(0.3 * (pw - pl))],
        "orpo": lambda: [-pw / nw + 0.3 * dpo_by_hand(_log_odds(pw / nw) - _log_odds(pl / nl))],
        "alphapo": lambda: [dpo_by_hand(2.5 * ((math.exp(-pl / nl / 2) - math.exp(-pw / nw / 2)) / 0.5 - 0.4))],
        "slic": lambda: [max(0.0, 2 - pw + pl) - 0.3 * pw],
        "aot": list,  # none of a row alone
        "aot_unpaired": list,
        "wpo": list,
        "infonca": list,  # of two answers among several
        "nca_scores": list,
        "weighted_sum": lambda: [
            0.8 * dpo_by_hand(0.3 * (dw - dl)) + 0.2 * max(0.0, 1 - 0.1 * (dw - dl)) - 0.5 * pw / nw
        ],
        "ld_dpo": lambda: [dpo_by_hand(0.3 * (dw - 0.6 * tw - dl + 0.6 * tl))],
        "sft": lambda: [-pw / nw],
        "bco_pair": lambda: [dpo_by_hand(0.3 * dw - SHIFT) + dpo_by_hand(SHIFT - 0.3 * dl)],
        "bco": lambda: [dpo_by_hand(0.3 * dw - SHIFT), dpo_by_hand(SHIFT - 0.3 * dl)],
        "beta_dpo": lambda: [dpo_by_hand(STEP_BETA * (dw - dl))],
        "mpo": lambda: [
            0.8 * dpo_by_hand(0.3 * (dw - dl))
            + 0.2 * (dpo_by_hand(0.3 * dw - SHIFT) + dpo_by_hand(SHIFT - 0.3 * dl))
            - pw / nw
        ],
    }[method]()


def _divergence(logit: float, wanted: float) -> float:
    return sigmoid(logit) * math.log(sigmoid(logit) / wanted)


def _log_odds(mean: float) -> float:
    return mean - math.log1p(-math.exp(mean))


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must work; gives what it prints."""

    def call(*words: object) -> str:
        capsys.readouterr()
        code = cli.main(["inspect", *map(str, words)])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must end with 2 and one message; gives the message."""

    def call(*words: object) -> str:
        capsys.readouterr()
        code = cli.main(["inspect", *map(str, words)])
        out, err = capsys.readouterr()
        assert code == 2 and "Traceback" not in err + out
        return err.split("error: ", 1)[1]

    return call


def as_method(run: Path, method: str, folder: Path) -> Path:
    """The run as if it had been trained by another method."""
    shutil.copytree(run, folder)
    card = read_card(run) | {"method": method, "hyperparameters": HYPERPARAMETERS[method]}
    card["objective_state"] = STATES.get(method, {})
    card.pop("files", None)  # the log is another one now
    write_card(folder, card)
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": 2, "loss": 0.5, "kl": Z0}) + "\n")
    return folder


def token_logps(model: Path, pairs: Path, row: int) -> list[list[float]]:
    """Each answer token's log-probability, one answer alone at a time, in the most direct way."""
    policy = load_policy(model, dtype="float32")
    group = tokenize_records(load_preferences(pairs).train, policy.tokenizer, max_length=512).groups[row - 1]
    found = []
    for answer in group.answers:
        ids = torch.tensor([[*group.prompt.tolist(), *answer.tolist()]])
        with torch.no_grad():
            logps = torch.log_softmax(policy.model(input_ids=ids).logits[0].double(), -1)
        start = len(group.prompt)
        found.append([float(logps[place - 1, ids[0, place]]) for place in range(start, ids.shape[1])])
    return found


# --- agreement ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["whole", "adapter"])
def test_a_pair_agrees_with_score(runs: SmallRuns, which: str, tmp_path: Path, inspect: Callable[..., str]) -> None:
    run, out = getattr(runs, which), tmp_path / "scores.jsonl"
    words = ["score", "--model", run, "--data", runs.pairs, "--per-token", "--output", out]
    assert cli.main([str(word) for word in words]) == 0
    score = json.loads(out.read_text(encoding="utf-8").splitlines()[4])
    found = json.loads(inspect(run, "--row", 5, "--json"))
    assert found["source"] == score["source"] and found["correct"] == score["correct"]
    assert found["margin"] == pytest.approx(score["margin"], abs=1e-6)
    for side in ("chosen", "rejected"):
        for name, value in score[side].items():
            if name != "tokens":
                assert found[side][name] == pytest.approx(value, abs=1e-6), name
        for mine, theirs in zip(found[side]["tokens"], score[side]["tokens"], strict=True):
            assert {**mine, "reward": None} == {
                **{n: pytest.approx(v, abs=1e-6) for n, v in theirs.items() if n != "text"},
                "text": theirs["text"],
                "reward": None,
            }


def test_a_pair_agrees_with_hand_computation(runs: SmallRuns, inspect: Callable[..., str]) -> None:
    found = json.loads(inspect(runs.whole, "--row", 3, "--json"))
    own, refs = (token_logps(model, runs.pairs, 3) for model in (runs.whole, runs.model))
    sides = [found["chosen"], found["rejected"]]
    for side, mine, theirs in zip(sides, own, refs, strict=True):
        assert [token["logp"] for token in side["tokens"]] == pytest.approx(mine, abs=5e-6)
        assert [token["ref_logp"] for token in side["tokens"]] == pytest.approx(theirs, abs=5e-6)
        ratios = [token["logp"] - token["ref_logp"] for token in side["tokens"]]
        assert side["logratio"] == pytest.approx(sum(ratios), abs=2e-5)  # float32 sums
        assert side["reward"] == pytest.approx(0.1 * (side["logp"] - side["ref_logp"]), abs=1e-6)
        assert sum(token["reward"] for token in side["tokens"]) == pytest.approx(side["reward"], abs=1e-5)
    (item,) = found["losses"]
    logit = 0.1 * (sides[0]["logratio"] - sides[1]["logratio"])
    assert item["logit"] == pytest.approx(logit, abs=1e-6)
    assert item["sigma"] == pytest.approx(sigmoid(logit), abs=1e-6)
    assert item["loss"] == pytest.approx(-math.log(sigmoid(logit)), abs=1e-6)
    weight = 0.1 * sigmoid(-logit)
    assert item["gradient"] == pytest.approx({"chosen": -weight, "rejected": weight}, abs=1e-6)


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if not kind.reads_values])
def test_every_method_agrees_with_its_formula(
    runs: SmallRuns, method: str, tmp_path: Path, inspect: Callable[..., str]
) -> None:
    found = json.loads(inspect(as_method(runs.whole, method, tmp_path / method), "--row", 4, "--json"))
    plain = json.loads(inspect(runs.whole, "--row", 4, "--json"))
    sides = [plain["chosen"], plain["rejected"]]
    numbers = [side[name] for name in ("logp", "ref_logp", "length") for side in sides]
    shared = min(side["length"] for side in sides)
    tails = [[one["logp"] - one["ref_logp"] for one in side["tokens"][shared:]] for side in sides]
    assert any(tails)
    numbers += map(sum, tails)
    losses = losses_by_hand(method, *numbers)
    assert bool(losses) or f"{method}'s loss " in found["notes"][0]
    assert [item["loss"] for item in found["losses"]] == pytest.approx(losses, abs=1e-6)
    assert (found["reference"] is None) == (not METHODS[method].needs_reference)
    step = 1e-4
    for number, item in enumerate(found["losses"]):
        for place, side in enumerate(("chosen", "rejected")):
            more, less = ([*numbers] for _ in range(2))
            more[place] += step
            less[place] -= step
            slope = (losses_by_hand(method, *more)[number] - losses_by_hand(method, *less)[number]) / (2 * step)
            assert item["gradient"].get(side, 0.0) == pytest.approx(slope, abs=1e-6)
        assert (item["logit"] is not None) == (method in HAVE_LOGITS)
        if item["logit"] is not None:
            assert item["sigma"] == pytest.approx(sigmoid(item["logit"]), abs=1e-9)


def test_at_the_start_every_reward_is_0(runs: SmallRuns, inspect: Callable[..., str]) -> None:
    for run in (runs.whole, runs.adapter):
        found = json.loads(inspect(run, "--row", 2, "--at", "start", "--json"))
        assert found["chosen"]["reward"] == found["rejected"]["reward"] == found["margin"] == 0.0
        assert {token["reward"] for side in ("chosen", "rejected") for token in found[side]["tokens"]} == {0.0}
        assert found["losses"][0]["loss"] == pytest.approx(math.log(2), abs=1e-9)
        assert "which the policy is here" in found["reference"]


def test_at_the_start_of_a_run_with_another_reference(
    runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str]
) -> None:
    run = train(runs.model, runs.pairs, tmp_path / "run", "--reference", str(runs.whole), "--save-steps", "1")
    at_start, first, end = (
        json.loads(inspect(run, "--row", 2, "--json", *more)) for more in (["--at", "start"], ["--at", "step-1"], [])
    )
    assert times_of(str(run)) == ["start", "step-1", "step-2", "end"]
    assert at_start["chosen"]["reward"] != 0.0
    backwards = json.loads(inspect(runs.whole, "--row", 2, "--json"))
    assert at_start["margin"] == pytest.approx(-backwards["margin"], abs=1e-5)  # the two models changed places
    assert first["chosen"]["ref_logp"] == end["chosen"]["ref_logp"] == at_start["chosen"]["ref_logp"]
    assert first["policy"].endswith("checkpoints/step-1")


def test_kto_takes_the_baseline_of_the_time(runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str]) -> None:
    run = as_method(runs.whole, "kto", tmp_path / "kto")
    end, start = (json.loads(inspect(run, "--row", 4, "--json", *more)) for more in ([], ["--at", "start"]))
    assert end["baseline"]["value"] == Z0 and "step 2" in end["baseline"]["words"]
    assert start["baseline"]["value"] == 0.0
    assert [item["loss"] for item in start["losses"]] == pytest.approx([0.75, 0.5])
    assert [(item["of"], item["label"]) for item in end["losses"]] == [("chosen", True), ("rejected", False)]


# --- which row ----------------------------------------------------------------------------------------------------


def test_a_row_is_named_as_the_file_counts(runs: SmallRuns, inspect: Callable[..., str]) -> None:
    parts = []
    for row in range(1, 13):
        found = json.loads(inspect(runs.adapter, "--row", row, "--json"))
        parts.append(found["part"])
        assert found["source"].endswith(f"pairs.jsonl:{row}")
    assert parts.count("held out") == 3 and parts.count("trained on") == 9
    held = parts.index("held out") + 1
    assert json.loads(inspect(runs.adapter, "--row", held, "--held-out", "--json"))["part"] == "held out"


def test_a_row_of_another_file_and_a_ranking(runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str]) -> None:
    row = {"prompt": "the cat", "answers": [" sat", " ran", " was bad"], "ranks": [1, 2, 3]}
    data = write_rows(tmp_path / "ranked.jsonl", [row])
    columns = ["--columns", "answers=answers", "ranks=ranks", "ranks_best=smallest"]
    first, third = (
        json.loads(inspect(runs.whole, "--data", data, "--row", 1, "--json", *columns, *more))
        for more in ([], ["--pair", 3])
    )
    assert first["prompt"] == "the cat" and first["part"] is None
    texts = ["".join(token["text"] for token in found["chosen"]["tokens"]) for found in (first, third)]
    assert texts == [" sat<|im_end|>", " ran<|im_end|>"]


def test_a_row_of_several_data_sets(
    runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str], refused: Callable[..., str]
) -> None:
    other = write_rows(tmp_path / "other.jsonl", pair_rows(14)[12:])
    run = shutil.copytree(runs.whole, tmp_path / "run")
    card = read_card(run)
    sets = [{"path": str(path), "name": name, "weight": 1.0} for path, name in ((runs.pairs, "first"), (other, "more"))]
    write_card(run, card | {"run": card["run"] | {"data": sets}})
    assert json.loads(inspect(run, "--row", "more:2", "--json"))["source"].endswith("other.jsonl:2")
    assert "--row first:2 or --row more:2" in refused(run, "--row", 2)
    assert json.loads(inspect(run, "--row", 7, "--json"))["source"].endswith("pairs.jsonl:7")


def test_typed_pairs_are_the_rows_of_a_file(runs: SmallRuns, inspect: Callable[..., str]) -> None:
    row = pair_rows()[2]
    texts = {name: row[name][0]["content"] for name in ("prompt", "chosen", "rejected")}
    typed = json.loads(inspect(runs.whole, "--json", *[w for n, text in texts.items() for w in (f"--{n}", text)]))
    from_file = json.loads(inspect(runs.whole, "--json", "--row", 3))
    for name in ("prompt", "chosen", "rejected", "margin", "losses"):
        assert typed[name] == from_file[name]
    plain = json.loads(inspect(runs.whole, "--json", "--plain-text", "--prompt", "the cat", "--completion", " sat"))
    assert plain["prompt"] == "the cat" and "compares two answers" in plain["notes"][0] and not plain["losses"]


def test_single_answers_with_and_without_a_label(runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str]) -> None:
    kto, sft = (as_method(runs.whole, method, tmp_path / method) for method in ("kto", "sft"))
    typed = ["--prompt", "the cat", "--completion", "sat", "--json"]
    good, bad, unknown = (
        json.loads(inspect(kto, *typed, *more)) for more in (["--label", "good"], ["--label", "bad"], [])
    )
    assert good["losses"][0]["label"] is True and good["losses"][0]["gradient"]["completion"] < 0
    assert bad["losses"][0]["label"] is False and bad["losses"][0]["gradient"]["completion"] > 0
    assert "needs a label" in unknown["notes"][0] and unknown["completion"]["reward"] == good["completion"]["reward"]
    learned, left = (json.loads(inspect(sft, *typed, *more)) for more in ([], ["--label", "bad"]))
    assert learned["losses"][0]["loss"] == pytest.approx(-learned["completion"]["logp_per_token"], abs=1e-6)
    assert "labelled bad" in left["notes"][0]


def test_weights_of_the_run_count(runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str]) -> None:
    rows = [row | {"weight": 3.0 if number == 1 else 1.0} for number, row in enumerate(pair_rows(), 1)]
    data = write_rows(tmp_path / "weighted.jsonl", rows)
    run = train(runs.model, data, tmp_path / "run", "--use-weights", "column", "--learning-rate", "1e-2")
    heavy, light = (json.loads(inspect(run, "--row", row, "--json")) for row in (1, 2))
    assert heavy["losses"][0]["weight"] == pytest.approx(3 * 12 / 14)
    assert light["losses"][0]["weight"] == pytest.approx(12 / 14)
    item = heavy["losses"][0]
    assert item["loss"] == pytest.approx(item["weight"] * -math.log(sigmoid(item["logit"])), abs=1e-6)
    elsewhere = json.loads(inspect(run, "--row", 1, "--data", data, "--json"))
    assert elsewhere["losses"][0]["weight"] == 1.0


def test_the_demos_rows_are_found(runs: SmallRuns) -> None:
    card = read_card(runs.whole)
    data = recorded_data(RunCard.of(card | {"run": card["run"] | {"data": "the built-in pairs"}}), "demo")
    assert len(data.train) == 138 and len(data.test) == 46


def test_the_last_stage_of_a_run_in_stages(runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str]) -> None:
    root = staged(tmp_path / "stages", ("one", runs.simpo), ("two", runs.whole))
    assert json.loads(inspect(root, "--row", 1, "--json"))["method"] == "dpo"


# --- what is shown ------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script> [bold red]x[/bold red] \x1b[31mred \u202e na\u00efve \U0001f642\n\n  two"


def test_the_terminal_shows_the_whole_chain(runs: SmallRuns, inspect: Callable[..., str]) -> None:
    out = inspect(runs.whole, "--row", 3)
    found = json.loads(inspect(runs.whole, "--row", 3, "--json"))
    for words in ("log-prob, policy", "log-prob, reference", "log-ratio", "reward margin", "logit", "sigma(logit)"):
        assert words in out
    shown = [found["chosen"]["logp"], found["margin"], found["losses"][0]["loss"], found["chosen"]["tokens"][0]["logp"]]
    for value in shown:
        assert f"{value:.4f}".replace("-", "\u2212") in out
    assert out.count("yes") >= 2 and "less likely than under the reference" in out
    top = inspect(runs.whole, "--row", 3, "--top", 2)
    assert f"and {found['chosen']['length'] - 2} tokens with smaller shares" in top


def test_markup_in_the_data_stays_text(runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str]) -> None:
    typed = [runs.whole, "--prompt", HOSTILE, "--chosen", HOSTILE, "--rejected", "no [blink]& <i>"]
    out = inspect(*typed)
    assert "\x1b" not in out and "\u202e" not in out
    assert "[bold red]x[/bold red]" in out and "[blink]" in out and "\u21b5" in out
    page = tmp_path / "page.html"
    inspect(*typed, "--html", page)
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;alert(1)&lt;/script&gt; [bold red]" in html
    assert "<i>" not in html and "\x1b" not in html and "\u202e" not in html
    assert "default-src 'none'" in html and not re.search(r'(src|href)="(?!#)', html)


def test_the_page_colours_tokens_and_shows_their_numbers(
    runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str]
) -> None:
    page = tmp_path / "page.html"
    inspect(runs.whole, "--row", 3, "--html", page)
    html = page.read_text(encoding="utf-8")
    assert runs.whole.name in html and str(runs.whole.parent) not in html
    token = json.loads(inspect(runs.whole, "--row", 3, "--json"))["chosen"]["tokens"][0]
    words = f"policy {token['logp']:+.3f}, reference {token['ref_logp']:+.3f}".replace("-", "\u2212")
    assert words in html
    assert 'class="tok tok-up-' in html and 'class="tok tok-down-' in html
    inspect(runs.simpo, "--row", 3, "--html", page)
    html = page.read_text(encoding="utf-8")
    assert "unlikely under the policy" in html and "none: this method needs no reference" in html


def test_a_run_folder_called_demo_is_no_model(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inspect: Callable[..., str]
) -> None:
    shutil.copytree(runs.whole, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert json.loads(inspect("demo", "--row", 1, "--json"))["policy"] == str(tmp_path / "demo")


def test_an_inspection_in_python(runs: SmallRuns) -> None:
    place = Place(str(runs.whole), "end", None, "auto")
    found = look(place, lambda card, policy: row_of_file(load_preferences(runs.pairs), RowName(1), 1))
    assert isinstance(found, Inspection) and found.margin is not None


def test_the_texts_of_tokens_join_to_the_answer() -> None:
    tokenizer = tiny_tokenizer()
    for text in ("na\u00efve \U0001f642 \u4e2d\u6587 yes", "yes the cat", "\U0001f642", "\ufffd x"):
        ids = tokenizer(text)["input_ids"]
        texts = token_texts(tokenizer, ids)
        assert len(texts) == len(ids) and "".join(texts) == text
    smile = tokenizer("\U0001f642")["input_ids"]
    assert token_texts(tokenizer, smile) == ["", "", "", "\U0001f642"]
    assert token_texts(tokenizer, smile[:2])[0] == "" and "\ufffd" in token_texts(tokenizer, smile[:2])[1]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_flags_that_contradict_each_other(runs: SmallRuns, refused: Callable[..., str]) -> None:
    typed = ["--prompt", "a", "--chosen", "b", "--rejected", "c"]
    cases = {
        "--row names a row and --prompt types one": ["--row", 1, *typed],
        "--chosen has no effect with --row": ["--row", 1, "--chosen", "b"],
        "--data has no effect with --prompt": [*typed, "--data", runs.pairs],
        "takes --chosen and --rejected, or --completion": ["--prompt", "a", "--chosen", "b"],
        "--label has no effect with two answers": [*typed, "--label", "good"],
        "--columns has no effect without --data": ["--row", 1, "--columns", "chosen=a"],
        "--held-out has no effect with --data": ["--row", 1, "--data", runs.pairs, "--held-out"],
        "keep one of them": ["--row", 1, "--json", "--html", "x.html"],
        "--top has no effect": ["--row", 1, "--json", "--top", 3],
        "the run held no rows out": ["--row", 1, "--held-out"],
        "--chosen is empty": ["--prompt", "a", "--chosen", " ", "--rejected", "c"],
        "--pair 2 is none of them": ["--row", 1, "--pair", 2],
    }
    for words, flags in cases.items():
        assert words in refused(runs.whole, *flags), words


def test_rows_and_models_that_are_not_there(runs: SmallRuns, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "row 40 is not among the 12 rows" in refused(runs.whole, "--row", 40)
    assert "it has: start, end" in refused(runs.whole, "--row", 1, "--at", "step-7")
    assert "holds no run" in refused(runs.model, "--row", 1)
    assert "cannot be written" in refused(runs.whole, "--row", 1, "--html", runs.pairs / "page.html")
    data = write_rows(tmp_path / "bad.jsonl", [*pair_rows(1), {"prompt": "a", "chosen": "b", "rejected": "b"}])
    assert "identical" in refused(runs.whole, "--data", data, "--row", 2)
    long = write_rows(tmp_path / "long.jsonl", [{"prompt": "the " * 3000, "chosen": "b", "rejected": "c"}])
    assert "over-max-length" in refused(runs.whole, "--data", long, "--row", 1)


def test_a_run_from_python_names_no_data(runs: SmallRuns, tmp_path: Path, refused: Callable[..., str]) -> None:
    run = shutil.copytree(runs.whole, tmp_path / "run")
    card = read_card(run)
    write_card(run, {name: value for name, value in card.items() if name != "run"})
    assert "give one with --data" in refused(run, "--row", 1)
    assert "names no model that it began with" in refused(run, "--row", 1, "--at", "start")
    write_card(run, card | {"method": "ppo"})
    assert "no method that is known here ('ppo')" in refused(run, "--row", 1)
    write_card(run, card | {"hyperparameters": {"tau": 1}})
    assert "hyperparameters of dpo" in refused(run, "--row", 1)


@pytest.mark.parametrize("flags", [["--row", "0"], ["--row", "x"], ["--at", "middle"], ["--pair", "-1"]])
def test_values_that_cannot_be(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["inspect", "run", *flags])


def test_the_start_of_a_run_that_went_on_from_an_adapter(
    runs: SmallRuns, tmp_path: Path, inspect: Callable[..., str]
) -> None:
    found = {}
    for reference in ("start", "base"):
        run = train(runs.adapter, runs.pairs, tmp_path / reference, "--reference", reference)
        found[reference] = json.loads(inspect(run, "--row", 2, "--at", "start", "--json"))
    before = json.loads(inspect(runs.adapter, "--row", 2, "--json"))
    assert found["start"]["margin"] == 0.0
    assert found["base"]["chosen"]["logratio"] == pytest.approx(before["chosen"]["logratio"], abs=1e-5)


# --- the heat map -------------------------------------------------------------------------------------------------


def answer_of(*shares: tuple[str, float]) -> Json:
    return {"tokens": [{"text": text, "logp": -1.0, "ref_logp": -1.0, "logratio": share} for text, share in shares]}


def test_colours_follow_the_sign_and_the_size_of_the_share() -> None:
    assert [level_of(share, 2.0) for share in (0.0, 0.01, 0.2, -0.2, 1.0, -2.0, 2.0, math.nan)] == [
        0, 0, 1, -1, 3, -5, 5, 0
    ]  # fmt: skip
    assert level_of(1.0, 0.0) == 0
    chosen, rejected = answer_of(("yes", 1.0), ("<b>", -0.5)), answer_of(("no", -4.0))
    assert scale_of(chosen, rejected) == 4.0
    spans = token_spans(chosen, 4.0)
    assert spans.count("tok-up-2") == 1 and spans.count("tok-down-1") == 1 and "&lt;b&gt;" in spans
    text = token_text(chosen, 4.0)
    assert text.plain == "yes<b>" and [str(span.style) for span in text.spans] == ["bold #4a8fd0", "#c47a1a"]
    assert "4 nats" in legend(chosen, rejected) and "4 nats" in legend_text(chosen, rejected).plain
    assert "no token has a share" in legend(answer_of(("a", 0.0)))


def test_parts_of_a_character_are_shown_together() -> None:
    pieces = pieces_of(answer_of(("a", 1.0), ("", 0.25), ("", 0.25), ("\u00e9", 0.5), ("\n", 0.0), (" b", 0.1)))
    assert [(piece.text, piece.share, len(piece.tokens)) for piece in pieces[:2]] == [("a", 1.0, 1), ("\u00e9", 1.0, 3)]
    assert [piece.cell for piece in pieces] == ["a", "\u00e9", "\u21b5", "\u00b7b"]
    assert numbers_of(pieces[1]).endswith("log-ratio +1.000 (3 tokens)")
    broken = pieces_of(answer_of(("\ufffd", 1.0), ("\ufffd", 2.0), ("x", 0.0)))
    assert [(piece.text, piece.share) for piece in broken] == [("\ufffd", 3.0), ("x", 0.0)]
