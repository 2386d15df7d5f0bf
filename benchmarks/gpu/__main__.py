"""Measure on one graphics card, within 8 minutes and without network: speed, memory, equality with the CPU, training.

    python -m bridgework.benchmarks.gpu                              # writes gpu.csv among the results
    python -m bridgework.benchmarks.gpu --wheels FOLDER              # with what is not installed there
    python -m bridgework.benchmarks.gpu --size tiny --device cpu     # a try of the same code, in seconds

A part that fails, or takes longer than its share of the time, writes one row that says so, and the next one follows.
Rows are written as they are measured: a run that is killed loses none.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

from .runner import end_process, run, work
from .sizes import SHARES
from .wheels import install, lacking

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Install what is missing, and run the parts."""
    parser = argparse.ArgumentParser(
        prog="python -m bridgework.benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parts = list(SHARES)
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--size", choices=("card", "tiny"), default="card")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=480.0, help="how long all parts may take")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels; those that are missing here are installed")
    parser.add_argument("--results", type=Path, default=RESULTS / "gpu.csv", help="the file that is written")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # of a process that `run` has started
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() if options.wheels else nullcontext() as target:
        if target:
            print(f"installed from {options.wheels}: {', '.join(install(options.wheels, Path(target))) or 'nothing'}")
        if missing := lacking():
            parser.error(
                f"{', '.join(missing)} is not installed: lay the wheels into a folder, and give --wheels FOLDER"
            )
        given = (options.parts, options.size, options.device, options.results)
        if options.until:
            work(*given, options.until, end_process)
            return
        if options.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                parser.error("torch finds no card: --size tiny --device cpu tries the same code without one")
        run(*given, options.seconds)


if __name__ == "__main__":
    main()
