"""Time the imports of the package's public names, as ratios to `import torch`.

    python -m bridgework.benchmarks.imports     # a few minutes; writes benchmarks/results/imports.csv

Every import runs in a fresh interpreter. The statements take turns, in an order that rotates, and the best of several
rounds counts. Seconds are processor time, so other processes on the machine hardly count; the ratio of seconds on the
clock is beside it, and means something on an idle machine alone. The packages import a name when it is first used, so
the table has the names that most programs start with, and all public names together, beside the bare packages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from .support.inputs import machine

RESULTS = Path(__file__).with_name("results")
ROUNDS = 7
UNIT = "import torch"
STATEMENTS: dict[str, float | None] = {  # with the largest ratio that is aimed at
    UNIT: None,
    "import bridgework.probes": 1.25,
    "from bridgework.probes import similarity, similarity_map, load_stimuli": 1.25,
    "import bridgework.models": 2.0,
    "from bridgework.models import open_expert": 2.0,
    "from bridgework.probes import *": None,
    "from bridgework.models import *": None,
    "from bridgework.figures import *": None,
    "from bridgework.studies import *": None,
}
CODE = """
import json, time
processor, clock = time.process_time(), time.perf_counter()
{statement}
print(json.dumps([time.process_time() - processor, time.perf_counter() - clock]))
"""


def seconds_of(statement: str) -> tuple[float, float]:
    """Run a statement in a fresh interpreter.

    Parameters
    ----------
    statement : str
        One line of Python.

    Returns
    -------
    processor, clock : float
        Seconds that the statement took, without the start of the interpreter.
    """
    command = [sys.executable, "-c", CODE.format(statement=statement)]
    # compiled modules are kept from the first round on, as they are for users and as those of torch are here already
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    processor, clock = json.loads(done.stdout.splitlines()[-1])
    return processor, clock


def table(statements: Mapping[str, float | None], unit: str, rounds: int) -> pd.DataFrame:
    """Time statements that take turns, and divide by the time of one of them.

    Parameters
    ----------
    statements : mapping
        Statements, and the largest ratio that is aimed at.
    unit : str
        The statement whose time is 1.
    rounds : int
        How many rounds, of which the best counts.

    Returns
    -------
    DataFrame
        One row per statement. Columns: statement, aim, ratio (of processor seconds), clock_ratio, rounds.
    """
    names = list(statements)
    best = {name: (float("inf"), float("inf")) for name in names}
    for number in tqdm(range(rounds)):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            processor, clock = seconds_of(name)
            best[name] = min(best[name][0], processor), min(best[name][1], clock)
    rows = [
        {
            "statement": name,
            "aim": aim,
            "ratio": best[name][0] / best[unit][0],
            "clock_ratio": best[name][1] / best[unit][1],
        }
        for name, aim in statements.items()
    ]
    return pd.DataFrame(rows).assign(rounds=rounds)


def main() -> None:
    """Write and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.imports", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the best counts")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where imports.csv is written")
    options = parser.parse_args()
    ratios = table(STATEMENTS, UNIT, options.rounds).assign(machine=machine())
    options.results.mkdir(parents=True, exist_ok=True)
    ratios.to_csv(options.results / "imports.csv", index=False, float_format="%.3g")
    print(ratios.to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    main()
