"""The statistics of an audit as small tables of words, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from likelier.data.audit.findings import Audit

# A title, and rows of cells; the first row is the header.
Tables: TypeAlias = "Iterator[tuple[str, list[list[str]]]]"
_QUANTILES = ("min", "p5", "median", "mean", "p95", "p99", "max")


def figure_tables(audit: Audit) -> Tables:
    """Every table that the audit has figures for."""
    statistics = audit.statistics
    for title, name in (("characters", "characters"), ("tokens", "tokens")):
        if name in statistics:
            yield title, _lengths(statistics[name])
    if statistics.get("tokens", {}).get("scripts"):
        yield "tokens by script of the answer", _scripts(statistics["tokens"]["scripts"])
    rules = list(_rules(statistics))
    if rules:
        yield "how much simple rules know", [["rule", "right", "95 % interval", "of"], *rules]
    if "noise" in statistics:
        yield "noise", _noise(statistics["noise"])
    if "reference" in statistics:
        yield "the reference on a sample", _reference(statistics["reference"])
    rest = list(_rest(statistics))
    if rest:
        yield "rows", [["", ""], *rest]


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _lengths(lengths: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [name.replace("_", " "), *(f"{figures[key]:,.0f}" for key in _QUANTILES)]
        for name, figures in lengths.items()
        if isinstance(figures, dict) and "median" in figures
    ]
    return [["", *_QUANTILES], *rows]


def _scripts(scripts: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    rows = [
        [name, f"{one['answers']:,}", f"{one['characters']:,}", f"{one['tokens_per_character']:.3f}"]
        for name, one in scripts.items()
    ]
    return [["script", "answers", "characters", "tokens a character"], *rows]


def _rules(statistics: Mapping[str, Any]) -> Iterator[list[str]]:
    rules = [(statistics["length_rule"]["characters"], "characters")] if "length_rule" in statistics else []
    if "length_rule_tokens" in statistics:
        rules.append((statistics["length_rule_tokens"], "tokens"))
    for rule, unit in rules:
        yield _rule(f"the longer answer is better ({unit})", rule["longer_wins"])
    for name, words in (("words", "words of the answer, held out"), ("first_word", "its first word, held out")):
        if name in statistics.get("surface_rule", {}):
            yield _rule(words, statistics["surface_rule"][name])


def _rule(name: str, share: Mapping[str, float]) -> list[str]:
    interval = f"{_percent(share['low'])} to {_percent(share['high'])}"
    return [name, _percent(share["value"]), interval, f"{share['cases']:,}"]


def _noise(noise: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        ["judged more than once", f"{noise['judged_twice']:,} of {noise['cases']:,}"],
        ["judged both ways", f"{noise['both_ways']:,}"],
        ["two judgements disagree", _percent(noise["disagreement"])],
        ["one judgement is wrong (flip rate)", _percent(noise["flip_rate"])],
        ["no model can agree with more of the labels than", _percent(noise["ceiling"])],
    ]
    if "of_single_votes" in noise["ceilings"]:
        limits = noise["ceilings"]
        rows.append(
            ["the same, if all disagreement is about a few coin tosses", _percent(limits["if_few_are_coin_tosses"])]
        )
        rows.append(["no model can agree with more of the single votes than", _percent(limits["of_single_votes"])])
    return [[f"from {noise['from']}", ""], *rows]


def _reference(figures: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        _rule("the chosen answer is likelier", figures["ranking_accuracy"]),
        _rule("the same a token", figures["ranking_accuracy_per_token"]),
    ]
    return [[str(figures["model"]), "pairs", "95 % interval", "of"], *rows]


def _rest(statistics: Mapping[str, Any]) -> Iterator[list[str]]:
    if "prompts" in statistics:
        prompts = statistics["prompts"]
        yield ["distinct prompts", f"{prompts['distinct']:,}"]
        yield ["prompts with several rows", f"{prompts['repeated']:,}"]
    if "label_balance" in statistics:
        yield ["desirable answers", _percent(statistics["label_balance"]["share_desirable"])]
