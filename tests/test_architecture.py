"""The laws of docs/architecture.md: where modules lie, what they may import, their length, what they are called."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from bridgework.tests.test_style import FILES, MODULES, name, parse

ROOT = Path(__file__).parents[1]
PACKAGES = ("probes", "models", "figures", "studies")
LINES = 389  # a module that stands near 400 is split before the next idea is put into it
FOLDER = 12

# What each part may import: those to its left, of the same row none. In probes and models the parts are folders.
ORDER = {
    "probes": [
        "arguments file_formats files notebook_views private_names single_contexts tensor_files",
        "comparison_options extraction_options folder_locks text_lists",
        "workers", "hooks metrics", "fingerprints stimuli features", "subjects similarity", "reading",
        "extraction curves",
        "checks evidence", "plans",
    ],
    "models": [
        "scenes generation towers", "bridges experts", "fusion unified", "editing training", "costs", "evaluation",
    ],
    "studies": [
        "settings", "quotes",
        "alignment_curves layout_training real_experts real_costs smollm2_emoji plan_stability result_tables verdict",
        "fused_models", "causal", "claims editing", "effect", "runs",
    ],
}  # fmt: skip
BARRED = {
    "probes": {"models", "figures", "studies", "benchmarks", "tests"},
    "models": {"figures", "studies", "benchmarks", "tests"},
    "figures": {"models", "studies", "benchmarks", "tests"},
    "studies": {"benchmarks", "tests"},
}


def dotted(file: Path) -> str:
    parts = ("bridgework", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {dotted(file): file for file in MODULES if file.relative_to(ROOT).parts[0] in PACKAGES}


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of the project that a module imports, anywhere in its file; packages where a name is of a face."""
    file = SOURCES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            found |= {f"{origin}.{a.name}" if f"{origin}.{a.name}" in SOURCES else origin for a in node.names}
    return frozenset(path for path in found if path.split(".")[0] == "bridgework")


def part(module: str) -> tuple[str, str]:
    """(package, folder or module below it)."""
    names = [*module.split("."), "", ""]
    return names[1], names[2]


# 1. Packages


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package):
    wrong = {m: {i for i in imported(m) if part(i)[0] in BARRED[package]} for m in SOURCES if part(m)[0] == package}
    assert wrong
    assert not {module: found for module, found in wrong.items() if found}


# 2. Folders


@pytest.mark.parametrize("package", ORDER)
def test_folders_import_downwards(package):
    rank = {name: row for row, names in enumerate(ORDER[package]) for name in names.split()}
    wrong = []
    for module in SOURCES:
        (top, own) = part(module)
        if top != package or not own:
            continue
        assert own in rank, f"{module}: say in ORDER, and in docs/architecture.md, where it stands"
        for other in imported(module):
            if part(other)[0] == package and part(other)[1] not in ("", own) and rank[part(other)[1]] >= rank[own]:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_no_circle_between_modules():
    """Faces of folders are left out: importing a module imports its folder's face first, whoever asks."""
    waiting = {
        module: {i for i in imported(module) if i in SOURCES and SOURCES[i].name != "__init__.py"} - {module}
        for module, file in SOURCES.items()
        if file.name != "__init__.py"
    }
    while free := [module for module, needs in waiting.items() if not needs]:
        for module in free:
            del waiting[module]
        for needs in waiting.values():
            needs.difference_update(free)
    assert not waiting


# 3. Size


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_module_holds_one_idea(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES


def test_no_folder_holds_more_than_twelve_modules():
    counts = Counter(file.parent for file in MODULES if file.name != "__init__.py")
    assert not {name(folder): count for folder, count in counts.items() if count > FOLDER}


# 4. Names


def test_no_two_modules_share_a_name():
    names = Counter(file.stem for file in SOURCES.values() if file.name != "__init__.py")
    assert not [stem for stem, count in names.items() if count > 1]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_bears_the_name_of_what_its_package_exports(package):
    exported = re.findall(r" as (\w+)$", (ROOT / package / "__init__.pyi").read_text(), re.MULTILINE)
    assert exported
    modules = {file.stem for file in SOURCES.values() if file.relative_to(ROOT).parts[0] == package}
    assert not modules & set(exported)


# 5. Faces


def test_every_folder_has_a_face():
    folders = {file.parent for file in SOURCES.values()}
    assert not [name(folder) for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize("file", [f for f in SOURCES.values() if f.name == "__init__.py"], ids=name)
def test_a_face_only_hands_on_names(file):
    doc, *rest = parse(file).body
    assert isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
    lazy = {"__getattr__", "__dir__", "__all__"}
    for node in rest:
        if isinstance(node, ast.Assign):
            assert {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)} <= lazy
        elif isinstance(node, ast.ImportFrom):
            assert node.level
        else:
            assert ast.unparse(node) == "import lazy_loader"


def test_packages_import_relatively():
    absolute = [
        module
        for module, file in SOURCES.items()
        for node in ast.walk(parse(file))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "bridgework"
    ]
    assert not absolute


# 6. Written paths

FILE = re.compile(
    r"(?<![\w/.-])((?:probes|models|figures|studies|benchmarks|tests|notebooks|docs)/[\w./-]*\w\.(?:py|md|ipynb|yaml|csv|png|json|parquet|html))\b"
)
MODULE = re.compile(r"\bbridgework(?:\.\w+)+")
OUTPUTS = {  # what commands write, and no checkout holds
    "figures/gallery/index.html",
    "docs/index.html",
    "docs/errors.html",
    "docs/api/command_line.html",
}
NO_MODULES = {"bridgework.json", "bridgework.egg"}  # files: the manifest of fetched weights, bridgework.egg-info
WRITTEN = [file for file in FILES if file.suffix in (".py", ".md", ".ipynb", ".toml") or file.name == "Makefile"]


def exists(path: str) -> bool:
    """Whether a dotted name is a module, or a name in one, of the project."""
    names = path.split(".")[1:]
    for count in range(len(names), -1, -1):
        place = ROOT.joinpath(*names[:count])
        if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file() or (count and place.is_dir()):
            text = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
            beside = text.with_suffix(".pyi")
            source = "".join(each.read_text() for each in (text, beside) if each.is_file())
            return count == len(names) or re.search(rf"\b{names[count]}\b", source) is not None
    return False


@pytest.mark.parametrize("file", WRITTEN, ids=name)
def test_every_written_path_exists(file):
    text = file.read_text(encoding="utf-8")
    assert not [path for path in set(FILE.findall(text)) - OUTPUTS if not (ROOT / path).exists()]
    if file.name != "test_architecture.py":
        assert not [path for path in set(MODULE.findall(text)) - NO_MODULES if not exists(path)]
