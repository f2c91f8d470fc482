"""Do the tests see small mistakes? `make mutants` plants a sample of them, one at a time, and counts what is seen.

Every mistake goes into a copy of the tree; the tests that concern its module (`table.yaml`) run there until the
first fails. A parent that has imported torch and the other libraries, but nothing of likelier or of the tests, forks
for each: so a mutant is imported afresh, and only the seconds that the libraries take are saved.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest
import yaml

from tests.mutants.operators import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("src") / "likelier"
COPIED = ("src", "tests", "docs", "examples", "benchmarks", "pyproject.toml", "README.md", "SECURITY.md")
LIBRARIES = ("torch", "transformers.models.llama.modeling_llama", "peft", "datasets", "accelerate", "hypothesis")
NEEDED = 0.85
STUCK = 1800  # seconds after which one that uses no processor any more counts as killed
MEMORY = 16 << 30  # bytes that a mutant may ask for: one that wants endlessly many ends alone


@dataclass
class Module:
    """A row of the table: files that get mistakes, tests that should see them, and what came of it."""

    name: str
    files: list[str]
    tests: list[str]
    without: list[str] = field(default_factory=list)  # of these tests, those that take long and see nothing more
    on_a_gpu: list[str] = field(default_factory=list)  # functions that run nowhere else: nothing here sees them
    seconds: float = 0.0  # of a processor, that the tests take without a mistake
    counts: Counter[str] = field(default_factory=Counter)

    def sources(self) -> dict[str, str]:
        return {file: (ROOT / PACKAGE / file).read_text(encoding="utf-8") for file in self.files}

    def length(self) -> int:
        return sum(text.count("\n") for text in self.sources().values())


@dataclass
class Running:
    """A forked child at work on one mutant, or on none."""

    module: Module
    mutant: Mutant | None
    tree: Path
    source: str  # of the mutant's file, without the mistake
    pid: int
    started: float
    seconds: float = 0.0  # of a processor

    def ended(self) -> str:
        """`survived`, `killed` or `timed out`; empty while it runs."""
        done, status, used = os.wait4(self.pid, os.WNOHANG)
        if not done and time.monotonic() - self.started < STUCK:
            return ""
        if not done:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return "timed out"
        self.seconds = used.ru_utime + used.ru_stime
        code = os.waitstatus_to_exitcode(status)
        if code == pytest.ExitCode.USAGE_ERROR and self.mutant:  # a test that is named is not found: import failed
            return "killed"
        if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise SystemExit(f"pytest itself ended with {code}:\n{_output(self.tree)}")
        if code == -signal.SIGXCPU:
            return "timed out"
        return "killed" if code else "survived"


def main() -> int:
    options = _options()
    table = yaml.safe_load((ROOT / "tests" / "mutants" / "table.yaml").read_text(encoding="utf-8"))
    modules = [Module(name, **row) for name, row in table["modules"].items() if name in (options.only or [name])]
    known = {(row["file"], row["before"], row["after"]) for row in table["equivalent"] or []}
    planned = [(module, mutant) for module in modules for mutant in _sample(module, modules, known, options)]
    random.Random(options.seed).shuffle(planned)  # what an interrupted run has tried is a fair sample too
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        trees = [Path(folder) / str(number) / "tree" for number in range(options.jobs)]
        _copy(trees[0])
        for done, outcome in _run([(module, None) for module in modules], trees[:1]):
            done.module.seconds = done.seconds
            print(f"{done.module.name}: its tests take {done.module.seconds:.0f} s", flush=True)
            if outcome != "survived":
                raise SystemExit(f"without a mistake the tests {outcome}:\n{_output(done.tree)}")
        _forget_compiled(trees[0], modules)
        for tree in trees[1:]:
            shutil.copytree(trees[0].parent, tree.parent, symlinks=True)
        seconds = _try(planned, trees)
    return _summary(modules, seconds)


def _try(planned: list[tuple[Module, Mutant]], trees: list[Path]) -> float:
    """Plant each and count what comes of it, until all are done or Ctrl-C; the processor's seconds."""
    began, seconds = time.monotonic(), 0.0
    try:
        for number, (done, outcome) in enumerate(_run(planned, trees), start=1):
            done.module.counts[outcome] += 1
            seconds += done.seconds
            _tell(f"{number}/{len(planned)} {time.monotonic() - began:.0f} s", done, outcome)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    return seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Plants small mistakes and counts those that the tests see.")
    parser.add_argument("--sample", type=int, default=420, help="mutants in all modules together (default 420)")
    parser.add_argument("--seed", default="1", help="which mutants are drawn (default 1)")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at a time (default 2)")
    parser.add_argument("--only", nargs="*", metavar="MODULE", help="these rows of tests/mutants/table.yaml only")
    return parser.parse_args()


def _sample(
    module: Module, modules: list[Module], known: set[tuple[str, str, str]], options: argparse.Namespace
) -> Iterator[Mutant]:
    """As many as its part of all lines, 5 at the least, without those that are known to be equivalent."""
    left = max(5, round(options.sample * module.length() / sum(other.length() for other in modules)))
    for mutant in _drawn(module, options.seed):
        if (mutant.path, mutant.before, mutant.after) in known:
            module.counts["equivalent"] += 1
            continue
        yield mutant
        left -= 1
        if not left:
            return


