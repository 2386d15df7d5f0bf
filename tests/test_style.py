"""Rules that a reader would otherwise have to trust: form, size, direction of imports, honest notebooks."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("probes", "models", "figures", "studies")
CODE = (*PACKAGES, "notebooks", "tests", "benchmarks", "docs")
FOLDERS = (*CODE, "findings", ".ci")
MADE = {"__pycache__", ".ipynb_checkpoints", "gallery"}
TEXT = {
    ".py",
    ".pyi",
    ".ipynb",
    ".md",
    ".txt",
    ".toml",
    ".cfg",
    ".csv",
    ".json",
    ".jsonl",
    ".mplstyle",
    ".html",
    ".js",
    ".css",
    ".sh",
}
NAMES = {"Makefile", "LICENSE", ".gitignore", "run"}

NOTEBOOK_BYTES = 500_000
FILE_BYTES = 12_000_000
NOTO_BYTES = 5_000_000

# Does not match itself. After a letter, a digit or a dot it is part of an address or of a relative path.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|tmp|work|Users|mnt|var)/")


def tree() -> Iterator[Path]:
    """Every file of the checkout that somebody wrote."""
    yield from (file for file in ROOT.glob("*") if file.is_file())
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and not MADE & set(file.relative_to(ROOT).parts):
                yield file


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = sorted(tree())
MODULES = [file for file in FILES if file.suffix == ".py"]
NOTEBOOKS = [file for file in FILES if file.suffix == ".ipynb"]


def run(*command: str | Path, cwd: Path = ROOT, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, input=text, capture_output=True, text=True)


def must_pass(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def code(notebook: Path) -> str:
    """The notebook's Python, without the lines that only IPython reads."""
    cells = nbformat.read(notebook, as_version=4).cells
    lines = "\n".join(cell.source for cell in cells if cell.cell_type == "code").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def parse(file: Path) -> ast.Module:
    return ast.parse(code(file) if file.suffix == ".ipynb" else file.read_text(encoding="utf-8"), name(file))


# Form


def test_ruff_lint():
    must_pass(run("ruff", "check", "--output-format", "concise", "."))


def test_ruff_format():
    must_pass(run("ruff", "format", "--check", "--output-format", "concise", "."))


def check_types(folder: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    """Runs the type checker on the checkout as it is imported: under the name `bridgework`, whatever its folder is."""
    link = folder / "bridgework"
    link.symlink_to(ROOT, target_is_directory=True)
    code = [*link.glob("*.py"), *(link / part for part in CODE if (link / part).exists())]
    options = [
        "--config",
        link / "pyproject.toml",
        "--search-path",
        folder,
        "--python-interpreter-path",
        sys.executable,
    ]
    return run("pyrefly", "check", *options, "--output-format", "min-text", *(files or code), cwd=folder)


def test_types(tmp_path):
    must_pass(check_types(tmp_path))


def test_type_checker_sees_through_the_package(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from bridgework.probes import load_stimuli\n\ncount: int = load_stimuli('noto')\n")
    done = check_types(tmp_path, wrong)
    assert "bad-assignment" in done.stdout, done.stdout + done.stderr


# Docstrings

GOOGLE = re.compile(r"^\s*(?:Args|Arguments|Returns|Raises|Attributes|Yields):\s*$", re.MULTILINE)
NO_VERB = {
    "a",
    "an",
    "the",
    "what",
    "whether",
    "how",
    "which",
    "where",
    "one",
    "every",
    "each",
    "all",
    "so",
    "for",
    "of",
}


@pytest.mark.parametrize("file", [file for file in MODULES if file.relative_to(ROOT).parts[0] in PACKAGES], ids=name)
def test_docstrings_are_numpydoc_and_begin_with_a_verb(file):
    module = parse(file)
    assert ast.get_docstring(module) is not None
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            text = ast.get_docstring(node) or ""
            assert not GOOGLE.search(text), f"{node.name} has a section that is not numpydoc's"
            public = node in module.body and not node.name.startswith("_")
            if public and "overload" not in [ast.unparse(each) for each in node.decorator_list]:
                assert text, f"{node.name} has no docstring"
                first = text.split()[0].lower()
                assert isinstance(node, ast.ClassDef) or first not in NO_VERB, f"{node.name}: {text.splitlines()[0]}"


# Size


def test_no_file_is_too_large():
    large = {name(file): file.stat().st_size for file in FILES if file.stat().st_size > FILE_BYTES}
    assert not large
    assert (
        sum(file.stat().st_size for file in (ROOT / "probes" / "stimuli" / "noto").iterdir() if file.is_file())
        <= NOTO_BYTES
    )


IGNORED = {"weights", "runs", "build", "dist"}  # as .gitignore has them
PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".distcp"}


def test_no_output_lies_in_the_tree():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert {name for name in folders if not name.endswith(".egg-info")} <= {*FOLDERS, *IGNORED}
    assert not [name(file) for file in FILES if file.suffix in PICKLES]


# Nothing is unpickled: ruff bars pickle and its wrappers (S301, TID251), this the option that torch leaves open.


def unsafe_loads(module: ast.Module) -> list[int]:
    """Lines that call `torch.load` without `weights_only=True`, or ask numpy for pickles."""
    lines = []
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            unsafe = ast.unparse(node.func) == "torch.load" and options.get("weights_only") != "True"
            if unsafe or options.get("allow_pickle", "False") != "False":
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("file", MODULES + NOTEBOOKS, ids=name)
def test_nothing_is_unpickled(file):
    assert not unsafe_loads(parse(file))


@pytest.mark.parametrize(
    "line", ["torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)"]
)
def test_unsafe_loads_are_found(line):
    assert unsafe_loads(ast.parse(line)) == [1]


@pytest.mark.parametrize("line", ["import pickle", "import joblib\n\njoblib.load('x')", "from joblib import load"])
def test_ruff_bars_pickles(line):
    done = run("ruff", "check", "--output-format", "concise", "-", text=line + "\n")
    assert "TID251" in done.stdout, done.stderr


# What a reader finds


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix in TEXT or file.name in NAMES], ids=name)
def test_no_machine_paths(file):
    text = file.read_text(encoding="utf-8")
    found = MACHINE_PATH.search(text)
    assert not found, text[max(0, found.start() - 40) : found.end() + 40]


