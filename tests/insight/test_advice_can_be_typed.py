"""Every piece of advice of every verdict, for every method, is typed into the real parser together with the run's own
options; none names what the run has already, and none pulls against another.
"""

from __future__ import annotations

import argparse
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from likelier.cli import audit as audit_command
from likelier.cli import train as train_command
from likelier.insight.diagnose import diagnose
from likelier.insight.diagnose.advice import fitting, mentions
from likelier.insight.diagnose.catalogue import CATALOGUE
from likelier.insight.diagnose.facts import Facts
from likelier.insight.verdicts import Verdict
from likelier.objectives import METHODS
from likelier.runs.account import Account, Audit, Finding, Noise, Statistics
from likelier.runs.reader import Run
from likelier.training.config import RIVALS, hyperparameter_fields, is_hyperparameter, parse
from likelier.utils.errors import LikelierError
from tests.helpers.diagnosis_world import the
from tests.helpers.methods import usual
from tests.helpers.runs_by_hand import a_run, a_step, growing

WITHOUT_ADVICE = {"healthy", "unfinished", "skipped-step", "failed", "interrupted"}
# Of runs that write their own answers: `test_diagnose_own_answers` types theirs.
OF_OWN_ANSWERS = {"reward-hacking", "constant-reward", "dead-groups", "entropy-collapse", "length-runaway", "learned"}
OF_OWN_ANSWERS |= {
    "truncated-answers",
    "clip-share",
    "kl-blow-up",
    "sampler-drift",
    "same-opening",
    "reward-models-disagree",
}
OF_OWN_ANSWERS |= {"blind-critic"}
Scenario = dict[str, Any]


def start(**more: float) -> dict[str, Any]:
    return {"step": 0, "loss": 0.69, "items": 100.0, "repetition": 0.0} | more


def end(**more: float) -> dict[str, Any]:
    return {"step": 12, "loss": 0.4, "items": 100.0, "pair_accuracy": 0.9, "pair_accuracy_low": 0.8} | more


def _steps(**more: float) -> list[dict[str, Any]]:
    return [row | more for row in growing()]


@cache
def _scenarios() -> dict[str, Scenario]:
    """A run for each verdict, by hand; what a method cannot have it is not given."""
    far = {"kl": 40.0, "kl_per_token": 1.5, "kl_standard_error": 1.0, "repetition": 0.6}
    coin = {"pair_accuracy": 0.5, "pair_accuracy_low": 0.45, "pair_accuracy_high": 0.55}
    still = [a_step(n, 0.0, 0.0) for n in range(1, 31)]
    drifting = [row | {"logps/chosen": -20.0 - 3 * row["step"], "logps/rejected": -20.0} for row in growing()]
    jumps = [row | {"grad_norm": 500.0 if row["step"] in (6, 9) else 1.0} for row in growing()]
    sits = {"step": 30, "loss": 0.9, "items": 100.0}
    return {
        "still": {"steps": still},
        "few steps": {"steps": still[:3]},
        "almost": {"steps": [a_step(n, 1e-3, -1e-3) for n in range(1, 9)]},
        "no gradient": {"steps": [row | {"grad_norm": 0.0} for row in growing()]},
        "nothing counts": {"steps": [row | {"grad_norm": 0.0, "loss": 0.0} for row in growing()]},
        "no rate": {"steps": _steps(learning_rate=0.0)},
        "rounded away": {"steps": growing(), "card": {"status": "failed", "error": "no weight has changed"}},
        "wrong": {"steps": growing(), "card": {"status": "failed", "error": "WrongReferenceError: another"}},
        "claims": {"steps": [a_step(1, 3.0, 1.0), *growing()[1:]], "card": {"reference": {"equals_policy": True}}},
        "distant": {
            "steps": [a_step(1, 3.0, 1.0), *growing()[1:]],
            "card": {"reference": {"words": "another model"}, "run": {"reference": "base"}},
        },
        "sinks": {"steps": growing(chosen=-0.2, rejected=-0.3)},
        "drifts": {"steps": drifting, "evaluations": [start(), end(**far | {"repetition": 0.0})]},
        "far": {"steps": growing(), "evaluations": [start(), end(**far)]},
        "by heart": {"steps": growing(30), "evaluations": [start(), end(loss=0.3), sits]},
        "coin": {"steps": growing(), "evaluations": [start(), end(**coin)]},
        "unclear": {
            "steps": growing(),
            "evaluations": [start(), end(pair_accuracy=0.58, pair_accuracy_low=0.48)],
            "is_clean": True,
        },
        "nothing held out": {"steps": [{"step": 1, "loss": 0.69}]},
        "jumps": {"steps": jumps},
        "not finite": {"steps": growing(), "card": {"status": "failed", "error": "the loss is not finite"}},
        "noisy baseline": {"steps": _steps(kl=1.0, kl_standard_error=5.0)},
        "runaway": {"steps": _steps(kl=50.0, kl_standard_error=0.1)},
        "stuck": {"steps": [a_step(n, -0.1 * n, -0.2 * n, kl=0.0, kl_standard_error=0.1) for n in range(1, 13)]},
        "longer": {"steps": growing(), "evaluations": [start(), end(answer_length_ratio=2.0)]},
        "small reach": {"steps": growing(chosen=60, rejected=-60), "scale": 1000.0},
        "failed": {"steps": growing(), "card": {"status": "failed", "error": "memory ran out"}},
        "stopped": {"steps": growing(), "card": {"status": "interrupted"}},
    }


