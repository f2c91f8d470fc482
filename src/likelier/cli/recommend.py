"""`likelier recommend`: from files and memory to a report and a run file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from likelier.advice.estimate import bytes_of
from likelier.cli.estimate import add_machine_flags, take_gpu
from likelier.cli.run_rows import add_data_flags, given_chat, given_of_rows
from likelier.cli.shared import add_overwrite_flag
from likelier.utils.outputs import check_output

if TYPE_CHECKING:
    from likelier.advice.online_recommend import OnlineRecommendation
    from likelier.advice.recommend import Recommendation


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `likelier recommend`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="files of pairs, of labels, of each, or of prompts")
    parser.add_argument("--model", required=True, help="a hub id, a folder, an adapter folder, a .gguf file, or demo")
    add_data_flags(parser, times=False)
    add_machine_flags(parser)
    parser.add_argument(
        "--goal",
        choices=["quick", "robust", "ceiling"],  # as advice.Goal, which brings torch
        help="quick: see whether it can be learnt; robust: labels are not to be trusted; ceiling: the best there is",
    )
    parser.add_argument(
        "--reward",
        action="append",
        default=[],
        metavar="SPEC",
        help="what judges answers, as for train: a method is then recommended that lets the policy write; may be "
        "given again",
    )
    parser.add_argument(
        "--no-reference", action="store_true", help="no reference can be scored, not even before training"
    )
    parser.add_argument(
        "--format", choices=["text", "json"], default="text", help="how the report is printed (default: text)"
    )
    parser.add_argument("--output", metavar="RUN.yaml", help="write the run file that 'likelier train' takes there")
    add_overwrite_flag(parser)


def run(flags: argparse.Namespace) -> None:
    """Gather evidence, recommend, write."""
    take_gpu(flags)
    memory = None if flags.memory is None else bytes_of(flags.memory)
    if flags.output:
        check_output(flags.output, inputs=[*flags.files, flags.model], overwrite=flags.overwrite)
    from likelier.advice.known import remembered_plans
    from likelier.advice.speed import speed_for
    from likelier.utils.console import say
    from likelier.utils.files import write_output
    from likelier.utils.shell import quoted

    machine: dict[str, Any] = {"memory": memory, "device": flags.device, "speed_of": speed_for(flags.gpu)}
    with remembered_plans(anew=flags.verify):
        found = _online(flags, machine) if flags.reward else _recommend(flags, machine)
    sys.stdout.write(json.dumps(found.as_json(), indent=2) + "\n" if flags.format == "json" else as_text(found))
    if flags.output:
        write_output(flags.output, found.run_file)
        say(f"written: {flags.output}; train with: {found.start(quoted(flags.output))}")


def _recommend(flags: argparse.Namespace, machine: dict[str, Any]) -> Recommendation | OnlineRecommendation:
    from likelier.advice.evidence import gather
    from likelier.advice.online_recommend import prompts_alone
    from likelier.advice.recommend import recommend
    from likelier.data.columns import columns_of
    from likelier.utils.errors import DataError

    given, columns = given_of_rows(flags), columns_of(flags.columns)
    try:
        evidence = gather(flags.files, columns, merge_votes=bool(given.get("merge_votes")))
    except DataError:
        if prompts_alone(flags.files, columns) is None:
            raise
        return _online(flags, machine)
    how = {"gpus": flags.gpus, "goal": flags.goal, "has_reference": not flags.no_reference, **machine}
    return recommend(evidence, flags.model, given=given, chat=given_chat(flags), **how)


_OF_PROMPTS = ("eval_data", "eval_fraction", "seed", "order")


def _online(flags: argparse.Namespace, machine: dict[str, Any]) -> OnlineRecommendation:
    """For prompts, and what judges the answers to them. Raises `ConfigError` for flags that have no effect on it."""
    from dataclasses import fields

    from likelier.advice.online_recommend import recommend_online
    from likelier.data.columns import columns_of
    from likelier.data.options import ChatOptions
    from likelier.utils.errors import ConfigError

    given = given_of_rows(flags)
    kept = {*_OF_PROMPTS, *(item.name for item in fields(ChatOptions))}
    inert = [name for name in given if name not in kept]
    inert += ["no_reference"] * flags.no_reference + ["gpus"] * (flags.gpus != 1)
    inert += ["goal"] * (flags.goal not in (None, "ceiling"))
    if inert:
        raise ConfigError(f"{inert[0]} has no effect where the policy writes its answers itself; drop it")
    how = {"reward": flags.reward, "columns": columns_of(flags.columns), **machine}
    return recommend_online(flags.files, flags.model, given=given, chat=given_chat(flags), **how)


def as_text(found: Recommendation | OnlineRecommendation) -> str:
    """The recommendation for people."""
    from likelier.utils.terminal import printed

    return printed(_parts(found))


def _parts(found: Recommendation | OnlineRecommendation) -> Iterator[Any]:
    from rich.text import Text

    from likelier.advice.tables import plan_table

    yield Text(f"recommended: {', then '.join(found.choice.methods)}, {found.fitted.way.words}")
    yield Text(f"row of the table: {found.choice.row}")
    yield from _section("because", found.choice.reasons)
    yield from _section("evidence", found.evidence_lines)
    yield from _section("what will happen", found.run_lines())
    yield from _section("for online training you need", found.online_needs)
    yield from _section("doubts", found.doubts)
    yield from _section("alternatives", found.alternatives)
    yield Text("\nmemory\n")
    yield plan_table(found.plans)
    yield from (Text(f"note: {note}") for note in found.fitted.plan.notes)
    yield Text("\nrun.yaml, each value with its source\n")
    for line in found.run_file.splitlines():
        yield Text(f"  {line}", overflow="ignore", no_wrap=True)


def _section(title: str, lines: Any) -> Iterator[Any]:
    from rich.padding import Padding
    from rich.text import Text

    if lines:
        yield Text(f"\n{title}")
        for line in lines:
            yield Padding(Text(f"- {line}"), (0, 0, 0, 2))
