"""Every example in README.md and docs/ runs as it stands, and every relative link leads somewhere.

What is other than for a reader, and nothing else: `demo` is a tiny random model of one layer, the file of built-in
pairs holds every fourth of them, `likelier demo` stops after two steps, times follow from made-up speeds, and standard
input is empty.

- ```python blocks of a page run in order and share their names.
- ```sh blocks may hold `likelier ...` and `python SCRIPT ...`, which run; `make`, `pip`, `git` and `cd`, of which only
  the targets and extras are looked up; and `cat > FILE <<'END'`. Anything else fails.
- ```yaml and ```jsonl blocks with `title="NAME"`, or with `# file: NAME` as their first line (in YAML only, which has
  comments), become that file. A ```yaml block that begins with `# likelier` must parse as a run.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from textwrap import dedent

import pytest
import torch
import yaml

from likelier.cli import main as cli
from likelier.experiments.stages import parse_stages
from likelier.online.config import parse_run
from likelier.training.duration import Speed
from tests.helpers.support import tiny_policy

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BUILT_IN = "src/likelier/data/honest_answers.jsonl"
COMMANDS = ("likelier", "python", "make", "pip", "git", "cd", "cat")
SPEED = Speed(trained_token=1e-3, scored_token=3e-4, written=1e-2, update=0.1, off=0.3, words="made up")
_BLOCK = re.compile(
    r"^(?P<indent>[ ]*)(?P<fence>```+)(?P<language>[\w-]*)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_HERE = re.compile(r"cat > (?P<file>\S+) <<'(?P<end>\w+)'")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    file: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        language, body = match["language"], dedent(match["text"])
        if page.name == "README.md" and not language and body.lstrip().startswith(COMMANDS):
            language = "sh"
        named = re.search(r'title="([^"]+)"', match["info"]) or re.match(r"# file: (\S+)", body)
        file = named[1] if named else None
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, language, body, file))
    return found


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- running a page ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo-model")
    policy = tiny_policy(dtype=torch.float32, num_hidden_layers=1)
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def layout(tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a page runs: the examples, and the built-in pairs cut down."""
    here = tmp_path / "repository"
    (here / BUILT_IN).parent.mkdir(parents=True)
    lines = (ROOT / BUILT_IN).read_text(encoding="utf-8").splitlines(keepends=True)
    (here / BUILT_IN).write_text("".join(lines[::4]), encoding="utf-8")
    (here / "examples").mkdir()
    for file in (ROOT / "examples").iterdir():
        if file.is_file():
            (here / "examples" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(here)
    for module in ("models.loading", "models.policy", "advice.weights"):
        monkeypatch.setattr(f"likelier.{module}.demo_model_folder", lambda: demo_model)
    monkeypatch.setattr("likelier.advice.speed.measured", lambda planner, work: SPEED)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return here


def run_command(words: list[str], place: str) -> None:
    """Run a command line, or look up what it names."""
    assert not {"|", "||", "&&", ";", ">", "<", "&"} & set(words), f"{place}: one plain command a line, not {words}"
    if words[0] == "likelier":
        more = ["--max-steps", "2"] if words[1:2] == ["demo"] and "--max-steps" not in words else []
        with warnings.catch_warnings():
            assert cli.main([*words[1:], *more]) == 0, f"{place}: {shlex.join(words)}"
    elif words[0] == "python":
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"{place}: no such target: {words}"
    elif words[0] == "pip":
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        extras = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
        for name in re.findall(r"[\w-]+", "".join(re.findall(r"(?:\.|likelier)\[([^]]*)\]", " ".join(words)))):
            assert re.search(rf"^{name} = ", extras, re.MULTILINE), f"{place}: no such extra: {name}"
    else:
        assert words[0] in ("git", "cd"), f"{place}: a block of sh cannot hold {words[0]!r}; use text for what is shown"


def run_lines(text: str, place: str) -> None:
    """Run a block of sh, line by line."""
    lines = iter(text.splitlines())
    for line in lines:
        while line.endswith("\\"):
            line = line[:-1] + next(lines)
        here = _HERE.fullmatch(line.strip())
        if here:
            end = here["end"]
            body = takewhile(lambda found, end=end: found != end, lines)
            write_file(here["file"], "".join(f"{found}\n" for found in body))
        elif words := shlex.split(line, comments=True):
            run_command(words, place)


def write_file(name: str, text: str) -> None:
    path = Path(name).resolve()
    assert path.is_relative_to(Path.cwd()), f"{name} lies outside the folder in which the page runs"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def run_data(block: Block) -> None:
    """Write a block that names a file, parse one that is a run; any other is only shown."""
    if block.file:
        for line in block.text.splitlines() if block.language == "jsonl" else []:
            json.loads(line)
        write_file(block.file, block.text)
    elif block.language == "yaml" and block.text.startswith("# likelier"):
        values = yaml.safe_load(block.text)
        (parse_stages if "stages" in values else parse_run)(values)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::likelier.utils.errors.LikelierWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=page_name)
def test_the_examples_of_a_page_run(page: Path, layout: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page):
        wrong = ("bash", "shell", "console", "zsh", "py", "python3", "pycon", "yml")
        assert block.language not in wrong, f"{block.place}: write sh, python or yaml, so that it is run here"
        if block.language == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")  # lines as in the page
            exec(code, names)
        elif block.language == "sh":
            run_lines(block.text, block.place)
        elif block.language in ("yaml", "json", "jsonl"):
            run_data(block)


def test_what_cannot_be_run_or_looked_up_fails(layout: Path) -> None:
    for line in ("curl example.org", "make nonsense", "pip install '.[nonsense]'", "make demo && make test"):
        with pytest.raises(AssertionError):
            run_lines(line, "here")
    with pytest.raises(AssertionError):
        write_file("../outside", "")
    run_lines("pip install '.[demo]'  # an extra\ncat > a/b.txt <<'END'\none\nEND\n", "here")
    assert Path("a/b.txt").read_text() == "one\n"


# --- links ---------------------------------------------------------------------------------------------------------


def without_code(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", page.read_text(encoding="utf-8")))


def anchor(heading: str) -> str:
    """As Python-Markdown makes it from a heading."""
    plain = unicodedata.normalize("NFKD", re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading))
    kept = re.sub(r"[^\w\s-]", "", plain.encode("ascii", "ignore").decode()).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def anchors_of(page: Path) -> set[str]:
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def links_of(page: Path) -> Iterator[tuple[str, str]]:
    for match in _LINK.finditer(without_code(page)):
        if not re.match(r"https?:|mailto:", match["target"]):
            path, _, fragment = match["target"].partition("#")
            yield path, fragment


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for path, fragment in links_of(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page_name(page)} links to {path}, which is not there"
        made_from_docstrings = ":::" in target.read_text(encoding="utf-8") if target.suffix == ".md" else False
        if fragment and target.suffix == ".md" and not made_from_docstrings:
            assert fragment in anchors_of(target), f"{page_name(page)} links to {path}#{fragment}: no such heading"
