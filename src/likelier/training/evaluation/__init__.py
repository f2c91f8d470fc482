"""Evaluation on held-out prompts: scores of the data's answers, and answers that the policy writes itself."""

from likelier.training.evaluation.evaluator import Evaluator, When
from likelier.training.evaluation.heldout import Evaluation, evaluate_groups, step_sums
from likelier.training.evaluation.schedule import planned_interval
from likelier.training.rewards import Judge, judge_of

__all__ = ["Evaluation", "Evaluator", "Judge", "When", "evaluate_groups", "judge_of", "planned_interval", "step_sums"]
