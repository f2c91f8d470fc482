"""Links out of docs/ (an example, a table of results) work on the site too: the files come along under repository/."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_LINK = re.compile(r"(?<=\]\()(?P<path>(?:\.\./)+[^)#\s]+)")


def _target(page_uri: str, link: str, docs: Path) -> str | None:
    """The file in the repository that a page's link names, if it lies outside docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page_uri), link))
    inside = path.startswith(("docs/", ".."))
    return None if inside or not (docs.parent / path).is_file() else path


def on_files(files: Files, *, config: Any) -> Files:
    """Add every file that some page links to."""
    docs = Path(config["docs_dir"])
    pages = [file for file in files.documentation_pages() if file.abs_src_path]
    for page in pages:
        for match in _LINK.finditer(page.content_string):
            target = _target(page.src_uri, match["path"], docs)
            if target and f"repository/{target}" not in files.src_uris:
                source = str(docs.parent / target)
                files.append(File.generated(config, f"repository/{target}", abs_src_path=source))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Point those links to where the files lie on the site."""
    docs = Path(config["docs_dir"])
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = _target(page.file.src_uri, match["path"], docs)
        return posixpath.relpath(f"repository/{target}", here or ".") if target else match["path"]

    return _LINK.sub(moved, markdown)