ACCOUNT = Account(
    (Finding("over-max-length", count=30),),
    Audit(
        findings=(
            Finding("contradictory-pairs", "error", count=5),
            Finding("eval-overlap", "error", count=5, details={"evaluation_rows": 5}),
            Finding("length-bias", "warning", details={"mean_preferred": 90, "mean_other": 50}),
        ),
        statistics=Statistics(Noise(0.9, 0.1)),
    ),
)
# The run's own options beside those of the scenario: nothing; what advice likes to name; what leaves no room for it.
OWN: dict[str, dict[str, Any]] = {
    "plain": {},
    "followed": {"warmup": 0.2, "save_steps": 3, "max_steps": 12, "truncation": "cut-prompt-left", "lora_r": 16},
    "soft": {"use_votes": "soft", "epochs": 2, "warmup": 0.0, "max_length": 256, "eval_fraction": 0.1},
    "margins": {"use_margins": "column", "reference": "start", "eval_fraction": 0.1, "nll_weight": 1.0},
    "nll": {"nll_weight": 1.0, "flip_probability": 0.1, "length_normalize": False, "dtype": "float32"},
}


def _own(method: str, variant: str) -> dict[str, Any]:
    """Those of a variant that the method takes."""
    kind, hyper = METHODS[method], hyperparameter_fields()
    own = {name: value for name, value in OWN[variant].items() if name not in hyper or method in hyper[name]}
    if not kind.takes_margins:
        own.pop("use_margins", None)
    if not kind.takes_soft_labels:
        own.pop("use_votes", None)
    return own


def _run(method: str, scenario: Scenario, own: Mapping[str, Any]) -> Run:
    names = {item.name for item in fields(METHODS[method])}
    objective = usual(method, **{name: value for name, value in own.items() if name in names}).resolved(20.0)
    hyper = {name: value for name, value in objective.hyperparameters().items() if value is not None}
    options = {name: value for name, value in own.items() if name not in names}
    of_run = {name: options.pop(name) for name in ("eval_fraction", "reference", "dtype") if name in options}
    lora = {"lora_r": options.pop("lora_r")} if "lora_r" in options else {}
    scale = scenario.get("scale") or (0.1 if METHODS[method].needs_reference else None)
    if "scale" in scenario and objective.strength in hyper:
        hyper[objective.strength] = scale
        objective = objective.of(hyper)
    card: dict[str, Any] = {
        "method": method,
        "hyperparameters": hyper,
        "objective": objective.facts(),
        "reward_scale": scale,
        "lora": lora,
        "options": {"batch_size": 4, "logging_steps": 1} | options,
        "data": {
            "max_length": 2048,
            "train": {"groups": 100, "unusable": 0 if scenario.get("is_clean") else 30},
            "eval": {"groups": 100},
        },
    } | scenario.get("card", {})
    card["run"] = {"method": method} | of_run | scenario.get("card", {}).get("run", {})
    made = a_run(scenario["steps"], scenario.get("evaluations", []), **card)
    account = ACCOUNT if scenario.get("evaluations") and not scenario.get("is_clean") else Account()
    return Run(made.folder, made.card, made.steps, made.evaluations, account)


def _given(run: Run) -> dict[str, Any]:
    """What the user had typed for this run."""
    card = run.card
    own = {**card.hyperparameters, **card.block("options"), **card.lora, **card.block("run")}
    return {"model": "demo", "data": "x.jsonl", "output": "run"} | own


