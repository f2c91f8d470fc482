"""The page of all studies, docs/studies/index.md, made from their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from likelier.utils.files import write_whole
from studies.harness import FOLDER, Claim, Results, Study, Table, read

STUDIES: tuple[Study, ...] = tuple(
    import_module(f"studies.{file.stem}").STUDY for file in sorted(Path(__file__).parent.glob("s[0-9][0-9]*.py"))
)
SLOW = frozenset({"s18c", "s20", "s23", "s24"})  # hours on the demo model: computed by a command of their own
PAGE = FOLDER / "index.md"

_HEAD = """# Studies

<!-- made by `make studies` from the JSON files beside it: change those, or the studies -->

What is said of these methods, put to the test where everything is known. Each sentence stands here as people say it,
and with who says it. It has a rule that was written before the study ran, and a verdict by that rule: it *holds*, it
*fails*, or it *holds where* the rule held. Numbers are means over seeds with their 95 % interval (Student's, of shares
of runs Wilson's); a difference is taken seed by seed.

```sh
make studies
```

computes what is missing in `docs/studies/`, judges, draws, and makes this page. One study alone is
`python -m studies.s18`, with `--again` to compute it anew and `--quick` for a small one in seconds; those that train
the demo model take hours, and `make studies-demo` computes them. A study is judged when all its seeds have run.

**How rules and seeds came about.** The rules stand in the files of `studies/`, and were written before the numbers
here were computed. While a study is made, it is tried on other seeds: rates, steps and sizes are settled there. Those
that count are set apart (`SEEDS`), nobody looks at them before the study is done, and no number of them is left out.
The first seeds of S18 and S19 had been looked at while the studies were made: fresh ones took their place.
"""


def page(studies: Sequence[Study] = STUDIES) -> str:
    """The page as Markdown; studies that have not run to their end are named, and judged by nothing."""
    contents = [(study, read(study)) for study in studies]
    parts = [(study, content) for study, content in contents if len(content["cells"]) >= _cells_of(study)]
    lines = [_HEAD, *_overview(parts)]
    for study, content in contents:
        if (done := len(content["cells"])) < _cells_of(study):
            so_far = f", {done} of {_cells_of(study)} cells so far" if done else ""
            lines.append(f"Not computed yet: {_title(study)} (`python -m studies.{study.name}`){so_far}.\n")
    for study, content in parts:
        lines += _study(study, content)
    return "\n".join(lines) + "\n"


def _cells_of(study: Study) -> int:
    return study.seeds * len(study.settings)


def _overview(parts: Sequence[tuple[Study, Any]]) -> Iterator[str]:
    head = ["the claim", "verdict", "the number and its interval", "what we ran, and the rule", "who says it", "figure"]
    rows = [_row(study, claim, Results(content["cells"])) for study, content in parts for claim in study.claims]
    yield from _table(Table("", head, rows))


def _row(study: Study, claim: Claim, results: Results) -> list[str]:
    """Of the table of all claims: a reader of this row alone knows what was found."""
    verdict = claim.verdict(results)
    ran = f"[{study.name.upper()}](#{_anchor(study)}): {study.setup}. The rule: {claim.rule}."
    numbers = "<br>".join(f"{case}: {text}" for case, text in verdict["numbers"].items())
    names = [plot.name for plot in study.plots(results)]
    figure = f"[{study.name.upper()}]({study.name}-{claim.figure or names[0]}.svg)"
    return [claim.claim, f"*{verdict['verdict']}*", numbers, ran, claim.source, figure]


def _study(study: Study, content: Any) -> Iterator[str]:
    results = Results(content["cells"])
    yield f"\n## {_title(study)}\n\n{study.text.strip()}\n"
    for plot in study.plots(results):
        yield f"![{plot.title}: {', '.join(line.name for line in plot.lines)}]({study.name}-{plot.name}.svg)\n"
    for table in study.tables(results):
        yield from _table(table)
    for claim in study.claims:
        verdict = claim.verdict(results)
        words = verdict["verdict"]
        yield f"**{verdict['claim']}** *{words[0].upper()}{words[1:]}.* The rule: {verdict['rule']}.\n"
        yield from (f"- {case}: {numbers}" for case, numbers in verdict["numbers"].items())
        yield ""
    if study.reading:
        yield f"**How we read it, afterwards.** {study.reading.strip()}\n"
    seeds = len({cell["seed"] for cell in content["cells"]})
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    yield f"{seeds} seeds, {content['seconds'] / 60:.1f} processor minutes ({content['machine']}); {versions}."


def _title(study: Study) -> str:
    return f"{study.name.upper()}: {study.title}"


def _anchor(study: Study) -> str:
    """The address that the page's headings get."""
    kept = "".join(letter for letter in _title(study).lower() if letter.isalnum() or letter in " -")
    return "-".join(kept.split())


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield f"{table.title}:\n"
    yield f"| {' | '.join(table.head)} |"
    yield f"|{'---|' * len(table.head)}"
    yield from (f"| {' | '.join(row)} |" for row in table.rows)
    yield ""


if __name__ == "__main__":
    write_whole(PAGE, page().encode())
