"""Evaluation on held-out prompts: scores of the data's answers, and answers that the policy writes itself."""

from likelier.evaluation.evaluator import Evaluator, When
from likelier.evaluation.heldout import Evaluation, evaluate_groups, step_sums
from likelier.evaluation.judge import Judge, judge_of
from likelier.evaluation.schedule import planned_interval

__all__ = ["Evaluation", "Evaluator", "Judge", "When", "evaluate_groups", "judge_of", "planned_interval", "step_sums"]
