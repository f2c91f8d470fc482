"""The documentation site builds without a warning, asks for nothing from the network, and its formulas are MathML."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from likelier.data.options import ChatOptions, DataSet
from likelier.models.options import LoraOptions
from likelier.training.config import RunOptions, hyperparameter_fields
from likelier.training.options import TrainingOptions

ROOT = Path(__file__).resolve().parents[2]
_LOADS = {  # tag -> attributes whose address a browser fetches by itself
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "input": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
_ONLY_NAMED = {"canonical", "alternate", "next", "prev", "author", "license"}  # links that no browser follows by itself
_FOREIGN = re.compile(r"(?:https?:)?//", re.IGNORECASE)


class _Addresses(HTMLParser):
    """Collects every address that a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.found += [given[name] for name in _LOADS.get(tag, ()) if name in given]
        if tag == "link" and not set(given.get("rel", "").split()) & _ONLY_NAMED:
            self.found.append(given.get("href", ""))
        self.found += fetched_by_css(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += fetched_by_css(data)


def fetched_by_css(text: str) -> list[str]:
    return re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)


def foreign(addresses: list[str]) -> list[str]:
    return [address for address in addresses if _FOREIGN.match(address.strip())]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_no_page_asks_the_network_for_anything(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        text = page.read_text(encoding="utf-8")
        parser = _Addresses()
        parser.feed(text)
        assert parser.found and not foreign(parser.found), f"{page.name}: {foreign(parser.found)}"
        assert 'class="mermaid"' not in text  # the theme would fetch its script
    for sheet in site.rglob("*.css"):
        assert not foreign(fetched_by_css(sheet.read_text(encoding="utf-8"))), sheet


def test_the_search_for_addresses_finds_them() -> None:
    for tag in (
        '<script src="https://cdn.example/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<p style="background: url(http://example.org/a.png)">',
        "<style>@import 'https://fonts.example/a.css';</style>",
    ):
        parser = _Addresses()
        parser.feed(tag)
        assert foreign(parser.found), tag


@pytest.mark.slow
def test_formulas_are_mathml(site: Path) -> None:
    text = (site / "from-math-to-code.html").read_text(encoding="utf-8")
    assert text.count("<math ") > 50 and "arithmatex" not in text
    assert 'display="block"' in text and 'display="inline"' in text
    for page in site.rglob("*.html"):
        body = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"\\(frac|log|sigma|mathbb)\b", body), page


@pytest.mark.slow
def test_the_api_pages_name_what_they_document(site: Path) -> None:
    wanted = {
        "library": ("likelier.training.trainer.PreferenceTrainer", "likelier.models.policy.load_policy"),
        "losses": tuple(f"likelier.objectives.losses.{name}_loss" for name in ("dpo", "kto", "nll")),
        "objectives": ("likelier.objectives.pairwise.DPO", "likelier.objectives.pointwise.KTO"),
        "scoring": ("likelier.scoring.plain.SequenceScores", "likelier.scoring.batch.collate"),
    }
    for page, names in wanted.items():
        text = (site / "api" / f"{page}.html").read_text(encoding="utf-8")
        for name in names:
            assert f'id="{name}"' in text, name


@pytest.mark.slow
def test_linked_files_of_the_repository_come_along(site: Path) -> None:
    assert (site / "repository/examples/follow_one_pair.py").is_file()
    assert 'href="repository/examples/follow_one_pair.py"' in (site / "from-math-to-code.html").read_text("utf-8")


@pytest.mark.slow
def test_every_option_is_on_the_page_of_options(site: Path) -> None:
    text = (site / "options.html").read_text(encoding="utf-8")
    sections = (RunOptions, LoraOptions, TrainingOptions, ChatOptions, DataSet)
    names = [item.name for section in sections for item in fields(section)]
    for name in [*names, *hyperparameter_fields()]:
        assert f"<td><code>{name}</code></td>" in text, name


# --- the hook that makes formulas ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mathml() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mathml", ROOT / "docs/hooks/mathml.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Page:
    class file:  # noqa: N801
        src_uri = "page.md"


def test_a_formula_becomes_mathml(mathml: ModuleType) -> None:
    made = mathml.on_page_content(r'<p><span class="arithmatex">\(y_{&lt;t}\)</span></p>', page=_Page)
    assert "<math" in made and "&#x0003C;" in made and "arithmatex" not in made


@pytest.mark.parametrize("formula", [r"\nonsense{x}", r"\frac{a}", r"a_{b"])
def test_a_formula_that_cannot_be_converted_fails_the_build(mathml: ModuleType, formula: str) -> None:
    from mkdocs.exceptions import PluginError

    with pytest.raises(PluginError, match=r"page\.md: the formula"):
        mathml.on_page_content(rf'<div class="arithmatex">\[{formula}\]</div>', page=_Page)
