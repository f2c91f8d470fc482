"""What `import-config` makes of TRL's losses is held against the numbers of the installed TRL."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from likelier.objectives import Scored
from tests.cli.test_import_config import BARE, CPOConfig, CPOTrainer, ORPOConfig, draft_of, factory, said, trl, written
from tests.objectives.test_versus_trl import COMPARED

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOTrainer

LENGTHS = torch.arange(1, 17)
PAIRS = torch.arange(16).reshape(8, 2)


def means() -> torch.Tensor:
    """Mean log-probabilities per token of 8 pairs: chosen, rejected."""
    return -0.05 - 3 * torch.rand(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", COMPARED)
def test_the_options_of_a_run_that_agrees_with_trl_become_its_objective(name: str, tmp_path: Path) -> None:
    """`test_versus_trl` trains both for five steps; what is imported is what was trained there."""
    objective, options = COMPARED[name]
    found = written(trl(tmp_path, **options), tmp_path).objective
    assert (found.method, found.hyperparameters()) == (objective.method, objective.hyperparameters())


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "sigmoid", "beta": 0.3},
        {"loss_type": "alphapo", "beta": 2.5, "simpo_gamma": 0.4, "alpha": 0.25},
        {"loss_type": "alphapo", "beta": 2.5, "simpo_gamma": 0.4, "alpha": -0.5},
        {"loss_type": "simpo", "beta": 0.1, "alpha": 0.5},
    ],
)
def test_imported_cpo_and_alphapo_have_the_loss_of_trls_trainer(options: dict[str, Any], tmp_path: Path) -> None:
    draft = trl(tmp_path, **options | {"cpo_alpha": 0.0})
    ours = written(draft, tmp_path).objective
    filled = {"simpo_gamma": CPOConfig.simpo_gamma, "alpha": CPOConfig.alpha, "label_smoothing": 0.0} | options
    filled["loss_type"] = {"alphapo": "simpo"}.get(options["loss_type"], options["loss_type"])
    theirs = SimpleNamespace(**filled, accelerator=SimpleNamespace(device="cpu"))
    logps = means().flatten() * LENGTHS
    given = logps[PAIRS] if options["loss_type"] == "sigmoid" else means()  # sums for CPO, means for SimPO
    expected = CPOTrainer.cpo_loss(theirs, given[:, 0], given[:, 1])[0]
    found = ours.losses(Scored.of(logps, LENGTHS, pairs=PAIRS))
    assert torch.allclose(found, expected, rtol=1e-9)


def test_the_defaults_of_cpo_and_orpo_are_those_of_the_installed_trl(tmp_path: Path) -> None:
    cpo, theirs = trl(tmp_path, cpo_alpha=None).options, CPOConfig
    assert theirs.loss_type == "sigmoid" and cpo["method"] == "cpo"
    assert (cpo["beta"], cpo["nll_weight"]) == (theirs.beta, theirs.cpo_alpha)
    orpo = draft_of(tmp_path, BARE, "trl", trainer="orpo").options
    assert orpo["odds_weight"] == ORPOConfig.beta and orpo["learning_rate"] == ORPOConfig.learning_rate
    assert orpo["max_length"] == ORPOConfig.max_length


def test_imported_orpo_has_the_loss_of_trls_trainer_and_an_answers_own_likelihood(tmp_path: Path) -> None:
    """TRL adds the mean likelihood of prompt and answer to it, which is said; here it is the answer's."""
    draft = draft_of(tmp_path, BARE | {"beta": 0.3}, "trl", trainer="orpo")
    assert "as in the paper" in said(draft)
    chosen, rejected = means().T
    theirs = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    expected = -chosen - ORPOTrainer.odds_ratio_loss(theirs, chosen, rejected)[0]
    for one in (draft, factory(tmp_path, pref_loss="orpo", pref_beta=0.3)):
        objective = written(one, tmp_path).objective
        found = objective.losses(Scored.of(means().flatten() * LENGTHS, LENGTHS, pairs=PAIRS))
        assert torch.allclose(found, expected, rtol=1e-5)  # theirs is in float32


def test_imported_sppo_is_half_of_trls_sum_and_keeps_the_share_of_what_stands_beside_it(tmp_path: Path) -> None:
    draft = trl(tmp_path, loss_type=["sppo_hard", "sft"], loss_weights=[1.0, 0.3], beta=0.2)
    logps, reference = means().flatten() * LENGTHS, means().flip(0).flatten() * LENGTHS
    found = written(draft, tmp_path).objective.losses(Scored.of(logps, LENGTHS, reference, pairs=PAIRS))
    chosen, rejected = (logps - reference)[PAIRS].T
    squares = (chosen - 0.5 / 0.2) ** 2 + (rejected + 0.5 / 0.2) ** 2
    expected = squares - 0.3 * means()[:, 0]
    assert torch.allclose(2 * found, expected, rtol=1e-9)
