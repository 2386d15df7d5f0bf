"""Find and fill the places in Markdown and in notebooks that quote result files.

Two forms, both invisible when rendered. A number is followed by its name, `.41<!-- gap.alignment -->`. A table stands
between `<!-- table: gap -->` and `<!-- end -->`, each on a line without anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

VALUE = (
    r"\[[^\[\]\n]+\]"  # an interval
    r"|\d+-\d+(?:,? \d+-\d+)*"  # the pairs of a plan
    r"|[+-]?(?:\d[\d,]*)?\.?\d+(?:e-?\d+)?"
    r"|NaN|infinite"
)
NUMBER = re.compile(rf"(?P<value>{VALUE})(?P<bold>\**)<!-- (?P<name>\w[\w-]*(?:\.[\w-]+)+) -->")
TABLE = re.compile(
    r"(?P<open>^<!-- table: (?P<name>[\w .-]+) -->\n)(?P<body>.*?)(?P<close>^<!-- end -->$)", re.M | re.S
)
PUBLISHED = "<!-- published -->"  # behind a number of somebody else's paper, which no file of ours holds
STRAY = re.compile(r"^<!-- \w[\w-]*\.", re.M)  # a comment at the start of a line ends a paragraph


def filled(text: str, numbers: Mapping[str, str], tables: Mapping[str, Callable[[], str]], where: str) -> str:
    """Return a Markdown text with every quoted number and table as the result files have it.

    Parameters
    ----------
    text : str
        Markdown.
    numbers : mapping of str to str
        The rounded numbers by name.
    tables : mapping of str to function
        What writes each table, by name.
    where : str
        The file, for messages.

    Raises
    ------
    ValueError
        A name that no result file has, or a marker that does not follow a value.
    """

    def number(found: re.Match[str]) -> str:
        if found["name"] not in numbers:
            raise ValueError(f"{where}: no number of the result files is called {found['name']!r}")
        return f"{numbers[found['name']]}{found['bold']}<!-- {found['name']} -->"

    def table(found: re.Match[str]) -> str:
        if found["name"] not in tables:
            raise ValueError(f"{where}: no table of the result files is called {found['name']!r}")
        return f"{found['open']}\n{tables[found['name']]().strip()}\n\n{found['close']}"

    if stray := STRAY.search(text):
        raise ValueError(f"{where}: a line must not begin with a marker, put {stray[0]!r} behind its number")
    text = TABLE.sub(table, NUMBER.sub(number, text))
    unread = re.search(r"<!-- (?!table:|end|published)[^>]*-->", NUMBER.sub("", text))
    if unread:
        raise ValueError(f"{where}: {unread[0]} does not follow a number, an interval or the pairs of a plan")
    return text


def filled_notebook(source: str, fill: Callable[[str], str]) -> str:
    """Return a notebook's JSON with its Markdown cells filled; the bytes of all else stay."""
    notebook = json.loads(source)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = fill("".join(cell["source"])).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def prose(text: str) -> str:
    """Return what a reader reads of a Markdown text as sentences, without what has a source beside it.

    Taken out are code, quoted numbers and tables, numbers of other people's papers, comments and the targets of links.
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = NUMBER.sub("", TABLE.sub("", text))
    text = re.sub(rf"\S+{PUBLISHED}", "", text)
    return re.sub(r"`[^`\n]*`|<!--.*?-->|\]\([^)]*\)|https?://\S+", " ", text)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")
