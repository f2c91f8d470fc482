"""A weighted sum of losses is the sum of its parts: in value, gradient, metrics and in what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from likelier import DPO, IPO, KTO, SFT, APODown, Hinge, RewardModel, SimPO
from likelier.objectives import AOT, CPO, LDDPO, SPPO, WPO, AOTUnpaired, CalDPO, Objective, Scored, WeightedSum
from likelier.objectives.base import State
from likelier.objectives.pairwise import LogRatioPair
from likelier.objectives.scored import Place
from likelier.training.config import parse
from likelier.training.evaluation.heldout import step_sums
from likelier.utils.errors import ConfigError
from tests.helpers.loss_oracle import World

PARTS: tuple[Objective, ...] = (DPO(beta=0.3), SPPO(beta=0.2), CPO(beta=0.3, nll_weight=0.4), IPO(tau=0.4))
SUM = WeightedSum(loss=tuple(zip(PARTS, (0.8, 0.25, 1.5, 3.0), strict=True)), nll_weight=0.7)


def slopes(objective: Objective, scored: Scored) -> torch.Tensor:
    logps = scored.logps.clone().requires_grad_()
    objective.losses(scored.with_sums(logps)).sum().backward()
    assert logps.grad is not None
    return logps.grad


def test_value_and_gradient_are_those_of_the_parts() -> None:
    """`nll_weight` is its own part: what it adds to a method is what it adds to the sum."""
    scored = World().of_pairs()
    weighted = [(weight, part) for part, weight in SUM.loss]
    bare, likely = DPO(beta=0.3), DPO(beta=0.3, nll_weight=0.7)
    value = sum(weight * part.losses(scored) for weight, part in weighted) + likely.losses(scored) - bare.losses(scored)
    slope = (
        sum(weight * slopes(part, scored) for weight, part in weighted) + slopes(likely, scored) - slopes(bare, scored)
    )
    assert torch.allclose(SUM.losses(scored), torch.as_tensor(value), rtol=1e-14, atol=1e-14)
    assert torch.allclose(slopes(SUM, scored), torch.as_tensor(slope), rtol=1e-13, atol=1e-14)


def test_the_gradient_is_that_of_the_value() -> None:
    scored = World().of_pairs()
    assert torch.autograd.gradcheck(lambda logps: SUM.losses(scored.with_sums(logps)), scored.logps.requires_grad_())


def test_weights_are_not_divided_by_their_sum() -> None:
    scored = World().of_pairs()
    double = replace(SUM, loss=tuple((part, 2 * weight) for part, weight in SUM.loss), nll_weight=1.4)
    assert torch.allclose(double.losses(scored), 2 * SUM.losses(scored), rtol=1e-14)


def test_parts_are_logged_and_add_up_under_the_rows_weights() -> None:
    world = World()
    weights = torch.linspace(0.5, 2.0, len(world.pairs), dtype=torch.double)
    scored = world.of_pairs().with_items(weights=weights)
    means = step_sums(SUM, scored, None, SUM.weighted_losses(scored)).means()
    assert [name for name in means if name.startswith("loss/")] == [
        *("loss/dpo", "loss/sppo", "loss/cpo", "loss/ipo", "loss/nll")
    ]
    of_parts = sum(weight * means[f"loss/{part.method}"] for part, weight in SUM.loss) + 0.7 * means["loss/nll"]
    assert means["loss"] == pytest.approx(of_parts, rel=1e-14)
    assert means["loss/dpo"] == pytest.approx(float((weights * PARTS[0].losses(scored)).mean()))
    assert "loss/nll" not in step_sums(replace(SUM, nll_weight=0.0), scored, None, weights).sums
    assert not [name for name in step_sums(DPO(), scored, None, weights).sums if name.startswith("loss/")]


def test_rewards_and_strength_are_those_of_the_part_that_is_named_first() -> None:
    scored = World().of_pairs()
    for first in (IPO(tau=0.4), SimPO(beta=2.5), CPO(beta=0.3)):
        found = WeightedSum(loss=((first, 0.1), (Hinge(), 5.0)))
        assert torch.equal(found.rewards(scored), first.rewards(scored))
        assert found.reward_scale() == first.reward_scale() and found.rewards_per_token == first.rewards_per_token
        assert found.strength == f"{first.method}.{first.strength}" and found.learning_rate == first.learning_rate
        assert first.learning_rate_source in found.learning_rate_source


def test_what_it_needs_and_takes_is_what_its_parts_do() -> None:
    free, bound = WeightedSum(loss=((SimPO(), 1.0), (CPO(), 1.0))), WeightedSum(loss=((SimPO(), 1.0), (DPO(), 1.0)))
    assert not free.needs_reference and bound.needs_reference and bound.facts()["needs_reference"]
    assert free.losses(World().of_pairs().with_items(ref_logps=None)).isfinite().all()
    assert bound.takes_margins and bound.takes_soft_labels and not free.takes_margins and not free.takes_soft_labels
    assert not bound.lowers_both and WeightedSum(loss=((APODown(), 1.0), (DPO(), 1.0))).facts()["lowers_both"] is False
    special = WeightedSum(loss=((DPO(), 1.0), (LDDPO(), 1.0), (WPO(), 1.0)))
    assert special.needs_heads and special.needs_collisions and not bound.needs_heads and not bound.needs_collisions
    assert WeightedSum(loss=((DPO(), 1.0), (CalDPO(), 1.0))).has_target and not bound.has_target


def test_where_it_is_satisfied_is_where_the_last_part_is() -> None:
    assert WeightedSum(loss=((DPO(beta=0.1), 1.0), (Hinge(beta=0.2), 1.0))).satisfied_at() == pytest.approx(50.0)
    assert WeightedSum(loss=((DPO(beta=0.1), 1.0), (IPO(tau=0.4), 1.0))).satisfied_at() is None  # in other units
    assert WeightedSum(loss=((DPO(), 1.0), (CPO(), 1.0))).satisfied_at() is None


def test_what_depends_on_the_data_is_filled_in_in_the_parts() -> None:
    found = WeightedSum(loss=((IPO(), 1.0), (DPO(), 0.5)), nll_weight=0.3)
    expected = WeightedSum(loss=((IPO(tau=4.0), 1.0), (DPO(), 0.5)), nll_weight=0.3)
    assert found.resolved(40.0) == expected
    assert found.resolved(40.0).facts()["strength_from_data"] and not SUM.facts()["strength_from_data"]
    words = found.resolved(40.0).explain(40.0)
    for part in ("1 times ipo (mean log-ratio", "0.5 times dpo (sums", "0.3 times the chosen answer's", "are ipo's"):
        assert part in words


# --- parts that know their step --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shifted(LogRatioPair):
    """Carries the sum of all pairs' log-ratios that it has seen, and takes it off each pair's loss."""

    method: ClassVar[str] = "shifted"
    needs_step: ClassVar[bool] = True

    def first_state(self) -> State:
        return {"seen": torch.zeros((), dtype=torch.float64)}

    def step_statistics(self, scored: Scored) -> torch.Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return torch.stack([(chosen + rejected).sum(), torch.ones_like(chosen).sum()]).detach()

    def next_state(self, statistics: torch.Tensor) -> State:
        return {"seen": self.state["seen"] + statistics[0]}

    def pair_losses(self, scored: Scored) -> torch.Tensor:
        chosen, rejected = scored.chosen_rejected(scored.logratios)
        return rejected - chosen - self.state["seen"]

    def state_metrics(self) -> dict[str, torch.Tensor]:
        return dict(self.state)


def in_parts(objective: Objective, scored: Scored, sizes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and summed statistics of a step that is cut into micro-batches."""
    assert scored.items.pairs is not None
    cut, first = [], 0
    for pairs in scored.items.pairs.split(sizes):
        cut.append(replace(scored.with_items(pairs=pairs), place=Place(first, sum(sizes))))
        first += len(pairs)
    found = [objective.step_statistics(part) for part in cut]
    statistics = torch.stack([one for one in found if one is not None]).sum(0)
    return torch.cat([objective.after(statistics).losses(part, statistics) for part in cut]), statistics


