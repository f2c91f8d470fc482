"""Below the seam every tensor that is made says on which device, or stands in the list of those that are meant for a
CPU: elsewhere it is a mistake that only a GPU would show.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.tree import modules, room_of

ROOMS = ("scoring", "models", "objectives", "training", "online")
FROM_NUMBERS = {"tensor", "as_tensor", "asarray", "from_numpy", "frombuffer", "Tensor", "FloatTensor", "LongTensor"}
FILLED = {"zeros", "ones", "empty", "full", "eye", "arange", "range", "linspace", "logspace", "scalar_tensor"}
DRAWN = {"rand", "randn", "randint", "randperm", "normal", "tril_indices", "triu_indices"}
MAKES = FROM_NUMBERS | FILLED | DRAWN

# Where tensors are made on a CPU, by module: in which functions, and why.
ON_A_CPU: dict[str, tuple[str, str]] = {
    "models.architectures": ("with_head", "a loaded model lies on the CPU still"),
    "models.classifier": ("Classifier.scores Classifier._score", "moved together; scores are read on the CPU"),
    "models.generation": ("_Watch.__init__", "replaced before it is read"),
    "models.sharding": ("ShardedCheckpoint._read", "read from a file"),
    "objectives.base": ("Objective.with_state", "moved to the statistics by `after`"),
    "objectives.metrics": ("MetricSums.over_ranks", "ranks add up on the CPU"),
    "objectives.ppo": ("PPO.estimates", "a rollout lies on the CPU"),
    "objectives.running_means": ("_zero ShiftedRewards.first_state", "moved to the statistics by `after`"),
    "objectives.weighted_sum": ("WeightedSum._shapes", "only its shapes are looked at"),
    "online.answers.sample": ("_Writing._rows", "rewards lie on the CPU"),
    "online.estimates": ("_flat", "a rollout lies on the CPU"),
    "online.evaluation": (
        "OnlineEvaluator._judged OnlineEvaluator._best_of_n OnlineEvaluator._against_start",
        "rewards lie on the CPU",
    ),
    "online.rewards.reward": ("Reward.__call__", "rewards lie on the CPU"),
    "online.rollout": (
        "Rollout Rollout.of Rollout.lengths Rollout.answer_of Rollout._estimates_of Rollout.metrics "
        "Rollout.from_state _real",
        "a rollout lies on the CPU",
    ),
    "online.rollouts": ("judged RolloutMaker._rewarded _cut _summed_difference", "a rollout lies on the CPU"),
    "online.sampling.local": ("_Wave.__init__", "prompts are moved when they are read"),
    "online.trainer": ("OnlineTrainer.training_step OnlineTrainer._compare_sampler", "ranks add up on the CPU"),
    "scoring.batch": ("Batch.lengths _Flat.add collate.tokens", "a scorer lays tokens out and moves them at once"),
    "scoring.engine": ("_exchanged _exchanged_tokens prompt_numbers", "ranks add up on the CPU"),
    "scoring.layout": ("Segments.varlen.span _Row.feed _Row.score _lay_prompt", "laid out, then moved at once"),
    "scoring.plain": ("score_plain", "laid out, then moved at once"),
    "scoring.reference.store": ("_exchanged", "ranks add up on the CPU"),
    "scoring.values": ("score_values_plain state_values_plain _hidden_of_rows", "laid out, then moved at once"),
    "training.evaluation.evaluator": ("Evaluator._rewards", "rewards lie on the CPU"),
    "training.evaluation.heldout": ("_by_data_set", "what is right was brought to the CPU"),
    "training.log_window": ("MetricWindow.load", "read from a file, and summed up there"),
    "training.movement": ("planned_rates", "of an optimizer that never steps"),
    "training.prepared": ("ReadyRun.token_budget", "ranks compare on the CPU"),
}


def made_anywhere(source: str) -> Iterator[tuple[str, str]]:
    """Functions that make a tensor without naming a device or moving what they make, and the call."""
    yield from _below(ast.parse(source), "", False)


def _below(node: ast.AST, where: str, moved: bool) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        where, moved = f"{where}.{node.name}".lstrip("."), False
    if isinstance(node, ast.Call):
        if _makes(node) and not moved:
            yield where, ast.unparse(node)
        # What stands before `.to(...)` is moved as a whole.
        moves = isinstance(node.func, ast.Attribute) and node.func.attr == "to"
        for child in ast.iter_child_nodes(node):
            yield from _below(child, where, moved or (moves and child is node.func))
        return
    for child in ast.iter_child_nodes(node):
        yield from _below(child, where, moved)


def _makes(call: ast.Call) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Name(id="torch"), attr=name):
            return name in MAKES and "device" not in {keyword.arg for keyword in call.keywords}
    return False


def test_every_tensor_below_the_seam_says_where_it_lies() -> None:
    found: dict[str, set[str]] = {}
    for module, path in modules().items():
        if room_of(module) in ROOMS:
            for where, _ in made_anywhere(path.read_text(encoding="utf-8")):
                found.setdefault(module.removeprefix("likelier."), set()).add(where)
    assert found == {module: set(functions.split()) for module, (functions, _) in ON_A_CPU.items()}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f(d):\n  return torch.zeros(3)", ["f"]),
        ("def f(d):\n  return torch.zeros(3, device=d)", []),
        ("def f(d):\n  return torch.arange(3).expand(2, 3).to(d)", []),
        ("def f(d):\n  return torch.stack([torch.ones(3)]).to(d)", []),
        ("def f(d):\n  return x.to(torch.arange(3))", ["f"]),
        ("class C:\n  def g(self):\n    return [torch.rand(2).float() for _ in x]", ["C.g"]),
        ("def f(x):\n  return torch.zeros_like(x) + x.new_zeros(3)", []),
        ("x = torch.tensor(1)", [""]),
    ],
)
def test_a_tensor_without_a_device_is_found(code: str, found: list[str]) -> None:
    assert [where for where, _ in made_anywhere(code)] == found
