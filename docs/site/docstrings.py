"""Keep what docstrings say in plain text as it is: Sphinx would read some of their signs as markup."""

from __future__ import annotations

import re

CODE = re.compile(r"(``.*?``|`[^`\n]*`_?|\[\d+\]_)", re.S)
MARKUP = re.compile(r"(?<=\w)_(?=\W|$)|[*|](?!\s)|(?<=\S)[*|]")
BLOCK = re.compile(r"^\s*(?:>>> |\.\.\. |\.\. )|::$")


def escape(_app: object, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Escape stars, bars and trailing underscores of a docstring, but not in code, examples and literal blocks."""
    literal: int | None = None  # the indentation of the line that ended with two colons
    for index, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and not BLOCK.search(line):
            pieces = CODE.split(line)
            pieces[::2] = [MARKUP.sub(r"\\\g<0>", piece) for piece in pieces[::2]]
            lines[index] = "".join(pieces)
        if literal is None and line.rstrip().endswith("::"):
            literal = indent