@pytest.mark.parametrize("sizes", [(1, 3), (2, 2)])
@pytest.mark.parametrize(
    "parts", [(DPO(), AOT(beta=0.3)), (AOTUnpaired(beta=0.3), DPO(), AOT(beta=0.2)), (AOT(beta=0.3), Shifted())]
)
def test_how_a_step_is_cut_changes_nothing(parts: tuple[Objective, ...], sizes: tuple[int, ...]) -> None:
    whole = World().of_pairs()
    assert whole.items.pairs is not None
    whole = whole.with_items(pairs=whole.items.pairs[:4], flip_chances=None, margins=None, weights=None)
    found = WeightedSum(loss=tuple((part, number + 0.5) for number, part in enumerate(parts)), nll_weight=0.3)
    assert found.needs_step and found.judges_alone() is False
    statistics = found.step_statistics(whole)
    losses, summed = in_parts(found, whole, sizes)
    assert statistics is not None and torch.allclose(summed, statistics)
    assert torch.allclose(losses, found.after(statistics).losses(whole, statistics), atol=1e-12)
    alone = [weight * in_parts(part, whole, sizes)[0] for part, weight in found.loss if part.needs_step]
    others = WeightedSum(loss=((Hinge(), 1.0), (DPO(), 1.0)), nll_weight=0.3)
    free = [weight * part.losses(whole) for part, weight in found.loss if not part.needs_step]
    likely = others.part_losses(whole)["nll"]
    assert torch.allclose(losses, torch.stack([*alone, *free, 0.3 * likely]).sum(0), atol=1e-12)


