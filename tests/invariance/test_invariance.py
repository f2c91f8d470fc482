"""How a step is cut, padded, ordered, cached or resumed changes no number (fp64, all objectives)."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

from examples.plain_loop import TokenPair
from examples.plain_loop import train as plain_train
from likelier import DPO, IPO, KTO, APODown, APOZero, Hinge, PreferenceTrainer, RobustDPO, SigmoidNorm, SimPO
from likelier.data.records import Record
from likelier.models.policy import Policy
from likelier.objectives import Objective
from likelier.runs.folder import RunFolder
from likelier.scoring.engine import micro_batches
from tests.helpers.support import chat_pairs, labelled_rows, logged, lora_policy, tiny_policy

pytestmark = pytest.mark.slow

PAIRED: list[Objective] = [
    DPO(),
    DPO(label_smoothing=0.1),
    RobustDPO(),
    IPO(tau=0.5),
    SimPO(),
    Hinge(beta=0.1),
    SigmoidNorm(),
    APOZero(),
    APODown(),
]
ALL: list[Objective] = [*PAIRED, KTO(desirable_weight=1.3)]
BASIC = {"batch_size": 8, "max_steps": 3, "learning_rate": 1e-3, "scheduler": "constant"}


def _name(objective: Objective) -> str:
    return objective.method + ("+smoothing" if getattr(objective, "label_smoothing", 0) else "")


def _data(objective: Objective, count: int = 20) -> Sequence[Record]:
    return labelled_rows(count) if objective.data == "labels" else chat_pairs(count)


def _train(
    folder: Path,
    objective: Objective,
    policy: Policy | None = None,
    data: Sequence[Record] | None = None,
    **options: object,
) -> tuple[Policy, list[dict[str, float]]]:
    policy = policy or tiny_policy()
    trainer = PreferenceTrainer(
        policy, objective, data or _data(objective), output_dir=folder, **{**BASIC, "token_budget": 100_000, **options}
    )
    trainer.train()
    return policy, logged(trainer)


def _assert_same(left: Policy, right: Policy, tolerance: float = 1e-10) -> None:
    others = dict(right.model.named_parameters())
    for name, parameter in left.model.named_parameters():
        torch.testing.assert_close(parameter, others[name], atol=tolerance, rtol=0, msg=name)


Trained = tuple[Policy, list[dict[str, float]]]


@pytest.fixture(scope="module")
def in_whole_steps(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Objective], Trained]:
    """A run of an objective whose steps are not cut, made for the first test that asks."""

    @cache
    def made(objective: Objective) -> Trained:
        root = tmp_path_factory.mktemp("whole")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LIKELIER_CACHE", str(root / "cache"))
            return _train(root / "run", objective)

    return made


@pytest.mark.parametrize("objective", ALL, ids=_name)
@pytest.mark.parametrize("token_budget", [1, 110, 200])
def test_micro_batches_change_nothing(
    tmp_path: Path, objective: Objective, token_budget: int, in_whole_steps: Callable[[Objective], Trained]
) -> None:
    whole, whole_metrics = in_whole_steps(objective)
    cut, cut_metrics = _train(tmp_path / "cut", objective, token_budget=token_budget)
    _assert_same(whole, cut)
    # At the start all rewards are 0, and rounding decides the ties.
    rounded = {"rewards/accuracies": cut_metrics[0]["rewards/accuracies"]}
    for expected, found in zip([whole_metrics[0] | rounded, *whole_metrics[1:]], cut_metrics, strict=True):
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_budgets_above_do_cut_differently(tmp_path: Path) -> None:
    trainer = PreferenceTrainer(tiny_policy(), DPO(), chat_pairs(8), output_dir=tmp_path / "run", batch_size=8)
    counts = [
        len(micro_batches(trainer.policy.model, trainer.train_groups, budget)) for budget in (1, 110, 200, 100_000)
    ]
    assert counts[0] == 8 and counts[-1] == 1 and 8 > counts[1] > counts[2] > 1


@pytest.mark.parametrize("objective", PAIRED, ids=_name)
def test_order_within_a_step_changes_nothing(tmp_path: Path, objective: Objective) -> None:
    rows = list(_data(objective, 8))
    one, _ = _train(tmp_path / "a", objective, data=rows, order="file")
    other, _ = _train(tmp_path / "b", objective, data=rows[::-1], order="file")
    _assert_same(one, other)


def test_kto_rows_of_a_step_in_any_order(tmp_path: Path) -> None:
    """KTO's partners are fixed by the data's own order, so here the groups are turned round once they have theirs."""
    trainer = PreferenceTrainer(tiny_policy(), KTO(), labelled_rows(8), output_dir=tmp_path / "a", **BASIC)
    other = PreferenceTrainer(tiny_policy(), KTO(), labelled_rows(8), output_dir=tmp_path / "b", **BASIC)
    other.train_groups = other.train_groups[::-1]
    trainer.train()
    other.train()
    _assert_same(trainer.policy, other.policy)


@pytest.mark.parametrize("objective", ALL, ids=_name)
def test_stored_reference_equals_a_live_one(tmp_path: Path, objective: Objective) -> None:
    stored, _ = _train(tmp_path / "stored", objective)
    if objective.needs_reference:
        live, _ = _train(tmp_path / "live", objective, reference_scores="live")
        _assert_same(stored, live)
    again, _ = _train(tmp_path / "again", objective)  # now every score comes from the store
    _assert_same(stored, again, tolerance=0)
    if objective.needs_reference:
        assert RunFolder(tmp_path / "again").read_card()["reference"]["scores"].startswith("0 computed")


@pytest.mark.parametrize("objective", [DPO(), KTO()], ids=_name)
def test_adapter_off_is_the_base(tmp_path: Path, objective: Objective) -> None:
    by_adapter, _ = _train(tmp_path / "off", objective, lora_policy(), reference="base", reference_scores="live")
    by_model, _ = _train(tmp_path / "base", objective, lora_policy(), reference=tiny_policy(), reference_scores="live")
    _assert_same(by_adapter, by_model)
    cards = [RunFolder(tmp_path / name).read_card()["reference"]["identity"] for name in ("off", "base")]
    assert cards[0] == cards[1]  # the base under an adapter is known as the same model


@pytest.mark.parametrize(
    ("objective", "make_policy"),
    [*((objective, tiny_policy) for objective in ALL), (DPO(), lora_policy), (KTO(desirable_weight=1.3), lora_policy)],
    ids=lambda value: _name(value) if isinstance(value, Objective) else value.__name__,
)
def test_resumed_equals_uninterrupted(tmp_path: Path, objective: Objective, make_policy: Callable[[], Policy]) -> None:
    options = {"max_steps": None, "epochs": 2, "save_steps": 2, "scheduler": "cosine", "token_budget": 300}
    straight, straight_metrics = _train(tmp_path / "straight", objective, make_policy(), **options)

    class Stopped(Exception):
        pass

    trainer = PreferenceTrainer(
        make_policy(), objective, _data(objective), output_dir=tmp_path / "cut", **{**BASIC, **options}
    )
    step = trainer.training_step

    def stop_at_four(*args: object, **kwargs: object) -> torch.Tensor:
        if trainer.state.global_step == 3:
            raise Stopped
        return step(*args, **kwargs)  # type: ignore[arg-type]

    trainer.training_step = stop_at_four  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        trainer.train()
    resumed, metrics = _train(tmp_path / "cut", objective, make_policy(), resume=True, **options)
    _assert_same(straight, resumed, tolerance=0)
    assert metrics == straight_metrics
    assert RunFolder(tmp_path / "cut").read_card()["status"] == "done"


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_result_loads_and_scores_as_it_was_trained(tmp_path: Path, lora: bool) -> None:
    from likelier import load_policy

    base = tmp_path / "base"
    source = tiny_policy(dtype=torch.float32)
    source.model.save_pretrained(base)
    source.tokenizer.save_pretrained(base)
    from likelier import LoraOptions

    policy = load_policy(base, lora=LoraOptions(lora_r=4) if lora else None)
    trained, _ = _train(tmp_path / "run", DPO(), policy, learning_rate=1e-2)
    ids = torch.tensor([[5, 6, 7, 8]])
    loaded = load_policy(tmp_path / "run")
    assert loaded.model.config.use_cache
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, trained.model(input_ids=ids).logits)


def test_trainer_equals_the_plain_loop(tmp_path: Path) -> None:
    policy = tiny_policy()
    trainer = PreferenceTrainer(
        policy,
        DPO(beta=0.3),
        chat_pairs(20),
        output_dir=tmp_path / "run",
        order="file",
        **{**BASIC, "token_budget": 300},
    )
    pairs = [
        TokenPair(group.prompt.tolist(), group.answers[0].tolist(), group.answers[1].tolist())
        for group in trainer.train_groups
    ]
    steps = [pairs[0:8], pairs[8:16], pairs[16:20]]
    plain = tiny_policy()
    plain_losses = plain_train(plain.model, steps, beta=0.3, learning_rate=1e-3)
    trainer.train()
    assert [logs["loss"] for logs in trainer.folder.read_metrics()] == pytest.approx(plain_losses, abs=1e-10)
    _assert_same(policy, plain)