def test_there_are_notebooks():
    assert [file.name[:2] for file in NOTEBOOKS] == [f"{number:02}" for number in range(1, 14)]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=name)
def test_notebook_was_executed_top_to_bottom(file):
    """nbval passes a cell without outputs vacuously, so a stripped notebook must not get that far."""
    assert file.stat().st_size <= NOTEBOOK_BYTES
    cells = [
        cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code" and cell.source.strip()
    ]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=name)
def test_notebook_leaves_logic_to_the_packages(file):
    defined = [node for node in ast.walk(parse(file)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert not [node.name for node in defined]


DOORS = {"bridgework", *(f"bridgework.{face}" for face in PACKAGES)}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=name)
def test_notebook_imports_what_users_may(file):
    """A user copies cells, so they hold public names; all but the standard library and dependencies is at the faces."""
    modules = [node.module for node in ast.walk(parse(file)) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(parse(file)) if isinstance(node, ast.Import) for alias in node.names]
    inner = [module for module in modules if (module or "").split(".")[0] == "bridgework" and module not in DOORS]
    assert not inner


def first_code(notebook: Path) -> str:
    return next(cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code")


def test_notebooks_begin_alike_and_install_what_is_missing():
    starts = {first_code(notebook) for notebook in NOTEBOOKS}
    assert len(starts) == 1
    assert 'find_spec("bridgework") is None' in starts.pop()


def test_the_first_cell_says_what_a_bare_machine_needs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="repository's address"):
        exec(compile(first_code(NOTEBOOKS[0]), "first cell", "exec"), {})


@pytest.mark.parametrize("file", NOTEBOOKS, ids=name)
def test_the_front_page_asks_what_the_notebook_asks(file):
    """A notebook's title is "# 01 Extract: what does each layer of an expert hold?"; a row has question and figure."""
    front = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    title = nbformat.read(file, as_version=4).cells[0].source.splitlines()[0]
    question = title.partition(": ")[2]
    (row,) = (line for line in front.splitlines() if f"({file.name})" in line)
    assert question and question[1:] in row
    (figure,) = re.findall(r'<img src="([^"]+)"', row)
    assert (ROOT / "notebooks" / figure).stat().st_size <= 30_000
    assert "minute" in row
