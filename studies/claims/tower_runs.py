"""Train two frozen towers joined by one layout on the testbed of the study of worth, and score them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...models.costs.step_costs import attention_sharing, count_flops
from ...models.experts.opening import open_expert
from ...models.fusion.fused_model import FusedModel
from ...models.fusion.saved_model import describe_experts
from ...models.fusion.text_states import TextStates, keep_text_states
from ...models.generation.flow import flow_loss
from ...models.training.batches import BRIDGE_TIME_SHIFT
from ...models.training.loop import fit
from ...probes.fingerprints.described_values import digest
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.plans.choosing import rank_for
from ...probes.plans.layouts import lay_out
from ...probes.plans.matching import match
from ..verdict.bridge_runs import score_part
from ..verdict.caption_pool import noisy_batch, pool, training_batch
from ..verdict.testbed import DROPOUT, POOL
from . import claim_settings as settings
from .claim_cells import Cell, Row

UNBRIDGED, CEILING = "unbridged", "own text"


@cache
def tower_config(pair: str) -> str:
    """Return the hash of all that runs of a pair of experts depend on but what each trains.

    Parameters
    ----------
    pair : str
        "UNDERSTANDING x GENERATION".

    Returns
    -------
    str
        Sixteen digits.
    """
    captions = {part: digest([read.caption for read in pool(part)]) for part in POOL}
    fixed = {"protocol": settings.PROTOCOL, "captions": captions, "batch": settings.BATCH, "dropout": DROPOUT}
    return digest(fixed | {"experts": describe_experts([open_expert(name) for name in pair.split(" x ")])})


@cache
def depths(pair: str) -> tuple[int, int]:
    """Return how many blocks both experts of a pair have."""
    understanding, generation = (len(open_expert(name).blocks) for name in pair.split(" x "))
    return understanding, generation


def plan_of(about: Mapping[str, Any]) -> BridgePlan:
    """Return the plan of a run, at full rank.

    Parameters
    ----------
    about : mapping
        pair, layout, gated; and, where they differ from the published plan, middle (how many pairs in the middle stay),
        inject ("same", "shifted", "last") and semantic (how many semantic tokens).

    Returns
    -------
    BridgePlan
    """
    understanding, generation = depths(about["pair"])
    plan = lay_out(about["layout"], understanding, generation, gated=about["gated"])
    if "middle" in about:
        pairs = match(understanding, generation, "prelude")
        apart = (len(pairs) - about["middle"]) // 2
        plan = replace(plan, pairs=pairs[apart : apart + about["middle"]])
    if "inject" in about:
        plan = replace(plan, pairs=injected(about["inject"], understanding, generation))
    return replace(plan, semantic_tokens=about.get("semantic", 0))


def injected(how: str, understanding: int, generation: int) -> tuple[tuple[int, int], ...]:
    """Return which understanding block every generation block reads.

    Parameters
    ----------
    how : {"same", "shifted", "last"}
        At the same depth; half of the understanding depth deeper, the last block where there is none; or the last.
    understanding, generation : int
        The numbers of blocks.

    Returns
    -------
    tuple of (int, int)
    """
    last = understanding - 1
    same = [round(block * last / (generation - 1)) for block in range(generation)]
    shift = {"same": 0, "shifted": understanding // 2, "last": last}[how]
    return tuple((min(last, block + shift), number) for number, block in enumerate(same))


def kept_states(pair: str, inside: bool, folder: Path) -> TextStates:
    """Return what bridges read of all captions of the study, kept on disk.

    Parameters
    ----------
    pair : str
        The pair of experts.
    inside : bool
        Whether the bridges stand inside attention.
    folder : Path
        The folder of the study.

    Returns
    -------
    TextStates
    """
    name = pair.split(" x ")[0]
    captions = [read.caption for part in ("train", "validation", "test") for read in pool(part)]
    place = folder / "states" / f"{name}{' inside' if inside else ''}"
    return keep_text_states(open_expert(name), captions, place, inside=inside)


def run_tower(cell: Cell, folder: Path) -> Row:
    """Train one layout on two frozen experts, and score it.

    Parameters
    ----------
    cell : Cell
        `about` holds what `plan_of` takes, and rate; steps; part, which is scored; and, where they differ, shuffled,
        shift (of training times) and rank (else the largest within the budget). The layouts "unbridged" and
        "own text" train nothing.
    folder : Path
        The folder of the study.

    Returns
    -------
    dict
        What was measured.
    """
    about: Mapping[str, Any] = cell.about
    part, names = about.get("part", "test"), about["pair"].split(" x ")
    if about["layout"] in (UNBRIDGED, CEILING):
        own = about["layout"] == CEILING
        shown = [read.canonical if own else "" for read in pool(part)]
        return score_part(open_expert(names[1]), part, shown)
    torch.manual_seed(cell.seed)
    plan = plan_of(about)
    experts = [open_expert(name) for name in names]
    rank = about.get("rank") or fitting_rank(plan, experts)
    torch.manual_seed(cell.seed)
    fused = FusedModel(experts[0], experts[1], replace(plan, rank=rank))
    fused.read_text_from(kept_states(about["pair"], fused.inside, folder))
    fused.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).train()
    shift = float(np.log(about["shift"])) if "shift" in about else settings.TIME_SHIFT

    def loss(step: int) -> torch.Tensor:
        return fused.loss(training_batch(step, cell.seed, about.get("shuffled", False), shift))

    run, began = folder / "training" / f"{cell.key}-{os.getpid()}", time.process_time()
    fit(
        fused.trained(), loss, run, about["steps"], learning_rate=2 * about["rate"], muon=about["rate"],
        checkpoint_every=about["steps"], progress=" ".join(map(str, about.values())),
    )  # fmt: skip
    seconds = (time.process_time() - began) / about["steps"]
    shutil.rmtree(run)
    fused.eval()
    row = {
        "bridges": len(plan.pairs), "used_rank": rank, "sharing": attention_sharing(plan), "step_seconds": seconds,
        "parameters": sum(p.numel() for p in fused.trained().parameters() if p.requires_grad),
    }  # fmt: skip
    if about.get("validation"):
        return row | {"loss": validation(fused)}
    batch = training_batch(0, 0, False, shift)
    row["step_flops"] = count_flops(lambda: fused.loss(batch).backward()).total
    row |= score_part(fused, part, [read.caption for read in pool(part)])
    if about.get("links"):
        row |= broken_links(fused)
    return row


def fitting_rank(plan: BridgePlan, experts: list[Any]) -> int | None:
    """Return the largest rank whose bridges fit the budget; None where full rank does."""
    fused = FusedModel(experts[0], experts[1], replace(plan, rank=1, semantic_tokens=0))
    if fused.count_parameters(None) <= settings.PARAMETERS:
        return None
    return rank_for(settings.PARAMETERS, fused.count_parameters)


def validation(model: Any) -> float:
    """Return the loss on the part validation: what learning rates are chosen by."""
    losses = score_losses(model, "validation")
    return float(losses.mean())


def broken_links(fused: FusedModel) -> Row:
    """Break each bridge alone, and return by how much the loss on the part validation rises, link by link."""
    whole = score_losses(fused, "validation")
    found = []
    for number in range(len(fused.plan.pairs)):
        fused.disabled_bridges = {number}
        found.append(float((score_losses(fused, "validation") - whole).mean()))
    fused.disabled_bridges = set()
    return {"links": found, "link_pairs": [list(pair) for pair in fused.plan.pairs]}


@torch.no_grad()
def score_losses(model: Any, part: str) -> np.ndarray:
    """Return the velocity losses of a part, one for each batch of 16 captions of one kind, (batch,)."""
    reads, losses = pool(part), []
    for start in range(0, len(reads), settings.BATCH):
        chosen = reads[start : start + settings.BATCH]
        rng = np.random.default_rng((2**31, start))
        losses.append(
            float(flow_loss(model, noisy_batch(rng, chosen, [read.caption for read in chosen], BRIDGE_TIME_SHIFT)))
        )
    return np.array(losses)
