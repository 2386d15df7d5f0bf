"""Write every quoted number and table of README, docs and notebooks from the committed result files.

`python -m bridgework.studies.result_tables` rewrites the texts; with `--check` it only names those that differ and ends
with status 1. docs/architecture.md says how a number is quoted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ..probes.files import write_atomically
from .quotes import (
    benchmark_quotes,
    claim_quotes,
    edit_quotes,
    fault_quotes,
    layout_quotes,
    real_quotes,
    scene_quotes,
    verdict_quotes,
)
from .quotes.markers import filled, filled_notebook, read
from .settings import RESULTS

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks" / "results"


@cache
def numbers() -> dict[str, str]:
    """Return every number that a text may quote, rounded, by name."""
    studies = scene_quotes.numbers(RESULTS) | real_quotes.numbers(RESULTS) | verdict_quotes.numbers(RESULTS)
    studies |= layout_quotes.numbers(RESULTS) | edit_quotes.numbers(RESULTS)
    return studies | benchmark_quotes.numbers(BENCHMARKS) | fault_quotes.numbers(BENCHMARKS)


@cache
def tables() -> dict[str, Callable[[], str]]:
    """Return what writes each table that a text may hold, by name."""
    studies = scene_quotes.tables(RESULTS) | real_quotes.tables(RESULTS) | verdict_quotes.tables(RESULTS)
    measured = benchmark_quotes.tables(BENCHMARKS) | fault_quotes.tables(BENCHMARKS)
    texts = layout_quotes.tables(RESULTS) | claim_quotes.tables(RESULTS) | edit_quotes.tables(RESULTS)
    return studies | measured | texts


def texts() -> list[Path]:
    """Return the files that quote results: the READMEs, the pages of docs, the notebooks."""
    readmes = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", ROOT / "notebooks" / "README.md"]
    pages = [*readmes, *sorted((ROOT / "docs").glob("*.md"))]
    return [*pages, *sorted((ROOT / "notebooks").glob("*.ipynb"))]


def as_measured(file: Path) -> str:
    """Return the text of a file with every quoted number and table as the result files have it.

    Raises
    ------
    ValueError
        A marker names no number or table of the result files, or does not stand behind a value.
    """
    name = file.relative_to(ROOT).as_posix()

    def fill(text: str) -> str:
        return filled(text, numbers(), tables(), name)

    return filled_notebook(read(file), fill) if file.suffix == ".ipynb" else fill(read(file))


def main(arguments: list[str] | None = None) -> None:
    """Rewrite the texts, or name those that differ from the result files."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.studies.result_tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; name the files that differ")
    options = parser.parse_args(arguments)
    if not (ROOT / "docs").is_dir():
        sys.exit("bridgework: the texts that quote results are in a checkout of the repository, not in the package")
    differing = [file for file in texts() if as_measured(file) != read(file)]
    for file in differing:
        print(file.relative_to(ROOT).as_posix())
        if not options.check:
            text = as_measured(file)
            write_atomically(file, lambda path, text=text: path.write_text(text, encoding="utf-8"))
    if options.check and differing:
        sys.exit(1)


if __name__ == "__main__":
    main()
