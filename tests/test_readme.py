"""Hold the README and the docs to what is measured and to what runs: numbers, examples, links, commands, words."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest
from matplotlib import pyplot as plt

from bridgework.studies import result_tables
from bridgework.studies.quotes.markers import filled, prose
from bridgework.studies.quotes.rounding import between, percent, rounded, whole
from bridgework.tests.test_style import ROOT, name

README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / "notebooks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = result_tables.texts()
LINES = 200

# 1. Numbers come from files


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.125, ".13"), (-0.125, "-.13"), (0.413, ".41"), (0.0287, ".029"), (0.0996, ".10"),
        (0.00418, ".0042"), (1.035, "1.04"), (1, "1.00"), (9.999, "10.0"), (41.18, "41.2"), (891.24, "891"),
        (9e-8, "9.0e-8"), (1e-4, ".00010"), (0.1 + 0.2, ".30"), (2.675, "2.68"),
        (float("nan"), "NaN"), (float("inf"), "infinite"),
    ],
)  # fmt: skip
def test_one_rounding_rule(value, text):
    assert rounded(value) == text


def test_intervals_counts_and_shares_are_rounded_alike():
    assert between(-0.044, 0.4551) == "[-.044, .46]"
    assert (whole(1392.4), percent(0.125)) == ("1,392", "13")


def test_a_number_and_a_table_are_filled_in():
    text = "It is **.40**<!-- a.b --> [0, 1]<!-- a.c -->.\n\n<!-- table: t -->\nold\n<!-- end -->\n"
    done = filled(text, {"a.b": ".41", "a.c": "[.37, .46]"}, {"t": lambda: "| new |"}, "here")
    assert done == "It is **.41**<!-- a.b --> [.37, .46]<!-- a.c -->.\n\n<!-- table: t -->\n\n| new |\n\n<!-- end -->\n"
    assert filled(done, {"a.b": ".41", "a.c": "[.37, .46]"}, {"t": lambda: "| new |"}, "here") == done


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".4<!-- a.nothing -->", "no number of the result files is called 'a.nothing'"),
        ("<!-- table: none -->\n<!-- end -->", "no table of the result files is called 'none'"),
        ("words<!-- a.b -->", "does not follow a number"),
        ("a line\n<!-- a.b --> and more", "must not begin with a marker"),
    ],
)
def test_what_cannot_be_filled_in_is_named(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        filled(text, {"a.b": ".41"}, {}, "here")


@pytest.mark.parametrize("file", TEXTS, ids=name)
def test_text_says_what_the_files_say(file):
    assert result_tables.as_measured(file) == file.read_text(encoding="utf-8"), (
        "run `python -m bridgework.studies.result_tables`"
    )


def test_the_check_finds_a_number_that_was_changed(tmp_path, monkeypatch, capsys):
    copy = tmp_path / "README.md"
    copy.write_text(
        README.read_text(encoding="utf-8").replace(".41<!-- gap.alignment -->", ".99<!-- gap.alignment -->")
    )
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(result_tables, "ROOT", tmp_path)
    monkeypatch.setattr(result_tables, "texts", lambda: [copy])
    with pytest.raises(SystemExit) as raised:
        result_tables.main(["--check"])
    assert raised.value.code == 1
    assert capsys.readouterr().out == "README.md\n"
    result_tables.main([])
    assert copy.read_text(encoding="utf-8") == README.read_text(encoding="utf-8")


# Decimals that are no results: versions of languages, models and licences; timesteps, of one digit, as no rounded
# number has; and what stands on the pages of trial runs and of what was met at an earlier version.
DECIMAL = re.compile(r"(?<![\w.,-])-?\d*\.\d+(?!\w|\.\d)")
VERSIONS = ("Python 3.11", "SD 3.5", "Stable Diffusion 1.5", "Apache-2.0", "OFL-1.1", "## 0.1.0")
TIMESTEPS = (".2", ".5", ".8")
PAST = ("negative.md", "reports.md")


def unsourced(text: str) -> list[str]:
    """The decimal numbers in prose that no file stands behind."""
    words = prose(text)
    for version in VERSIONS:
        words = words.replace(version, "")
    return [number for number in DECIMAL.findall(words) if number not in TIMESTEPS]


def written(file: Path) -> str:
    if file.suffix == ".ipynb":
        cells = nbformat.read(file, as_version=4).cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", [file for file in sorted({*PAGES, *TEXTS}) if file.name not in PAST], ids=name)
def test_no_number_is_typed_by_hand(file):
    assert not unsourced(written(file))


@pytest.mark.parametrize("text", ["it closes .41 of it", "from 1.04 on", "[-.18, 2]", "**.99**", "(.5 to .41)"])
def test_a_number_typed_by_hand_is_found(text):
    assert unsourced(text)


@pytest.mark.parametrize(
    "text",
    [
        ".41<!-- gap.alignment -->",
        "t = .5",
        "`x = .41`",
        "```\n.41\n```",
        ".44<!-- published -->",
        "Qwen2.5",
        "[a](b.41)",
    ],
)
def test_a_number_with_a_source_is_left_alone(text):
    assert not unsourced(text)


# 2. Examples run


def blocks(file: Path, *languages: str) -> list[str]:
    """The code blocks of a page in these languages; "" is a block without one, the command line."""
    fences = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", file.read_text(encoding="utf-8"), re.M | re.S)
    return [code for language, code in fences if language in languages]


def test_the_first_example_runs_as_printed(tmp_path, monkeypatch):
    """Only shorter: fewer scenes, fewer steps."""
    example = blocks(README, "python")[0]
    for printed, shorter in (('"evidence", 256', '"evidence", 24'), ("steps=60", "steps=2")):
        assert printed in example
        example = example.replace(printed, shorter)
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(compile(example, "README.md", "exec"), space)
    plt.close("all")
    assert len(space["plan"].pairs) == 4
    assert (tmp_path / "runs" / "first" / "bridges.safetensors").is_file()
    assert (tmp_path / "layer_map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("file", PAGES, ids=name)
def test_every_example_is_python_and_imports_what_exists(file):
    imports = [node for block in blocks(file, "python") for node in ast.walk(ast.parse(block))]
    ours = [n for n in imports if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("bridgework")]
    modules = {node.module: importlib.import_module(str(node.module)) for node in ours}
    wanted = [(node.module, alias.name) for node in ours for alias in node.names]
    assert not [f"{module}.{name}" for module, name in wanted if not hasattr(modules[module], name)]


def test_every_command_in_the_docs_is_one_of_ours(capsys):
    from bridgework.__main__ import main

    with pytest.raises(SystemExit):
        main(["--help"])
    known = capsys.readouterr().out
    used: set[str] = set()
    for file in PAGES:
        code = "\n".join([*blocks(file, "", "sh"), *re.findall(r"`([^`\n]+)`", file.read_text(encoding="utf-8"))])
        used |= set(re.findall(r"(?:^|-m |\s)bridgework ([a-z]+)\b", code, re.M))
    assert used >= {"extract", "choose", "train", "evaluate", "estimate", "reproduce", "fetch"}
    assert not [command for command in used if not re.search(rf"\b{command}\b", known)]


# 3. What a reader finds


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LINES


def anchors(file: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", written(file), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", PAGES, ids=name)
def test_every_link_leads_somewhere(file):
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        place = (file.parent / path).resolve() if path else file
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert not [page for page in PAGES if page.name not in ("README.md", "index.md") and f"{page.name})" not in index]


def test_the_glossary_has_twenty_words():
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) == 20


def test_every_folder_is_in_the_tree():
    tree = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = ("probes", "models", "figures", "studies")
    folders = {file.parent for package in packages for file in (ROOT / package).rglob("__init__.py")}
    data = {ROOT / "probes" / "stimuli" / "noto"}
    assert not [name(folder) for folder in folders - data if f" {folder.name}/" not in tree]
