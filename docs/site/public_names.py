"""Write the pages of public names from the stubs: a table of each face, then every docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from .error_messages import ROOT, summary
from .public_calls import faces


class Public(NamedTuple):
    """Hold one public name: its kind (function, class or data), what it is, and the folder of its module."""

    name: str
    kind: str
    about: str
    folder: Path


@cache
def _module(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _comment_above(file: Path, line: int) -> str:
    """Return the comment that stands above or behind a line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    words: list[str] = []
    while line >= 2 and lines[line - 2].startswith("# "):
        words.insert(0, lines[line - 2][2:])
        line -= 1
    return " ".join(words)


def public_names(face: str) -> Iterator[Public]:
    """Yield the public names of a face, in the order of its stub."""
    for name, (file, defined) in faces()[face].items():
        for node in _module(file).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == defined:
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                yield Public(name, kind, summary(node), file.parent)
                break
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if defined in [getattr(target, "id", "") for target in targets]:
                yield Public(name, "data", DATA.get(name) or _comment_above(file, node.lineno), file.parent)
                break
        else:
            raise ValueError(f"{face}.{name}: {file.name} defines no {defined}")


DATA = {  # what a table or constant holds, which no docstring can say
    "DEFAULT_METRIC": "The metric where none is named.",
    "METRICS": "Every metric of similarity by its name, as `metric=` takes it.",
    "LAYOUTS": "Every layout by its name, as `lay_out` and recipes take it.",
    "RULES": "Every rule that scores plans by its name, as `choose_bridges` takes it.",
    "EXPERTS": "The names of the two shipped experts that the committed studies compare.",
    "RESULTS": "The folder of the committed results.",
}


def _description(face: str, public: Public) -> str:
    path = f"{face}.{public.name}"
    if public.kind == "data":
        return f".. py:data:: {public.name}\n   :module: {face}\n\n   {public.about}"
    return f".. auto{public.kind}:: {path}" + ("\n   :members:" if public.kind == "class" else "")


def name_list(face: str) -> str:
    """Return the table of a face's names, and their docstrings by the folders that define them."""
    names = list(public_names(face))
    rows = [f"| {{py:obj}}`{each.name} <{face}.{each.name}>` | {_cell(each.about)} |" for each in names]
    parts = ["\n".join(["| name | what it does or is |", "|---|---|", *rows])]
    top = ROOT / face.rpartition(".")[2]
    for folder, group in groupby(sorted(names, key=lambda each: each.folder), key=lambda each: each.folder):
        about = summary(_module(folder / "__init__.py"))
        title = "Of the package itself" if folder == top else _title(folder, top)
        described = "\n\n".join(_description(face, public) for public in group)
        parts.append(f"## {title}\n\n{_cell(about)}\n\n```{{eval-rst}}\n{described}\n```")
    return "\n\n".join(parts)


def _title(folder: Path, top: Path) -> str:
    return " / ".join(folder.relative_to(top).parts).replace("_", " ").capitalize()


def _cell(text: str) -> str:
    """Return a sentence of a docstring as it stands in a cell of a table."""
    return re.sub(r" ?\[\d+\]_", "", text).replace("|", "\\|").replace("*", "\\*")