def test_what_a_part_carries_is_carried_by_the_sum() -> None:
    scored = World().of_pairs()
    found = WeightedSum(loss=((DPO(), 1.0), (Shifted(), 2.0)))
    statistics = found.step_statistics(scored)
    assert statistics is not None and found.recorded_state() == {"shifted.seen": 0.0} and found.judges_alone()
    later = found.after(statistics).after(statistics)
    seen = 2 * float(statistics[0])
    assert later.recorded_state() == {"shifted.seen": pytest.approx(seen)} and later == found
    assert torch.allclose(later.losses(scored, statistics), found.losses(scored, statistics) - 2 * seen)
    assert {name: float(one) for name, one in later.state_metrics().items()} == {"seen": pytest.approx(seen)}
    assert found.with_state(later.recorded_state()).recorded_state() == later.recorded_state()


# --- by name ---------------------------------------------------------------------------------------------------------


def made(**given: Any) -> Objective:
    return parse({"method": "weighted_sum", "model": "m", "data": "d", "output": "o", **given}).objective


@pytest.mark.parametrize(
    "loss",
    [
        "dpo=0.8 apo-down=0.2",
        ["dpo=0.8", "apo_down=0.2"],
        {"dpo": 0.8, "apo_down": 0.2},
        {"dpo": "0.8", "apo-down": 0.2},
    ],
)
def test_all_spellings_make_the_same_sum(loss: Any) -> None:
    found = made(loss=loss, nll_weight="1", **{"dpo.label-smoothing": "0.1", "apo_down.beta": 0.2})
    expected = WeightedSum(loss=((DPO(label_smoothing=0.1), 0.8), (APODown(beta=0.2), 0.2)), nll_weight=1.0)
    assert found == expected and hash(found) == hash(expected)


def test_a_run_is_read_back_as_it_was() -> None:
    own = SUM.hyperparameters()
    assert own["loss"] == "dpo=0.8 sppo=0.25 cpo=1.5 ipo=3.0" and own["cpo.nll_weight"] == 0.4
    assert WeightedSum.of(own) == SUM and "dpo.nll_weight" not in own


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "loss is missing; write METHOD=WEIGHT for each of at least two, such as dpo=0.8 sppo=0.2"),
        ({"loss": "dpo=1"}, "at least two losses, each once; of a single one take the method itself"),
        ({"loss": "dpo=1 dpo=2"}, "loss: dpo stands there twice"),
        ({"loss": "dpo=1 dop=2"}, "loss: unknown method 'dop'; known: dpo"),
        ({"loss": "dpo=1 sppo"}, "loss: '' is no weight of sppo"),
        ({"loss": {"dpo": 1, "sppo": True}}, "weight of sppo=nan"),
        ({"loss": "dpo=1 sppo=-1"}, "weight of sppo=-1.0 is out of range; it must be above 0"),
        ({"loss": "dpo=1 sft=1"}, r"loss='sft'.*\(nll_weight adds the likelihood of the chosen answers\)"),
        ({"loss": "dpo=1 kto=1"}, "loss='kto' is out of range; it must be a loss of pairs' answers"),
        ({"loss": "dpo=1 reward=1"}, "loss='reward' is out of range"),
        ({"loss": "dpo=1 sppo=1", "beta": 0.1}, "beta has no effect on weighted_sum.*has: loss, nll_weight, dpo.beta"),
        ({"loss": "dpo=1 sppo=1", "ipo.tau": 0.1}, "ipo.tau has no effect on weighted_sum"),
        ({"loss": "dpo=1 sppo=1", "sppo.label_smoothing": 0.1}, "sppo.label_smoothing has no effect on weighted_sum"),
        ({"loss": "dpo=1 sppo=1", "dpo.nll_weight": 1}, "dpo.nll_weight=1.0.*nll_weight adds that term to the whole"),
        ({"loss": "dpo=1 sppo=1", "dpo.beta": "much"}, "dpo.beta='much' is not a number"),
        ({"loss": "dpo=1 sppo=1", "dpo.beta": -1}, "dpo: beta=-1.0 is out of range"),
        ({"loss": "dpo=1 sppo=1", "dpo.bta": 1}, "unknown option 'dpo.bta'"),
        ({"loss": "simpo=1 cpo=1", "reference": "base"}, "weighted_sum uses no reference"),
        ({"loss": "dpo=1 sppo=1", "use_margins": "column"}, "weighted_sum has no place for a margin"),
        (
            {"loss": "dpo=1 simpo=1", "dpo.label_smoothing": 0.1, "use_votes": "soft"},
            "use_votes=soft and dpo.label_smoothing=0.1 contradict each other",
        ),
        ({"method": "dpo", "loss": "dpo=1 sppo=1"}, r"loss has no effect on dpo \(it belongs to weighted_sum"),
        ({"method": "dpo", "dpo.beta": 1}, "dpo.beta has no effect on dpo"),
    ],
)
def test_what_cannot_be_or_has_no_effect_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**given)


def test_only_losses_of_pairs_answers_add_up() -> None:
    for other in (KTO(), SFT(), RewardModel(), WeightedSum(loss=((DPO(), 1.0), (SPPO(), 1.0)))):
        with pytest.raises(ValueError, match="is out of range; it must be a loss of pairs' answers that is no sum"):
            WeightedSum(loss=((Hinge(), 1.0), (other, 1.0)))
