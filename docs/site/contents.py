"""Read the table of contents from docs/index.md: for the site's side bar, and for llms.txt.

A section of that page holds one line for each page, `- [title](path): what it is for`. Notebooks that no line names
follow those that are named.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import nbformat

from .error_messages import ROOT
from .generated_lists import BLOCK

if TYPE_CHECKING:
    from sphinx.application import Sphinx

INDEX = ROOT / "docs" / "index.md"
SECTION = re.compile(r"^## (?P<title>.+)$", re.M)
ENTRY = re.compile(r"^- \[(?P<title>[^\]]+)\]\((?P<path>[^)#]+\.(?:md|ipynb))\): (?P<about>.+(?:\n  .+)*)$", re.M)
HOME = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">'


class Entry(NamedTuple):
    """Hold one line of the table of contents: a title, a path from the root of the repository, what it is for."""

    title: str
    path: str
    about: str


def _entry(found: re.Match[str]) -> Entry:
    path = os.path.normpath(PurePosixPath("docs", found["path"])).replace(os.sep, "/")
    return Entry(found["title"], path, " ".join(found["about"].split()))


def contents() -> dict[str, list[Entry]]:
    """Return the entries of each section, in the order of the page."""
    _, *parts = SECTION.split(INDEX.read_text(encoding="utf-8"))
    sections = {
        title: [_entry(found) for found in ENTRY.finditer(text)]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }
    named = {entry.path for entries in sections.values() for entry in entries}
    for entries in sections.values():
        if any(entry.path.startswith("notebooks/") for entry in entries):
            files = [*(ROOT / "notebooks").glob("README.md"), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
            entries += [_notebook(file) for file in files if f"notebooks/{file.name}" not in named]
    return {title: entries for title, entries in sections.items() if entries}


def _notebook(file: Path) -> Entry:
    text = file.read_text(encoding="utf-8")
    first = nbformat.reads(text, as_version=4).cells[0].source if file.suffix == ".ipynb" else text
    title, _, question = first.splitlines()[0].lstrip("# ").partition(": ")
    return Entry(title, f"notebooks/{file.name}", question or "the notebooks as a course.")


def add_toctrees(_app: Sphinx, name: str, content: list[str]) -> None:
    """Add the side bar's tables to the first page."""
    if name == "docs/index":
        for title, entries in contents().items():
            pages = "\n".join(f"{entry.title} </{entry.path.rpartition('.')[0]}>" for entry in entries)
            content[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n"


def llms() -> str:
    """Return llms.txt: title, summary, and a link with a sentence for each page (https://llmstxt.org).

    Links lead to the Markdown of a page, which lies beside it on the site, and to HTML where a page is generated.
    """
    head = SECTION.split(INDEX.read_text(encoding="utf-8"))[0]
    lines = [head.strip()]
    for title, entries in contents().items():
        lines += ["", f"## {title}", ""]
        lines += [f"- [{entry.title}]({address(entry.path)}): {entry.about}" for entry in entries]
    return "\n".join(lines) + "\n"


def address(path: str) -> str:
    """Return where the site has a page for programs that read text: its Markdown, or HTML where it is generated."""
    file = ROOT / path
    plain = file.suffix == ".md" and not BLOCK.search(file.read_text(encoding="utf-8"))
    return path if plain else str(PurePosixPath(path).with_suffix(".html"))


def write_beside(app: Sphinx, error: Exception | None) -> None:
    """Write llms.txt, the Markdown of pages, and a first page that leads to the contents."""
    if error is None and app.builder.format == "html":
        out = Path(app.outdir)
        (out / "llms.txt").write_text(llms(), encoding="utf-8")
        (out / "index.html").write_text(HOME, encoding="utf-8")
        for entry in (entry for entries in contents().values() for entry in entries):
            if entry.path == address(entry.path):
                (out / entry.path).write_bytes((ROOT / entry.path).read_bytes())
