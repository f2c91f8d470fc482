"""`likelier inspect`: flags, and where the result goes."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from likelier.cli.shared import add_columns_flag, add_dtype_flag, add_overwrite_flag, count, write_told
from likelier.utils.errors import ConfigError
from likelier.utils.outputs import check_output

if TYPE_CHECKING:
    from likelier.insight.inspect.subject import Subject
    from likelier.models.policy import Policy
    from likelier.runs.card import RunCard

_TYPED = ("chosen", "rejected", "completion", "label", "plain_text")
_FROM_FILE = ("data", "columns", "held_out", "pair")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier inspect`."""
    parser.add_argument("run", metavar="RUN", help="a run folder")
    row = parser.add_argument_group("a row of a file")
    row.add_argument(
        "--row", type=_row, metavar="N", help="the row's number, counted as in the run's file; of several files NAME:N"
    )
    row.add_argument("--data", metavar="F", help="another file instead of the run's own data")
    add_columns_flag(row)
    row.add_argument("--held-out", action="store_true", help="the row is one of the run's evaluation data")
    row.add_argument("--pair", type=count, metavar="K", help="which of the pairs that a ranking gives (default: 1)")
    typed = parser.add_argument_group("or typed")
    typed.add_argument("--prompt", help="the prompt")
    typed.add_argument("--chosen", help="the preferred answer")
    typed.add_argument("--rejected", help="the other answer")
    typed.add_argument("--completion", help="a single answer instead of two")
    typed.add_argument("--label", choices=["good", "bad"], help="what the single answer is")
    typed.add_argument(
        "--plain-text", action="store_true", help="the prompt is text to be continued, not a user's turn"
    )
    models = parser.add_argument_group("under which models")
    models.add_argument(
        "--at", type=_time, default="end", help="the policy at start, at step-N or at the end (default)"
    )
    models.add_argument("--reference", help="the reference model (default: the run's own)")
    add_dtype_flag(models)
    out = parser.add_argument_group("output")
    out.add_argument("--top", type=count, metavar="N", help="list only the N tokens of each answer that count most")
    out.add_argument("--html", metavar="OUT", help="write a page there instead, on which each token shows its numbers")
    add_overwrite_flag(out)
    out.add_argument("--json", action="store_true", help="print everything as JSON")


def _row(text: str) -> Any:
    from likelier.insight.inspect.subject import RowName

    return RowName.parse(text)


def _time(text: str) -> str:
    if text in ("start", "end") or (text.startswith("step-") and text[5:].isdecimal()):
        return text
    raise ValueError(text)


_row.__name__ = "row number"
_time.__name__ = "time (start, step-N or end)"


def run(flags: argparse.Namespace) -> None:
    """Inspect one row and show it; without one, say which are worth a look."""
    if _writes_answers(flags.run):
        _own_answers(flags)
        return
    if flags.row is None and flags.prompt is None:
        _propose(flags)
        return
    _check(flags)
    if flags.html:
        check_output(flags.html, inputs=[flags.data] if flags.data else [], overwrite=flags.overwrite, page=True)
    from likelier.insight.inspect.look import Place, look

    found = look(Place(flags.run, flags.at, flags.reference, flags.dtype), lambda *seen: _subject(flags, *seen))
    if flags.json:
        from likelier.insight.inspect.figures import as_json
        from likelier.utils.console import put

        put(json.dumps(as_json(found), indent=2, ensure_ascii=False), exact=True)
    elif flags.html:
        from likelier.insight.inspect.figures import as_html

        write_told(flags.html, as_html(found))
    else:
        from likelier.insight.inspect.text import show
        from likelier.utils.terminal import SafeConsole

        show(found, SafeConsole(), flags.top)


def _writes_answers(name: str) -> bool:
    """Whether it is a run that learns from its own answers."""
    from likelier.scoring.restore import card_of, final_model

    return card_of(final_model(name)).facts.writes_answers


