"""Settle what the editing study compares; protocol.md says why.

A change of anything here is another study. `edit_runs.config` names it by a hash, and results of two are never mixed.
"""

from __future__ import annotations

from functools import cache

from ...models.experts.opening import open_expert
from ...models.fusion.fused_model import FusedModel
from ...models.scenes.edits import Edit, scene_edits
from ...probes.plans.choosing import rank_for
from ...probes.plans.layouts import lay_out

PROTOCOL = 1
UNDERSTANDING, GENERATION = "scenes-vlm", "scenes-dit"
LAYOUTS = ("double fusion", "dense", "H", "last", "soft")
SEEDS = (0, 1, 2)
STEPS, BATCH = 200, 16
PARAMETERS = 300_000  # of the bridges of every layout, as near below as a whole rank comes
RATES = (1e-2, 3e-2)  # of the matrices of bridges; their vectors learn at twice the rate
ENTRY_RATES = {"entry.gate": 3e-2, "entry.map.weight": 3e-3}  # the same in every layout; the gate has far to go
TUNING = {"steps": 100, "seed": 100, "source": "both"}  # a run for each layout and rate; the validation loss chooses
DROPOUT = 0.1  # share of instructions that are left out in training, for guidance
TIME_SHIFT = 2.0  # the training times of studies/verdict, noisy: there source and instruction decide most
POOL = {"train": 200, "validation": 16, "test": 16}  # edits of every kind
DRAWN = 16  # of the test edits of every kind, as images that are scored
SAMPLING = {"steps": 8, "guidance": 1.5}

# What a run is, beside its layout and the way its source enters.
MAIN = "own instructions"
FLOOR = "others' instructions"  # trained as the others, with the instruction of another edit of the batch
UNBRIDGED = "no bridges"  # the entry of spatial tokens is trained alone: no instruction is read

LEAST_SEEDS = 3
LEAST_GAIN = 0.002  # a difference in loss that is of use


@cache
def edits(part: str) -> list[Edit]:
    """Return the edits of a part, those of every kind equally many.

    Parameters
    ----------
    part : str
        A name of `POOL`.

    Returns
    -------
    list of Edit
        Kind by kind.
    """
    return scene_edits(part, POOL[part])


def fuse(layout: str) -> FusedModel:
    """Join fresh experts by the published plan of a layout, at the rank that has `PARAMETERS`.

    Parameters
    ----------
    layout : str
        A name of `LAYOUTS`.

    Returns
    -------
    FusedModel
    """
    return _fused(layout, rank_of(layout))


@cache  # a model is built for it
def rank_of(layout: str) -> int:
    """Return the largest rank at which the bridges of a layout have at most `PARAMETERS` trainable parameters.

    Parameters
    ----------
    layout : str
        A name of `LAYOUTS`.

    Returns
    -------
    int
    """
    return rank_for(PARAMETERS, _fused(layout, 1).count_parameters)


def _fused(layout: str, rank: int) -> FusedModel:
    experts = open_expert(UNDERSTANDING), open_expert(GENERATION)
    return FusedModel(*experts, lay_out(layout, *(len(expert.blocks) for expert in experts), rank=rank, gated=False))
