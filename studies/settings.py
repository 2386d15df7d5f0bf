"""Settle what the studies compare, what a run may cost, and where its results lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RUNS = Path("runs")
RESULTS = Path(__file__).parent / "results"

EXPERTS = ("scenes-vlm", "scenes-dit")
TIMESTEPS = (0.2, 0.5, 0.8)
PLAN_TIMESTEP = 0.5
PLAN_METRIC = "mutual_knn"  # pixel means and bags of words share much of any layer's CKA and little of this
METRICS = ("mutual_knn", "cka")
FLOOR = "shuffled captions"  # models with the alignment plan, trained with the captions of other scenes
PLANS = ("alignment", "shallow", "middle", "deep", "random", FLOOR)
HALF_TRAINED = RESULTS / "half_trained"  # bridges of the committed alignment plan, which the demo trains on


@dataclass(frozen=True)
class Budget:
    """What a run may cost.

    Attributes
    ----------
    samples : int
        The scenes that curves and maps are measured on.
    bridges : int
        The bridges of each plan.
    steps : int
        The training steps of each fused model.
    seeds : int
        The fused models of each plan.
    each : int
        The images of every skill that a fused model is scored on.
    batch_size : int
        The scenes of a training step of each fused model.
    sampling_steps : int
        The steps from noise to an image.
    batches : int
        The batches of held-out scenes, of 32 each, that losses are measured on.
    """

    samples: int
    bridges: int
    steps: int
    seeds: int
    each: int
    batch_size: int = 32
    sampling_steps: int = 16
    batches: int = 8


DEMO = Budget(samples=256, bridges=4, steps=100, seeds=1, each=20)
COMMITTED = Budget(samples=512, bridges=4, steps=600, seeds=4, each=20)
