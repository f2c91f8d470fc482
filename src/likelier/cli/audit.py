"""`likelier audit`: from a file to a report and an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from likelier.cli.flags import add_section_flags, given_chat_options
from likelier.cli.shared import add_columns_flag, add_merge_votes_flag, add_overwrite_flag
from likelier.data.audit.findings import SEVERITIES, Audit
from likelier.data.options import ChatOptions
from likelier.utils.errors import ConfigError
from likelier.utils.outputs import check_output
from likelier.utils.redaction import without_secrets

FOUND = 3  # the exit code for findings at or above the named severity
SCORED = 200
_NEEDS_MODEL = ("max_length", "score", "score_sample", "dtype")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier audit`."""
    parser.add_argument("file", nargs="+", help="preferences in any known format; several are looked at together")
    add_columns_flag(parser)
    add_merge_votes_flag(parser)
    parser.add_argument("--eval-data", metavar="FILE", help="an evaluation file: are its prompts in the training file?")
    parser.add_argument("--model", help="whose tokenizer to use: a model, adapter or run folder, a hub id, demo")
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="tokens of prompt + answer (default: the context, at most 2048)"
    )
    parser.add_argument("--score", action="store_true", help="also let the model score a sample of the pairs")
    parser.add_argument(
        "--score-sample", type=int, metavar="N", help=f"how many pairs to score (default: {SCORED}; evenly spaced)"
    )
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], help="precision of the model with --score (default: auto)"
    )
    add_section_flags(parser.add_argument_group("conversations, with --model"), ChatOptions)
    parser.add_argument(
        "--format", choices=["text", "json", "html"], default="text", help="how the report is written (default: text)"
    )
    parser.add_argument("--output", metavar="OUT", help="write the report there instead of printing it")
    parser.add_argument(
        "--fail-on",
        choices=SEVERITIES,
        default="error",
        help=f"exit with {FOUND} if there is a finding of this severity or above (default: error)",
    )
    parser.add_argument(
        "--drop",
        metavar="NAME,...",
        help="findings whose rows to take out; needs --write. 'mend' in the report says which",
    )
    parser.add_argument("--write", metavar="CLEAN", help="JSON lines: the rows as they were, without the dropped ones")
    add_overwrite_flag(parser)
    parser.add_argument("--show", action="store_true", help="quote the data in the report; else it names places only")


def run(flags: argparse.Namespace) -> int:
    """Audit, report, clean; gives the exit code."""
    names = _checked(flags)
    from likelier.utils.console import put, say
    from likelier.utils.files import write_output

    audit, records = _audit(flags)
    report = _report(audit, flags.format)
    if flags.output:
        write_output(flags.output, report)
        say(f"{audit.verdict}\nreport: {flags.output}")
    elif flags.format == "text":
        sys.stdout.write(report)  # it holds colours of our own, and marks those of others already
    else:
        put(report, end="", exact=True)
    if names:
        say(_clean(flags, audit, records, names))
    return FOUND if audit.at_least(flags.fail_on, without=names) else 0


def _checked(flags: argparse.Namespace) -> list[str]:
    """The findings to drop. Raises `ConfigError` for flags without an effect or out of range."""
    from likelier.data.audit.clean import check_names

    names = [name.strip() for name in (flags.drop or "").split(",") if name.strip()]
    if bool(names) != bool(flags.write):
        raise ConfigError("--drop NAME,... and --write CLEAN.jsonl go together: give both or none")
    check_names(names)
    if names and flags.merge_votes:
        raise ConfigError("--drop names rows of the file, and --merge-votes makes others of them; drop one of them")
    for name in _NEEDS_MODEL:
        if getattr(flags, name) and not flags.model:
            raise ConfigError(f"--{name.replace('_', '-')} has no effect without --model")
    chat = given_chat_options(flags)
    if chat and not flags.model:
        raise ConfigError(f"--{next(iter(chat)).replace('_', '-')} has no effect without --model")
    for name in ("score_sample", "dtype"):
        if getattr(flags, name) is not None and not flags.score:
            raise ConfigError(f"--{name.replace('_', '-')} has no effect without --score")
    for name in ("max_length", "score_sample"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(flags, name)}; it must be at least 1")
    inputs = [*flags.file, *([flags.eval_data] if flags.eval_data else [])]
    for out, page in ((flags.output, flags.format == "html"), (flags.write, False)):
        if out:
            check_output(out, inputs=inputs, overwrite=flags.overwrite, page=page)
    if flags.output and flags.write and Path(flags.output).absolute() == Path(flags.write).absolute():
        raise ConfigError(f"--output and --write are both {flags.output}; name two files")
    return names


def _audit(flags: argparse.Namespace) -> tuple[Audit, Sequence[Any]]:
    from likelier.data.audit.checks import CHECKS, audit_records
    from likelier.data.columns import columns_of
    from likelier.data.load import load_preferences
    from likelier.utils.terminal import counting

    columns = columns_of(flags.columns)
    data = load_preferences(flags.file, columns=columns, merge_votes=flags.merge_votes)
    held_out = load_preferences(flags.eval_data, columns=columns).train if flags.eval_data else None
    model = _model(flags) if flags.model else {}
    with counting("auditing", len(CHECKS)) as report:
        audit = audit_records(
            data.train,
            data.unusable,
            held_out=held_out,
            show=flags.show,
            name=", ".join(flags.file),
            format=data.format,
            report=lambda words: report(1),
            **model,
        )
    return audit, data.train


def _model(flags: argparse.Namespace) -> dict[str, Any]:
    """What `audit_records` is given of a model."""
    from likelier.models.policy import load_policy
    from likelier.scoring.restore import final_model, tokenizer_with

    tokenizer, max_length, chat = tokenizer_with(flags.model, given_chat_options(flags))
    if not flags.score:
        return {"tokenizer": tokenizer, "max_length": flags.max_length or max_length, "chat": chat}
    from likelier.data.tokenize import default_max_length
    from likelier.scoring.ranking import ModelRanker

    policy = load_policy(final_model(flags.model), dtype=flags.dtype or "auto", chat=chat)
    max_length = flags.max_length or default_max_length(policy.context)
    return {
        "ranker": ModelRanker(policy),
        "max_length": max_length,
        "chat": chat,
        "score_sample": flags.score_sample or SCORED,
    }


def _report(audit: Audit, kind: str) -> str:
    if kind == "json":
        return json.dumps(without_secrets(audit.as_json()), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    from likelier.insight.audit import as_html, as_text

    here = sys.stdout.isatty()
    width = get_terminal_size().columns if here else None
    return as_html(audit) if kind == "html" else without_secrets(as_text(audit, width=width, colour=here))


def _clean(flags: argparse.Namespace, audit: Audit, records: Sequence[Any], names: list[str]) -> str:
    from likelier.data.audit.clean import rows_to_drop, write_clean
    from likelier.data.columns import columns_of
    from likelier.data.options import DataSet
    from likelier.data.sources import read_rows

    dropped = rows_to_drop(audit, records, names)
    sources = [DataSet(file, columns=columns_of(flags.columns)) for file in flags.file]
    kept = write_clean(chain.from_iterable(read_rows(one).rows for one in sources), dropped, flags.write)
    absent = [name for name in names if audit.finding(name) is None]
    none = f" (not found here: {', '.join(absent)})" if absent else ""
    return f"{len(dropped):,} rows dropped, {kept:,} written to {flags.write}{none}"
