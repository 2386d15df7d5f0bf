"""Settle what a run costs and where its results lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..models.training.recipe import Recipe

RUNS = Path("runs")
RESULTS = Path(__file__).parent / "results"


EXPERTS = ("scenes-vlm", "scenes-dit")
TIMESTEPS = (0.2, 0.5, 0.8)
PLAN_TIMESTEP = 0.5
PLAN_METRIC = "mutual_knn"  # pixel means and bags of words share much of any layer's CKA and little of this
METRICS = ("mutual_knn", "cka")
PLANS = ("alignment", "middle", "random", "shuffled captions")
DEMO_LAYOUTS = ("H", "dense", "double fusion")
SHORT = Recipe(layout=DEMO_LAYOUTS[0], parameters=160_000, steps=40, batch_size=16, validate=0)


@dataclass(frozen=True)
class Budget:
    """What a run may cost. `steps` are training steps of each fused model, `each` the images scored per skill.

    `layouts` is the recipe of the layouts that are set beside each other.
    """

    samples: int
    bridges: int
    steps: int
    seeds: int
    each: int
    layouts: Recipe = SHORT


DEMO = Budget(samples=256, bridges=4, steps=80, seeds=1, each=6)
COMMITTED = Budget(samples=512, bridges=4, steps=600, seeds=4, each=20)