def _drawn(module: Module, seed: str) -> Iterator[Mutant]:
    """The files' mutants in turns that go with the files' lengths."""
    sources = module.sources()
    left = {file: mutants(file, text, f"{seed} {file}", module.on_a_gpu) for file, text in sources.items()}
    taken = dict.fromkeys(left, 1)
    while left:
        file = min(left, key=lambda name: taken[name] / len(sources[name]))
        taken[file] += 1
        mutant = next(left[file], None)
        if mutant is None:
            del left[file]
        else:
            yield mutant


def _copy(tree: Path) -> None:
    tree.mkdir(parents=True)
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, tree / name)
    if (ROOT.parent / "shared").is_dir():
        (tree.parent / "shared").symlink_to(ROOT.parent / "shared")


def _forget_compiled(tree: Path, modules: list[Module]) -> None:
    """What the runs without a mistake have compiled of the modules that get one: it would be out of date."""
    for file in (tree / PACKAGE / file for module in modules for file in module.files):
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*"):
            compiled.unlink()


def _run(items: Iterable[tuple[Module, Mutant | None]], trees: list[Path]) -> Iterator[tuple[Running, str]]:
    waiting, free, running = iter(items), list(trees), list[Running]()
    try:
        while True:
            for module, mutant in islice(waiting, len(free)):
                running.append(_start(module, mutant, free.pop()))
            if not running:
                return
            time.sleep(0.05)
            for one in list(running):
                if outcome := one.ended():
                    running.remove(one)
                    if one.mutant:
                        (one.tree / PACKAGE / one.mutant.path).write_text(one.source, encoding="utf-8")
                    yield one, outcome
                    free.append(one.tree)
    finally:  # interrupted
        for one in running:
            with suppress(ProcessLookupError, ChildProcessError):  # it has just ended by itself
                os.killpg(one.pid, signal.SIGKILL)
                os.waitpid(one.pid, 0)


def _start(module: Module, mutant: Mutant | None, tree: Path) -> Running:
    source = ""
    if mutant:
        file = tree / PACKAGE / mutant.path
        source = file.read_text(encoding="utf-8")
        file.write_text(mutant.text, encoding="utf-8")
    sys.stdout.flush()
    child = os.fork()
    if child:
        return Running(module, mutant, tree, source, child, time.monotonic())
    code = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        code = _tests(module, tree, compiling=mutant is None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _tests(module: Module, tree: Path, *, compiling: bool) -> int:
    """In the child: this module's tests in this tree, until one fails."""
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    if not compiling:  # by its own seconds, not by the clock: the machine may be busy with something else
        resource.setrlimit(resource.RLIMIT_CPU, (limit := int(30 + 4 * module.seconds), limit + 5))
    with open(tree / "output.txt", "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "" if compiling else "1"}
    sys.dont_write_bytecode = not compiling
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "likelier")]:
        del sys.modules[name]
    sys.path[:0] = [str(tree / "src"), str(tree)]
    known = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # plugins among the libraries
    flags = ["-x", "-q", "-p", "no:cacheprovider", "-W", known, f"--basetemp={tree.parent / 'tmp'}"]
    left_out = [f"--deselect={_node(name)}" for name in module.without]
    return int(pytest.main([*flags, *left_out, *map(_node, module.tests)]))


def _node(name: str) -> str:
    file, mark, test = name.partition("::")
    return f"tests/{file}.py{mark}{test}"


def _output(tree: Path) -> str:
    return (tree / "output.txt").read_text(encoding="utf-8", errors="replace")[-4000:]


def _tell(when: str, done: Running, outcome: str) -> None:
    assert done.mutant
    if outcome == "survived":
        at = f"{PACKAGE}/{done.mutant.path}:{done.mutant.line}"
        print(f"{when} {at} survived ({done.mutant.kind})\n- {done.mutant.before}\n+ {done.mutant.after}", flush=True)
    else:
        print(f"{when} {done.module.name} {done.mutant.path}:{done.mutant.line} {outcome}", flush=True)


def _summary(modules: list[Module], seconds: float) -> int:
    total = sum((module.counts for module in modules), Counter[str]())
    print(f"{'':<12}{'planted':>9}{'killed':>9}{'timed out':>11}{'survived':>10}{'equivalent':>12}")
    for name, counts in [*((module.name, module.counts) for module in modules), ("all", total)]:
        planted = counts["killed"] + counts["timed out"] + counts["survived"]
        shown = f"{counts['killed']:>9}{counts['timed out']:>11}{counts['survived']:>10}{counts['equivalent']:>12}"
        print(f"{name:<12}{planted:>9}{shown}")
    seen = total["killed"] + total["timed out"]
    planted = seen + total["survived"]
    share = seen / max(1, planted)
    print(
        f"{share:.1%} are seen, of {planted} (at least {NEEDED:.0%} are to be), {seconds / max(1, planted):.1f} s each"
    )
    return int(share < NEEDED)


if __name__ == "__main__":
    raise SystemExit(main())