@cache
def _parser(command: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(exit_on_error=False)
    {"train": train_command, "audit": audit_command}[command].add_flags(found)
    return found


def _is_a_value(name: str, word: str) -> bool:
    """Whether a word behind an option is its value, and not the sentence that goes on."""
    action = _parser("train")._option_string_actions["--" + name.replace("_", "-")]
    if not word or action.nargs == 0:
        return False
    return word[0].isdigit() or word in (action.choices or METHODS) or name in ("lora_targets", "reference")


def _typed(run: Run, words: str) -> None:
    """Parse the run with the advice followed; raises where the program would refuse it."""
    flags: list[str] = []
    for name, word in mentions(words):
        option = "--" + name.replace("_", "-")
        assert option in _parser("train")._option_string_actions, f"train knows no {option}"
        if _is_a_value(name, word):
            flags += [option, word]
        elif name in hyperparameter_fields() and "--method" not in words:
            assert run.method in hyperparameter_fields()[name], f"{run.method} takes no {option}"
    given, own = _parsed(*flags), _given(run)
    for name in given:
        own.pop(RIVALS.get(name, ""), None)
    if given.get("method", run.method) != run.method:  # whoever changes the method drops what belonged to the other
        own = {name: value for name, value in own.items() if not is_hyperparameter(name)}
    parse({**own, **given})


@cache
def _parsed(*flags: str) -> dict[str, Any]:
    return {name: value for name, value in vars(_parser("train").parse_args(flags)).items() if name != "config"}


@cache
def _audited(words: str) -> None:
    command = words[words.index("likelier audit ") :].split()[2:]
    flags = [word.rstrip(",;:") for word in command]
    for stop in ("keeps", "says", "lists", "finds"):
        flags = flags[: flags.index(stop)] if stop in flags else flags
    _parser("audit").parse_args(flags)


def _every() -> Iterator[tuple[str, str, str]]:
    """Every scenario for every method, with its defaults and with one of the other sets of options, in turn."""
    plain, *others = OWN
    for at, method in enumerate(METHODS):
        for number, name in enumerate(_scenarios(), at):
            if name == "distant" and not METHODS[method].needs_reference:
                continue  # it names another reference, which such a run refuses
            yield from ((method, name, variant) for variant in (plain, others[number % len(others)]))


def test_every_advice_of_every_verdict_can_be_typed_for_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typing, "get_type_hints", cache(typing.get_type_hints))  # the parser's, again and again
    seen: set[str] = set()
    typed: set[tuple[str, str, str]] = set()
    refused = []
    for method, name, variant in _every():
        run = _run(method, _scenarios()[name], _own(method, variant))
        for one in diagnose(run):
            seen.add(one.name)
            for words in one.advice:
                if (method, variant, words) in typed:
                    continue
                typed.add((method, variant, words))
                try:
                    _audited(words) if "likelier audit" in words else _typed(run, words)
                except (LikelierError, AssertionError, argparse.ArgumentError, SystemExit) as error:
                    refused.append(f"{method} {name} {variant}: {one.name}: {words!r}: {error}")
    assert not refused, "\n".join(dict.fromkeys(refused))
    missed = set(CATALOGUE) - seen - WITHOUT_ADVICE - OF_OWN_ANSWERS
    assert not missed, f"no run here leads to {missed}"


def test_no_advice_names_what_the_run_has() -> None:
    for method, name, variant in _every():
        run = _run(method, _scenarios()[name], _own(method, variant))
        own = _given(run)
        for one in diagnose(run):
            for option, word in ((option, word) for words in one.advice for option, word in mentions(words)):
                has = own.get(option)
                assert has is None or str(has) != word, f"{method} {name} {variant} {one.name}: --{option} {word}"


def test_no_two_verdicts_pull_the_other_way() -> None:
    facts = Facts(a_run(growing(), learning_rate={"value": 1e-5}, options={"batch_size": 8}))

    def verdict(name: str, *advice: str) -> Verdict:
        return Verdict(name, "warning", "", (), "", advice)

    first = verdict("a", "--learning-rate 2e-6, or fewer steps", "--batch-size 16")
    other = verdict("b", "--learning-rate 1e-4", "more steps", "--epochs 9", "--batch-size 2", "--beta 0.2")
    assert [one.advice for one in fitting(facts, [first, other])] == [first.advice, ("--beta 0.2",)]


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_that_is_there_is_not_proposed(method: str) -> None:
    frozen = [row | {"grad_norm": 0.0} for row in growing()]
    without, own = (_run(method, {"steps": frozen}, _own(method, name)) for name in ("plain", "followed"))
    assert any("--lora-r 16" in one for one in the(without, "not-learning/frozen-weights").advice)
    assert not any("--lora-r" in one for one in the(own, "not-learning/frozen-weights").advice)


def test_places_of_other_commands_are_no_options_of_a_run() -> None:
    assert mentions("likelier audit DATA --drop exact-duplicates") == []
    assert mentions("--max-steps 10: best there; --warmup 0.2, so") == [("max_steps", "10"), ("warmup", "0.2")]
    assert Path("/nowhere") == a_run([]).folder
