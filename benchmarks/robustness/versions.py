"""Run tests against the oldest and the newest versions of the libraries that the project allows.

    python -m bridgework.benchmarks.robustness.versions oldest latest   # writes benchmarks/results/versions.csv

Each column is a new environment, made by pip and removed afterwards:

- oldest: every dependency of pyproject.toml at its lower bound;
- pinned: as constraints.txt says, which is what `make` installs;
- latest: the newest that the registry has and pyproject.toml allows.

The environment needs one or two gigabytes, and more where pip takes a CUDA build of torch. `--pin torch==2.13.0`
replaces a version of the column, and `--environment FOLDER` tests in an environment that is there already. The tests
are those that use private names, hooks, pipelines, adapters and placement, a few minutes on one core. The date is that
on which a version's wheel was built.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = ("oldest", "pinned", "latest")
LIBRARIES = ("torch", "transformers", "diffusers", "accelerate", "peft")
FLOATING = {"ipywidgets", "jupyterlab", "nbval"}  # for notebooks, which none of these tests opens
TOOLS = ("nbformat", "psutil", "pytest>=9")  # what the tests need besides
TESTS = (
    "tests/probes/test_private_names.py",
    "tests/models/fusion/test_lockstep.py",
    "tests/models/fusion/test_trained_parts.py",
    "tests/models/towers/test_checkpointing.py",
    "tests/models/experts/test_adapters.py",
    "tests/models/experts/test_language.py",
    "tests/models/experts/diffusion/test_pipeline_expert.py",
    "tests/models/experts/weight_files/test_weight_placement.py",
    "tests/models/training/test_loop.py",
)


def requirements_of(column: str, pins: Sequence[str] = ()) -> list[str]:
    """Return what pip installs for a column.

    Parameters
    ----------
    column : str
        "oldest", "pinned" or "latest".
    pins : sequence of str
        Requirements that replace those of the column, such as "torch==2.13.0".

    Returns
    -------
    list of str
        One requirement for each dependency, sorted by name.

    Raises
    ------
    ValueError
        A dependency has no lower bound.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = {canonicalize_name(Requirement(text).name): Requirement(text) for text in project["dependencies"]}
    found = {name: str(wanted) for name, wanted in allowed.items()}
    if column == "oldest":
        found |= {name: lower_bound(wanted) for name, wanted in allowed.items() if name not in FLOATING}
    if column == "pinned":
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
        found |= {name: line for line in lines if (name := canonicalize_name(Requirement(line).name)) in allowed}
    found |= {canonicalize_name(Requirement(pin).name): pin for pin in pins}
    return [found[name] for name in sorted(found)]


def lower_bound(wanted: Requirement) -> str:
    """Return the requirement of the oldest version that another one allows."""
    bounds = [bound.version for bound in wanted.specifier if bound.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{wanted} in pyproject.toml has no lower bound: write one, as {wanted.name}>=1")
    return f"{wanted.name}=={bounds[0]}"


def build(folder: Path, requirements: Iterable[str]) -> Path:
    """Make an environment and install into it.

    Parameters
    ----------
    folder : Path
        The environment. It is made.
    requirements : iterable of str
        What is installed, with what that needs.

    Returns
    -------
    Path
        Its Python.
    """
    venv.create(folder, with_pip=True)
    python = python_of(folder)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements, *TOOLS], check=True)
    return python


def python_of(environment: Path) -> Path:
    """Return the Python of an environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def installed(python: Path) -> dict[str, str]:
    """Return the versions of the libraries in an environment, by name."""
    code = f"from importlib.metadata import version\nprint(*map(version, {LIBRARIES}))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return dict(zip(LIBRARIES, done.stdout.split(), strict=True))


def built_on(name: str, version: str, folder: Path) -> str:
    """Return the date on which a version's wheel was built, as the wheel itself says.

    Parameters
    ----------
    name, version : str
        The library.
    folder : Path
        Where the wheel is downloaded to, unless it is there.

    Returns
    -------
    str
        YYYY-MM-DD; "" for a wheel without dates.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder]
    subprocess.run([*pip, f"{name}=={version}"], check=True)
    (wheel,) = folder.glob(f"{name}-{version.replace('+', '*')}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        year, month, day, *_ = max(part.date_time for part in archive.infolist())
    return "" if year == 1980 else f"{year}-{month:02}-{day:02}"  # zip's oldest date stands for none


def run_tests(python: Path, folder: Path) -> dict[str, int]:
    """Run the tests of this checkout in an environment.

    Parameters
    ----------
    python : Path
        The environment's Python.
    folder : Path
        A folder for scratch files.

    Returns
    -------
    dict of int
        passed, failed, skipped.
    """
    link, report = folder / "bridgework", folder / "report.xml"
    if not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *TESTS]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=link, env=environment)
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    counts = [
        {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")} for suite in suites
    ]
    total = {name: sum(count[name] for count in counts) for name in counts[0]}
    failed = total["failures"] + total["errors"]
    return {"passed": total["tests"] - failed - total["skipped"], "failed": failed, "skipped": total["skipped"]}


def measure(column: str, pins: Sequence[str] = (), environment: Path | None = None) -> pd.DataFrame:
    """Test one column.

    Parameters
    ----------
    column : str
        "oldest", "pinned" or "latest".
    pins : sequence of str
        Requirements that replace those of the column.
    environment : Path, optional
        An environment that is there already. None makes one and removes it.

    Returns
    -------
    DataFrame
        One row for each library. Columns: column, package, version, built, passed, failed, skipped, python, environment
        ("new" or "given").
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if environment is None:
            python = build(folder / "environment", requirements_of(column, pins))
        else:
            python = python_of(environment.absolute())
        versions = installed(python)
        rows: list[dict[str, Any]] = [
            {"column": column, "package": name, "version": version, "built": built_on(name, version, folder)}
            for name, version in versions.items()
        ]
        done = subprocess.run([python, "--version"], capture_output=True, text=True, check=True)
        return pd.DataFrame(rows).assign(
            **run_tests(python, folder),
            python=done.stdout.split()[1],
            environment="new" if environment is None else "given",
        )


def main() -> None:
    """Write and print the table, and end with status 1 where a test has failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bridgework.benchmarks.robustness.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("columns", nargs="+", choices=COLUMNS)
    parser.add_argument("--pin", action="append", default=[], help="a version in place of the column's, repeatable")
    parser.add_argument("--environment", type=Path, help="test in this environment; for one column")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where versions.csv is written")
    options = parser.parse_args()
    if options.environment is not None and len(options.columns) > 1:
        parser.error("--environment is of one column: name one")
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "versions.csv"
    for column in options.columns:
        found = measure(column, options.pin, options.environment)
        before = pd.read_csv(path, dtype=str) if path.is_file() else pd.DataFrame(columns=["column"])
        parts = {each: before[before["column"] == each] for each in COLUMNS} | {column: found.astype(str)}
        pd.concat(parts.values()).to_csv(path, index=False)
    table = pd.read_csv(path)
    print(table.to_string(index=False))
    if (table["failed"] > 0).any():
        raise SystemExit("a test has failed: raise the lower bound in pyproject.toml, or mend what fails")


if __name__ == "__main__":
    main()
