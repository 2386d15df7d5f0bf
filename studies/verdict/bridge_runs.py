"""Train one plan of bridges on the testbed, and score it: one row of the outcomes."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ...models.evaluation.scene_facts import facts_held
from ...models.experts.opening import open_expert
from ...models.fusion.fused_model import FusedModel
from ...models.fusion.saved_model import describe_experts
from ...models.generation.flow import flow_loss
from ...models.generation.sampling import generate
from ...models.scenes.checker import matches_caption
from ...models.scenes.read_captions import ReadCaption
from ...models.training.batches import BRIDGE_TIME_SHIFT
from ...models.training.loop import fit
from ...probes.fingerprints.described_values import digest
from ...probes.plans.bridge_plan import BridgePlan
from .caption_pool import HELD_OUT_SEED, noisy_batch, pool, text_states, training_batch
from .testbed import (
    BATCH,
    CEILING,
    DRAWN,
    DROPOUT,
    FLOOR,
    KINDS,
    LAYOUT,
    POOL,
    PROTOCOL,
    RATE,
    SAMPLING,
    STEPS,
    TIME_SHIFT,
    Pair,
    plan_of,
)


class Cell(NamedTuple):
    """One run: a pair of experts, a plan and a seed.

    Attributes
    ----------
    pair : Pair
        The experts.
    pairs : tuple of (int, int)
        The bridges; none for the ceiling.
    seed : int
        Of the bridges' first weights and of the batches.
    labels : tuple of str
        Who chose this plan: names of rules, "grid", "random 3", `FLOOR` or `CEILING`.
    """

    pair: Pair
    pairs: tuple[tuple[int, int], ...]
    seed: int
    labels: tuple[str, ...]

    @property
    def key(self) -> str:
        """What tells this run from others of its configuration; rules that choose one plan share its run."""
        kind = next((label for label in self.labels if label in (FLOOR, CEILING)), "plan")
        return digest([self.pair.name, self.pairs, self.seed, kind])


def config(pair: Pair) -> str:
    """Return the hash of all that a run of a pair depends on but its plan and seed.

    Parameters
    ----------
    pair : Pair
        The pair of experts.

    Returns
    -------
    str
        Sixteen digits.
    """
    captions = {part: digest([read.caption for read in pool(part)]) for part in POOL}
    settings: dict[str, Any] = {
        "protocol": PROTOCOL, "captions": captions, "layout": LAYOUT, "steps": STEPS, "batch": BATCH, "rate": RATE,
        "shift": TIME_SHIFT, "dropout": DROPOUT, "scored": BRIDGE_TIME_SHIFT, "drawn": DRAWN, "sampling": SAMPLING,
    }  # fmt: skip
    return digest(settings | {"experts": _described(pair)})


@cache  # opening and hashing both experts takes a tenth of a run
def _described(pair: Pair) -> list[dict[str, Any]]:
    return describe_experts([open_expert(pair.understanding), open_expert(pair.generation)])


@cache
def depths(pair: Pair) -> tuple[int, int]:
    """Return how many blocks both experts of a pair have."""
    return len(open_expert(pair.understanding).blocks), len(open_expert(pair.generation).blocks)


def run_cell(cell: Cell, folder: Path, part: str = "test", again: bool = False) -> dict[str, Any]:
    """Train and score one run, or return what an earlier call has left.

    Parameters
    ----------
    cell : Cell
        The run.
    folder : Path
        The folder of the study.
    part : str
        What is scored: "test", or "validation" while settings are tried.
    again : bool
        Whether to run it whatever an earlier call has left, and to leave nothing.

    Returns
    -------
    dict
        One row of the outcomes (protocol.md).
    """
    wanted = config(cell.pair)
    path = folder / "cells" / f"{cell.key}-{part}.json"
    if not again and path.is_file() and (row := json.loads(path.read_text(encoding="utf-8")))["config"] == wanted:
        return row | {"labels": json.dumps(sorted({*json.loads(row["labels"]), *cell.labels}))}
    began = time.process_time()
    if CEILING in cell.labels:
        scores = score_part(open_expert(cell.pair.generation), part, [read.canonical for read in pool(part)])
    else:
        plan, shuffled = plan_of(cell.pairs, depths(cell.pair)), FLOOR in cell.labels
        fused = train_bridges(cell.pair, plan, cell.seed, folder, cell.key, shuffled)
        scores = score_part(fused, part, [read.caption for read in pool(part)])
    row = {
        "pair": cell.pair.name, "pairs": json.dumps(cell.pairs), "bridges": len(cell.pairs), "seed": cell.seed,
        "labels": json.dumps(sorted(cell.labels)), "part": part, **scores, "steps": STEPS if cell.pairs else 0,
        "seconds": round(time.process_time() - began, 1), "config": wanted, "versions": _versions(),
        "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    if again:
        return row
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(row), encoding="utf-8")
    os.replace(beside, path)
    return row


def train_bridges(
    pair: Pair, plan: BridgePlan, seed: int, folder: Path, name: str, shuffled: bool = False
) -> FusedModel:
    """Train the bridges of a plan on the part train, with what the understanding expert says read from disk.

    Parameters
    ----------
    pair : Pair
        The experts.
    plan : BridgePlan
        The bridges.
    seed : int
        Of their first weights and of the batches.
    folder : Path
        The folder of the study.
    name : str
        What tells this training from others that run at the same time.
    shuffled : bool
        Whether every image gets the caption of another one.

    Returns
    -------
    FusedModel
        In evaluation mode.
    """
    torch.manual_seed(seed)
    fused = FusedModel(open_expert(pair.understanding), open_expert(pair.generation), plan)
    fused.read_text_from(text_states(pair.understanding, folder))
    fused.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).train()
    run = folder / "training" / f"{name}-{os.getpid()}"
    fit(
        fused.trained(), lambda step: flow_loss(fused, training_batch(step, seed, shuffled)), run, STEPS,
        learning_rate=2 * RATE, muon=RATE, checkpoint_every=STEPS, progress=f"{pair.name} {plan.pairs}",
    )  # fmt: skip
    shutil.rmtree(run)  # a minute's training is not worth a checkpoint
    return fused.eval()


@torch.no_grad()
def score_part(model: Any, part: str, captions: Sequence[str]) -> dict[str, float]:
    """Return the loss on a part, by kind too, and the shares of facts and of whole scenes in drawn images.

    Parameters
    ----------
    model : Any
        A generator.
    part : str
        "test" or "validation".
    captions : sequence of str
        What it is shown: one for each caption of `pool(part)`.

    Returns
    -------
    dict
        loss, the mean over kinds; "loss of KIND" for each; score and exact, shares from 0 to 1.
    """
    reads = pool(part)
    losses: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        numbers = [number for number, read in enumerate(reads) if read.kind == kind]
        for start in range(0, len(numbers), BATCH):
            batch = numbers[start : start + BATCH]
            rng = np.random.default_rng((HELD_OUT_SEED, batch[0]))
            chosen = [reads[number] for number in batch]
            drawn = noisy_batch(rng, chosen, [captions[number] for number in batch], BRIDGE_TIME_SHIFT)
            losses[kind].append(float(flow_loss(model, drawn)))
    each = len(reads) // len(KINDS)
    shown = [kind * each + number for kind in range(len(KINDS)) for number in range(DRAWN)]
    ids = [f"{part} {number}" for number in shown]
    images = generate(model, [captions[number] for number in shown], ids, **SAMPLING)
    wanted: list[ReadCaption] = [reads[number] for number in shown]
    exact = [matches_caption(image, read.skill, read.canonical) for image, read in zip(images, wanted, strict=True)]
    facts = [facts_held(image, read.scene) for image, read in zip(images, wanted, strict=True)]
    by_kind = {f"loss of {kind}": float(np.mean(values)) for kind, values in losses.items()}
    mean = float(np.mean(list(by_kind.values())))
    return {"loss": mean, **by_kind, "score": float(np.mean(facts)), "exact": float(np.mean(exact))}


def _versions() -> str:
    import diffusers
    import transformers

    return f"torch {torch.__version__}, transformers {transformers.__version__}, diffusers {diffusers.__version__}"
