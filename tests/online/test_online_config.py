"""The options of runs that learn from their own answers: help, page, and what is refused before anything is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

from likelier.cli import main as cli
from likelier.objectives.advantages import Advantages
from likelier.objectives.base import hyperparameter
from likelier.objectives.grpo_family import GRPO_FAMILY
from likelier.objectives.metrics import MetricSums
from likelier.objectives.online import ONLINE_METHODS
from likelier.objectives.online_base import OnlineObjective
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import SequenceScores
from likelier.online.config import ONLINE_NAMES, parse_online, parse_run, preset_default
from likelier.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {"method": "grpo", "model": "m", "data": "d", "output": "o", "reward": "json"}


def refused(**values: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        parse_online(NEEDED | values)
    return str(raised.value)


def test_the_help_has_every_option_with_what_the_presets_have(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert not [name for name in ONLINE_NAMES if f"--{name.replace('_', '-')}" not in shown]
    assert "default: 8; dapo 16, rloo 4, cispo 16, reinforce 1, online_dpo 2, rebel 2, ppo 1)" in shown
    assert "()" not in shown and "--answers-per-prompt ANSWERS" in shown
    assert "--top-p" not in shown


def test_the_page_of_options_has_every_one() -> None:
    spec = importlib.util.spec_from_file_location("options_hook", ROOT / "docs/hooks/options.py")
    assert spec is not None and spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = hook.on_page_markdown((ROOT / "docs/options.md").read_text(encoding="utf-8"))
    assert not [name for name in ONLINE_NAMES if f"| `{name}` |" not in page]
    assert f"| `clip_high` | {preset_default('clip_high')} |" in page


def test_a_preset_s_values_are_told_by_what_most_have() -> None:
    assert preset_default("kl_coefficient") == "0; rloo 0.05, rebel 0.05, ppo 0.05"
    assert preset_default("weight_high") == "cispo 5"
    assert preset_default("clip_dual") == ""
    assert preset_default("clip_low") == "0.2; gspo 0.0003, cispo none, reinforce none"


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p", "repetition_penalty"])
def test_a_distribution_that_is_cut_is_refused_with_the_reason(name: str) -> None:
    assert "the policy's whole distribution" in refused(**{name: 0.9})


@pytest.mark.parametrize(
    ("name", "ours"),
    [("beta", "kl_coefficient"), ("num_generations", "answers_per_prompt"), ("num_iterations", "updates_per_rollout")],
)
def test_a_name_of_another_tool_is_answered_with_ours(name: str, ours: str) -> None:
    assert refused(**{name: 2}).endswith(f"here it is called {ours}")


def test_an_option_of_other_methods_says_whose_it_is() -> None:
    assert refused(tau=0.1) == "tau has no effect on grpo; it belongs to ipo"


@pytest.mark.parametrize("method", [preset.method for preset in GRPO_FAMILY])
def test_a_place_is_refused_where_no_divergence_is_charged(method: str) -> None:
    assert "kl_place has no effect" in refused(method=method, kl_place="loss", kl_coefficient=0)
    config = parse_online(NEEDED | {"method": method, "kl_place": "loss", "kl_coefficient": 0.1})
    assert config.objective.hyperparameters()["kl_coefficient"] == 0.1


@dataclass(frozen=True)
class Another(OnlineObjective):
    """A method of another kind, with an option of its own and one that is called as an offline method's."""

    run_defaults: ClassVar[Mapping[str, Any]] = {"updates_per_rollout": 3}

    beta: float = hyperparameter(0.5, "of another kind")
    patience: int = hyperparameter(2, "of another kind")

    @property
    def needs_reference(self) -> bool:
        return False

    def advantages(self, rewards: Tensor, group_of: Tensor, **more: Any) -> Advantages:
        return Advantages(rewards, ~rewards.isnan())

    def losses(self, scores: SequenceScores, items: RolloutItems, step: StepCounts) -> Tensor:
        return -scores.logps / step.answers

    def metrics(self, scores: SequenceScores, items: RolloutItems) -> MetricSums:
        return MetricSums()


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setitem(ONLINE_METHODS, "another", Another("another", "nobody", answers_per_prompt=2))
    return NEEDED | {"method": "another"}


def test_the_options_of_a_method_are_those_of_its_kind(another: dict[str, str]) -> None:
    made = parse_online(another | {"beta": 0.2}).objective
    assert made.hyperparameters() == {"answers_per_prompt": 2, "beta": 0.2, "patience": 2}
    family = ", ".join([*(preset.method for preset in GRPO_FAMILY), "ppo"])
    assert refused(method="another", clip_low=0.1) == f"clip_low has no effect on another; it belongs to {family}"
    assert refused(patience=1) == "patience has no effect on grpo; it belongs to another"
    assert preset_default("patience") == "another 2" and preset_default("answers_per_prompt").endswith("another 2")


def test_a_method_has_defaults_for_the_run(another: dict[str, str]) -> None:
    assert parse_online(another).online.updates_per_rollout == 3
    assert parse_online(another | {"updates_per_rollout": 1}).online.updates_per_rollout == 1
    assert parse_online(NEEDED).online.updates_per_rollout == 1


def test_an_offline_method_keeps_an_option_that_an_online_one_has_too(another: dict[str, str]) -> None:
    values = {name: another[name] for name in ("model", "data", "output")}
    assert parse_run(values | {"beta": 0.3}).objective.hyperparameters()["beta"] == 0.3
    with pytest.raises(ConfigError, match=r"clip_low has no effect on dpo; it belongs to grpo, .*, reinforce, ppo$"):
        parse_run(values | {"clip_low": 0.1})
