"""Run the steps of a long job, numbered, each with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Step(NamedTuple):
    """Hold a step of a job.

    Attributes
    ----------
    about : str
        What it does.
    seconds : float
        How long it took where it was timed. Its share of the whole is what counts.
    run : callable
        Does it.
    """

    about: str
    seconds: float
    run: Callable[[], object]


def run_steps(steps: Sequence[Step], clock: Callable[[], float] = time.monotonic) -> None:
    """Run steps, and print before each its number, what it does, and about how long all that are left take.

    The time left follows from the steps that have run: a machine that took twice as long for them takes twice as long
    for the others. A step that had run before, and took next to nothing, is not counted.

    Parameters
    ----------
    steps : sequence of Step
        The steps.
    clock : callable, optional
        Returns seconds.
    """
    began, taken, expected = clock(), 0.0, 0.0
    for number, step in enumerate(steps, 1):
        pace = taken / expected if expected else 1.0
        left = pace * sum(later.seconds for later in steps[number - 1 :])
        print(f"step {number} of {len(steps)}: {step.about}, {time_left(left)}", flush=True)
        start = clock()
        step.run()
        if (seconds := clock() - start) > step.seconds / 20:
            taken, expected = taken + seconds, expected + step.seconds
    print(f"done in {(clock() - began) / 60:.0f} min", flush=True)


def time_left(seconds: float) -> str:
    """Return the time that is left in words."""
    return (
        f"about {round(seconds / 60)} min left"
        if seconds >= 90
        else f"about {max(10, 10 * round(seconds / 10))} s left"
    )
