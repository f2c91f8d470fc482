"""The chain as a table, the same for terminal and page, and the whole inspection as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from likelier.insight.inspect.look import Inspection
from likelier.insight.pages.heatmap import class_of_piece, legend, pieces_of, scale_of, token_spans
from likelier.insight.pages.render import render
from likelier.utils.files import base_names

PAIR = "pair"
TOKEN_NUMBERS = (
    *(("policy", "logp"), ("reference", "ref_logp"), ("log-ratio", "logratio"), ("reward", "reward")),
    *(("score so far", "score"), ("change", "change")),
)
_MINUS = "\u2212"


@dataclass(frozen=True)
class Figure:
    """A row of the table: a name, a value for some of the columns, and what it is."""

    name: str
    values: dict[str, float]
    words: str = ""

    def text(self, column: str) -> str:
        """The value of a column, empty where it has none."""
        value = self.values.get(column)
        return "" if value is None else figure_text(value)


@dataclass(frozen=True)
class Table:
    """The columns (the answers, and `pair` for what belongs to both) and the figures in the order of the chain."""

    columns: tuple[str, ...]
    figures: list[Figure] = field(default_factory=list)


def figure_text(value: float) -> str:
    """A whole number, or four decimals; of what is smaller, four digits."""
    if isinstance(value, int):
        return str(value)
    return decimals(value) if abs(value) >= 0.001 or value == 0 else f"{value:.3e}".replace("-", _MINUS)


def decimals(value: float) -> str:
    """Four decimals, with a true minus and no minus zero."""
    return f"{value:.4f}".replace("-0.0000", "0.0000").replace("-", _MINUS)


def table_of(found: Inspection) -> Table:
    """Every link of the chain, from the sums over tokens to the loss's derivative."""
    answers = found.answers
    columns = (*answers, PAIR) if len(answers) == 2 else tuple(answers)
    rows = [Figure("tokens", _each(answers, "length"), "of the answer, its end included")]
    if found.objective.reads_values:
        rows.append(Figure("score", _each(answers, "score"), "what the head says at the last token"))
    else:
        rows.append(Figure("log-prob, policy", _each(answers, "logp"), "summed over the tokens, in nats"))
    if found.reference is not None:
        rows.append(Figure("log-prob, reference", _each(answers, "ref_logp"), "the same under the reference"))
        rows.append(Figure("log-ratio", _each(answers, "logratio"), "policy less reference"))
    rows.append(Figure("reward", _each(answers, "reward"), _reward_words(found)))
    if found.margin is not None:
        rows.append(Figure("reward margin", {PAIR: found.margin}, "chosen less rejected"))
    return Table(columns, [*rows, *_items(found)])


def _each(answers: dict[str, dict[str, Any]], name: str) -> dict[str, float]:
    return {side: answer[name] for side, answer in answers.items()}


def _reward_words(found: Inspection) -> str:
    scale = found.objective.reward_scale()
    if found.objective.reads_values:
        return "score less its mean over training answers" if found.at == "end" else "the score itself"
    if scale is not None:
        return f"{scale:g} x log-ratio"
    answer = next(iter(found.answers.values()))
    factor = answer["reward"] / (answer["logp_per_token"] or 1.0)
    return f"{factor:g} x log-prob per token"


def _items(found: Inspection) -> list[Figure]:
    items = found.chain.items
    rows = []
    if found.baseline is not None and items:
        rows.append(Figure("baseline z0", {item.of: found.baseline.value for item in items}, found.baseline.words))
    if any(item.logit is not None for item in items):
        rows.append(Figure("logit", _of_items(found, "logit"), "what the loss takes the sigmoid of"))
        rows.append(
            Figure("sigma(logit)", _of_items(found, "sigma"), "to the objective, the chance that the label holds")
        )
    if any(item.weight != 1 for item in items):
        rows.append(Figure("weight", _of_items(found, "weight"), "of the row in the run; it multiplies the loss"))
    if items:
        rows.append(Figure("loss", _of_items(found, "loss"), found.objective.method))
        slopes = {side: slope for item in items for side, slope in item.gradient.items()}
        if found.objective.reads_values:
            rows.append(Figure("d loss / d score", slopes, "the gradient weight of the answer"))
        else:
            rows.append(Figure("d loss / d log-prob", slopes, "the gradient weight, of the answer and of each token"))
    return rows


def _of_items(found: Inspection, name: str) -> dict[str, float]:
    return {item.of: getattr(item, name) for item in found.chain.items}


def notes_of(found: Inspection) -> list[str]:
    """What one should know beside the numbers."""
    notes = [found.chain.reason] if found.chain.reason else []
    if found.chain.items and all(item.logit is None for item in found.chain.items):
        notes.append(f"{found.objective.method}'s loss is no sigmoid of a single logit, so none is shown")
    if found.objective.reads_values:
        notes.append(
            "the score so far is what an answer that ended there would get; only whole answers were trained on"
        )
    elif found.objective.needs_heads and found.chain.items:
        notes.append(
            "a token that only the longer answer has counts less in the loss: the gradient weight is that of the others"
        )
    elif found.reference is None:
        notes.append(f"{found.objective.method} has no reference: a token's share of the reward is its log-probability")
    labels = {item.of: item.label for item in found.chain.items if item.label is not None and found.baseline}
    notes += [f"{side} is trained on as {'good' if label else 'bad'}" for side, label in labels.items()]
    return notes


def as_json(found: Inspection) -> dict[str, Any]:
    """Everything, the answers as `likelier score --per-token` writes them."""
    margin = found.margin
    return {
        "run": found.run,
        "at": found.at,
        "method": found.objective.method,
        "hyperparameters": found.objective.hyperparameters(),
        "policy": found.policy,
        "reference": found.reference,
        "source": found.source,
        "part": found.part or None,
        "prompt": found.prompt,
        **found.answers,
        **({} if margin is None else {"margin": margin, "correct": margin > 0}),
        "baseline": None if found.baseline is None else vars(found.baseline),
        "losses": [vars(item) for item in found.chain.items],
        "notes": notes_of(found),
    }


def as_html(found: Inspection) -> str:
    """The whole page, on which local paths are cut down to their last part."""
    named = {"run": found.run, "policy": found.policy, "reference": found.reference, "source": found.source}
    found = replace(found, **base_names(named))
    scale = scale_of(*found.answers.values())
    first = next(iter(found.answers.values()))["tokens"][0]
    return render(
        "inspect.html",
        found=found,
        when={"start": "at the start", "end": "at the end"}.get(found.at, f"at {found.at}"),
        spans={side: token_spans(answer, scale) for side, answer in found.answers.items()},
        legend=legend(*found.answers.values()),
        table=table_of(found),
        numbers=[words for words, name in TOKEN_NUMBERS if name in first],
        tokens={side: _rows(answer, scale) for side, answer in found.answers.items()},
        notes=notes_of(found),
        number=figure_text,
    )


def _rows(answer: dict[str, Any], scale: float) -> list[dict[str, Any]]:
    """For each readable piece its text, its colour and its numbers."""
    names = [name for _, name in TOKEN_NUMBERS if name in answer["tokens"][0]]
    return [
        {
            "text": piece.cell,
            "style": class_of_piece(piece, scale),
            "numbers": [decimals(piece.total(name) or 0.0) if piece.is_trained else "" for name in names],
        }
        for piece in pieces_of(answer)
    ]
