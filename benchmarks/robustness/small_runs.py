"""Commands with settings so small that a run takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

from ...models.experts.opening import open_expert
from ...models.scenes.composing import scene_stimuli
from ...models.training import train_model
from ...models.training.recipe import Recipe
from ...probes.extraction.extracting import extract
from ...studies import layout_training, plan_stability, runs
from ...studies.settings import COMMITTED


class Run(NamedTuple):
    """Hold a command.

    Attributes
    ----------
    name : str
        What is run.
    arguments : str
        The command line, with {out} for the folder that it writes and {stores} for that of the stores that it reads.
    settings : callable
        Makes a context in which constants of the package are small.
    prepare : callable
        ``prepare(folder)`` writes the stores that the command reads.
    in_writes : bool
        Whether it is also killed while it writes.
    """

    name: str
    arguments: str
    settings: Callable[[], Any] = nullcontext
    prepare: Callable[[Path], object] = lambda folder: None
    in_writes: bool = False


@contextmanager
def _frequent_checkpoints() -> Iterator[None]:
    """Write a checkpoint every other step."""
    with mock.patch.object(train_model, "EVERY", 2):
        yield


def _short(name: str) -> Recipe:
    """Return a shipped recipe with few steps."""
    return replace(Recipe.load(name), steps=2, batch_size=2, validate=0)


@contextmanager
def _small_studies() -> Iterator[None]:
    """Choose plans from few scenes, and train two layouts for a few steps."""
    few = replace(COMMITTED, samples=16)
    compare = partial(layout_training.compare, layouts=("last",), batches=1)
    study = runs.STUDIES["layouts"]._replace(files=("layouts.csv",))
    with (
        _frequent_checkpoints(),
        mock.patch.multiple(plan_stability, SCENES=24, FIRST=(16, 24), DRAWS=2, COMMITTED=few),
        mock.patch.multiple(layout_training, compare=compare, draw=lambda folder: None, step_seconds=lambda *_: 0.0),
        mock.patch.object(runs, "Recipe", SimpleNamespace(load=_short)),
        mock.patch.dict(runs.STUDIES, layouts=study),
    ):
        yield


def load_everything() -> None:
    """Import what the commands use, so that a process that is forked from this one begins with it."""
    for name in ("pair_report", "probes.similarity.scoring", "probes.plans.choosing"):
        import_module(f"...{name}", __package__)
    for name in ("scenes-vlm", "scenes-dit"):
        open_expert(name)


def _extract_both(folder: Path) -> None:
    """Extract what maps are made of."""
    stimuli = scene_stimuli("evidence", 24)
    extract(open_expert("scenes-vlm"), stimuli, store=folder / "vlm")
    extract(open_expert("scenes-dit"), stimuli, timesteps=(0.2, 0.5, 0.8), store=folder / "dit")


RUNS = {
    run.name: run
    for run in (
        Run("extract", "extract scenes-dit scenes-evidence {out}/store --limit 40 --batch-size 1 --timesteps .5"),
        Run(
            "train",
            "train scenes {out}/run --layout last --steps 6 --batch-size 2 --validate 1 --average .9",
            _frequent_checkpoints,
            in_writes=True,
        ),
        Run("map", "map {stores}/vlm {stores}/dit {out}/map --timesteps .2 .5 .8", prepare=_extract_both),
        Run("reproduce", "reproduce stability layouts --runs {out}/runs --results {out}/results", _small_studies),
        Run(
            "report",
            "report scenes-vlm scenes-dit scenes-evidence {out}/report --limit 16 --no-twin --no-controls "
            "--timesteps .5 --draws 10 --k 3",
        ),
    )
}
