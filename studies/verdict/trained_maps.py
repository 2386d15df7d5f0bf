"""Score every cell of a pair's grid by the rules that need a trained model; the part test is not touched."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.evaluation.link_ablation import ablate_links
from ...models.fusion.expert_passes import text_pass
from ...models.fusion.fused_model import FusedModel
from ...models.generation.flow import flow_loss
from ...models.scenes.read_captions import ReadCaption
from ...models.towers.visiting import visiting
from ...models.training.batches import BRIDGE_TIME_SHIFT
from ...probes.evidence.conflict import gradient_conflict
from ...probes.plans.choosing import choose_bridges
from ...probes.plans.layouts import lay_out
from ...probes.stimuli.stimulus_set import Stimuli
from .bridge_runs import depths, train_bridges
from .caption_pool import evidence, noisy_batch, pool
from .testbed import BATCH, Pair, plan_of

SEED = 2  # no run of the outcomes has it
BROKEN = 64  # stimuli that links are broken on
BATCHES = 8  # of each task whose gradients are compared
TEMPERATURE = 0.05  # of the contrast of captions, as sentence encoders are trained


def soft_weights(pair: Pair, folder: Path) -> pd.DataFrame:
    """Train the layout "soft", and return the share of every understanding block in what each generation block reads.

    Parameters
    ----------
    pair : Pair
        The experts.
    folder : Path
        The folder of the study.

    Returns
    -------
    DataFrame
        As `FusedModel.layer_weights` returns it.
    """
    plan = lay_out("soft", *depths(pair), gated=False)
    return train_bridges(pair, plan, SEED, folder, "soft").layer_weights()


def broken_links(pair: Pair, folder: Path) -> pd.DataFrame:
    """Train a model for each generation block of the grid, and break its links one at a time.

    Bridges of one plan cannot cross, so no trained model has a link at every cell. Each of these models has bridges
    from all understanding blocks of the grid into one generation block.

    Parameters
    ----------
    pair : Pair
        The experts.
    folder : Path
        The folder of the study.

    Returns
    -------
    DataFrame
        The tables of `ablate_links`, one below the other. No image is drawn: the loss says what a link is worth.
    """
    stimuli = Stimuli(list(evidence())[:BROKEN], name="read-evidence")
    tables = []
    for block in pair.generation_blocks:
        plan = plan_of(tuple((u, block) for u in pair.understanding_blocks), depths(pair))
        fused = train_bridges(pair, plan, SEED, folder, f"links-{block}").read_text_from(None)
        tables.append(ablate_links(fused, stimuli, each=0))
    return pd.concat(tables, ignore_index=True)


def conflicts(pair: Pair, folder: Path) -> pd.DataFrame:
    """Train the plan "all", and compare the gradients of two tasks at the blocks of the grid.

    An understanding block serves its own task, to tell which of a batch's plain captions says the same as one that must
    be read, and the generator's, through the bridges. A generation block draws with a caption and without.

    Parameters
    ----------
    pair : Pair
        The experts.
    folder : Path
        The folder of the study.

    Returns
    -------
    DataFrame
        The tables of `gradient_conflict`, one below the other, with the column subject.
    """
    plan = plan_of(choose_bridges(rule="all", layers=depths(pair)).pairs, depths(pair))
    fused = train_bridges(pair, plan, SEED, folder, "conflicts").read_text_from(None)
    fused.adapt("all")  # else no gradient reaches the understanding expert; nothing is trained any more
    draws, blank, matching = (
        [partial(loss, fused, number) for number in range(BATCHES)] for loss in (_draw, _draw_blank, _match)
    )
    sides = (
        ("understanding", fused.experts[0].blocks, pair.understanding_blocks, {"drawing": draws, "matching": matching}),
        ("generation", fused.experts[1].blocks, pair.generation_blocks, {"with": draws, "without": blank}),
    )
    tables = []
    for side, paths, blocks, tasks in sides:
        table = gradient_conflict(fused, [f"{side}.{paths[block]}" for block in blocks], tasks)
        where = {"layer": list(map(str, blocks)), "depth": [(block + 1) / len(paths) for block in blocks]}
        tables.append(table.assign(**where, subject=side))
    return pd.concat(tables, ignore_index=True)


TRAINED: dict[str, Callable[[Pair, Path], pd.DataFrame]] = {
    "gradient_conflict": conflicts,
    "causal": broken_links,
    "soft": soft_weights,
}


def _scenes(number: int) -> tuple[np.random.Generator, list[ReadCaption]]:
    """Draw captions of the part evidence, each of another scene."""
    rng = np.random.default_rng((number, 9))
    drawn = {pool("evidence")[n].scene.caption: pool("evidence")[n] for n in rng.permutation(len(pool("evidence")))}
    return rng, list(drawn.values())[:BATCH]


def _draw(fused: FusedModel, number: int, blank: bool = False) -> Tensor:
    rng, chosen = _scenes(number)
    captions = ["" if blank else read.caption for read in chosen]
    return flow_loss(fused, noisy_batch(rng, chosen, captions, BRIDGE_TIME_SHIFT))


def _draw_blank(fused: FusedModel, number: int) -> Tensor:
    return _draw(fused, number + BATCHES, blank=True)


def _match(fused: FusedModel, number: int) -> Tensor:
    """Return the cross-entropy of finding each caption's plain twin among those of its batch (InfoNCE)."""
    _, chosen = _scenes(number + 2 * BATCHES)
    read, plain = (_mean_states(fused, texts) for texts in zip(*((r.caption, r.plain) for r in chosen), strict=True))
    cosines = F.normalize(read, dim=1) @ F.normalize(plain, dim=1).T
    return F.cross_entropy(cosines / TEMPERATURE, torch.arange(len(chosen), device=cosines.device))


def _mean_states(fused: FusedModel, texts: tuple[str, ...]) -> Tensor:
    """Return the mean over tokens of the understanding expert's last states, (caption, dim)."""
    run, mask = text_pass(fused.experts[0], texts)
    tower: Any = fused.towers[0]
    kept: list[Tensor] = []
    with visiting(tower, {len(tower.blocks) - 1: kept.append}):
        run()
    mask = mask.to(kept[0].device)[..., None]
    return (kept[0] * mask).sum(1) / mask.sum(1)