def _own_answers(flags: argparse.Namespace) -> None:
    """The answers that a run wrote to one prompt. Raises `ConfigError` for flags that ask for other ones."""
    from likelier.insight.inspect.look import Place
    from likelier.insight.inspect.own_answers import look_at_own
    from likelier.insight.inspect.text import show_own
    from likelier.scoring.restore import card_of, final_model
    from likelier.utils.console import put
    from likelier.utils.terminal import SafeConsole

    if flags.row is None:
        raise ConfigError(
            "this run learns from answers that it writes: --row N shows those that it kept to the prompt of row N; "
            "likelier score --per-token scores answers of a file"
        )
    for name in (*_FROM_FILE, *_TYPED, "prompt", "html"):
        if getattr(flags, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} has no effect on a run that learns from its own answers; drop it"
            )
    _refuse(["top"] if flags.top and flags.json else [], "on --json, which holds every token")
    place = Place(flags.run, flags.at, flags.reference, flags.dtype)
    found = look_at_own(place, card_of(final_model(flags.run)), flags.row)
    if flags.json:
        put(json.dumps(found.as_json(), indent=2, ensure_ascii=False), exact=True)
    else:
        show_own(found, SafeConsole(), flags.top)


def _propose(flags: argparse.Namespace) -> None:
    """Rows worth a look. Raises `ConfigError` for flags that say how a row shall be shown."""
    given = [name for name in (*_TYPED, *_FROM_FILE, "html", "json", "top", "reference") if getattr(flags, name)]
    if given:
        raise ConfigError("name a row with --row N, or type one with --prompt, --chosen and --rejected")
    from likelier.insight.inspect.proposals import propose_rows, proposed
    from likelier.utils.console import put

    put(proposed(flags.run, propose_rows(flags.run)))


def _check(flags: argparse.Namespace) -> None:
    """Raises `ConfigError` for flags that contradict each other or have no effect."""
    if flags.row is not None and flags.prompt is not None:
        raise ConfigError("--row names a row and --prompt types one; keep one of them")
    idle, other = (_TYPED, "--row") if flags.prompt is None else (_FROM_FILE, "--prompt")
    _refuse([name for name in idle if getattr(flags, name)], f"with {other}")
    if flags.prompt is not None:
        has_pair = flags.chosen is not None and flags.rejected is not None
        if has_pair == (flags.completion is not None) or (flags.chosen is None) != (flags.rejected is None):
            raise ConfigError("--prompt takes --chosen and --rejected, or --completion")
        _refuse(["label"] if has_pair and flags.label else [], "with two answers")
    if flags.data is None:
        _refuse(["columns"] if flags.columns else [], "without --data (the run recorded its own)")
    else:
        _refuse(["held_out"] if flags.held_out else [], "with --data")
    if flags.json and flags.html:
        raise ConfigError("--json and --html were both given; keep one of them")
    _refuse(["top"] if flags.top and (flags.json or flags.html) else [], "on --json and --html, which hold every token")


def _refuse(names: list[str], when: str) -> None:
    if names:
        raise ConfigError(f"--{names[0].replace('_', '-')} has no effect {when}; drop it")


def _subject(flags: argparse.Namespace, card: RunCard, policy: Policy) -> Subject:
    """The row that the flags name."""
    from likelier.data.columns import columns_of
    from likelier.data.load import load_preferences
    from likelier.insight.inspect.subject import row_of_file, row_of_run, typed_row
    from likelier.scoring.restore import recorded_data

    if flags.prompt is not None:
        has_template = bool(policy.tokenizer.chat_template)
        if flags.plain_text and not has_template:
            raise ConfigError("--plain-text has no effect: the tokenizer has no chat template; drop it")
        answers = {name: getattr(flags, name) for name in ("chosen", "rejected", "completion", "label")}
        return typed_row(flags.prompt, **answers, talks=has_template and not flags.plain_text)
    pair = flags.pair or 1
    if flags.data is not None:
        return row_of_file(load_preferences(flags.data, columns=columns_of(flags.columns)), flags.row, pair)
    data = recorded_data(card, flags.run)
    split_of_one = card.run.eval_data is None
    return row_of_run(data, flags.row, held_out=flags.held_out, split_of_one=split_of_one, pair=pair)
