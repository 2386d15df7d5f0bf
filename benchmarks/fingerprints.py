"""Time what it costs to hash all bytes of a model's weights, first and again.

    python -m bridgework.benchmarks.fingerprints     # a minute; writes benchmarks/results/fingerprints.csv

Seconds are processor time of one thread, so other processes on the machine hardly count; those on the clock are beside
them. Every round gives the weights other memory, so that they are read again, and the best round counts. "again" is the
same model with unchanged weights, of which nothing is read but some values: what is left is the walk over its modules.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from ..models.experts.opening import open_expert
from ..probes.fingerprints.running_state import describe_model
from .support.inputs import machine

RESULTS = Path(__file__).with_name("results")
EXPERTS = ("smollm2-135m",)
ROUNDS = 7


def measure(name: str, model: nn.Module, rounds: int = ROUNDS) -> dict[str, object]:
    """Time the description of a model with unread and with known weights.

    Parameters
    ----------
    name : str
        What the row says of the model.
    model : torch.nn.Module
        The model, on the CPU.
    rounds : int
        How many rounds, of which the best counts.

    Returns
    -------
    dict
        One row: expert, GB of its parameters and buffers, tensors, the processor seconds of the first and the second
        description, seconds a GB (what reading adds, over GB), clock a GB (the same on the clock).
    """
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(tensor.nbytes for tensor in tensors) / 1e9
    first, again = [], []
    for _ in range(rounds):
        for tensor in tensors:
            tensor.data = tensor.data.clone()
        first.append(_timed(lambda: describe_model(model)))
        again.append(_timed(lambda: describe_model(model)))
    processor, clock = (min(each[i] for each in first) - min(each[i] for each in again) for i in (0, 1))
    return {
        "expert": name,
        "GB": round(size, 3),
        "tensors": len(tensors),
        "first": round(min(each[0] for each in first), 4),
        "again": round(min(each[0] for each in again), 4),
        "seconds a GB": round(processor / size, 3),
        "clock a GB": round(clock / size, 3),
    }


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    processor, clock = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - processor, time.perf_counter() - clock


def main() -> None:
    """Measure, write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    results = pd.DataFrame([measure(name, open_expert(name).model, rounds) for name in EXPERTS])
    results = results.assign(machine=machine())
    results.to_csv(RESULTS / "fingerprints.csv", index=False)
    print(results.to_string(index=False))


if __name__ == "__main__":
    main()
