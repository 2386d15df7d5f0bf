"""Train one trunk on both tasks, or one, from the common trunk, and score it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ...models.costs.step_costs import attention_sharing, count_flops
from ...models.evaluation.scores import question_accuracy
from ...models.experts.opening import open_expert
from ...models.fusion.saved_model import describe_experts
from ...models.generation.flow import flow_loss
from ...models.scenes.dialogues import question_prompt, tokenize_rows
from ...models.scenes.questions import compose_question
from ...models.scenes.read_captions import compose_read
from ...models.scenes.rendering import render_scene
from ...models.scenes.scene import SIZE, SKILLS
from ...models.training.batches import BRIDGE_TIME_SHIFT
from ...models.training.loop import fit
from ...models.training.scene_batches import emoji_part, vlm_batch
from ...models.unified.flow_model import UnifiedModel
from ...probes.fingerprints.described_values import digest
from ...probes.stimuli.images import to_pixels
from ..verdict.bridge_runs import score_part
from ..verdict.caption_pool import noisy_batch, pool
from ..verdict.testbed import DROPOUT, KINDS, POOL
from . import claim_settings as settings
from .claim_cells import Cell, Row
from .tower_runs import score_losses
from .trunk_models import matching_width, trunk_from, trunk_plan, untrained_trunk

TASKS = ("both", "drawing", "answering")
HELD_OUT = 2**31  # no run has this seed


@cache
def trunk_config() -> str:
    """Return the hash of all that runs of one trunk depend on but what each trains.

    Returns
    -------
    str
        Sixteen digits.
    """
    captions = {part: digest([read.caption for read in pool(part)]) for part in POOL}
    fixed = {"protocol": settings.PROTOCOL, "captions": captions, "batch": settings.BATCH, "dropout": DROPOUT}
    fixed |= {"depth": settings.DEPTH, "base": [settings.BASE_STEPS, settings.BASE_RATE]}
    fixed |= {"questions": settings.QUESTIONS, "asked": settings.ASKED}
    return digest(fixed | {"experts": describe_experts([open_expert(settings.READER)])})


def base_trunk(folder: Path, steps: int = settings.BASE_STEPS) -> UnifiedModel:
    """Return the shared trunk after some steps on both tasks; it is trained once, and kept in the folder of the study.

    Parameters
    ----------
    folder : Path
        The folder of the study.
    steps : int
        Training steps: `START_STEPS` of the trunk that all layouts start from, `BASE_STEPS` of that whose curves are
        measured.

    Returns
    -------
    UnifiedModel
    """
    kept = folder / f"trunk-{trunk_config()}-{steps}"
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "locks" / kept.name):  # several processes may need it at once
        if (kept / "unified.safetensors").is_file():
            return UnifiedModel.load(kept)
        model, rate = untrained_trunk().train(), settings.BASE_RATE
        fit(
            model, lambda step: _loss(model, step, settings.TUNING_SEED + 1, "both"), folder / "training" / kept.name,
            steps, learning_rate=rate / 2, muon=rate, checkpoint_every=250, progress=f"common trunk, {steps} steps",
        )  # fmt: skip
        model.eval().save(kept)
        return model


def run_trunk(cell: Cell, folder: Path) -> Row:
    """Train one trunk, and score it on both tasks.

    Parameters
    ----------
    cell : Cell
        `about` holds layout ("shared", "shared wide", "Y", "X"), rate, steps; and, where they differ, start (the steps
        of the trunk that it starts from), fork, ends, task and validation (then the loss on that part alone is
        returned).
    folder : Path
        The folder of the study.

    Returns
    -------
    dict
        What was measured.
    """
    about: Mapping[str, Any] = cell.about
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = base_trunk(folder, about.get("start", settings.BASE_STEPS))
    model = _model(about, base, cell.seed).to(device)
    task = about.get("task", "both")
    run, began = folder / "training" / f"{cell.key}-{os.getpid()}", time.process_time()
    if about["steps"]:
        model.train()
        fit(
            model, lambda step: _loss(model, step, cell.seed, task), run, about["steps"],
            learning_rate=about["rate"] / 2, muon=about["rate"], checkpoint_every=about["steps"],
            progress=" ".join(map(str, about.values())),
        )  # fmt: skip
        shutil.rmtree(run)
    seconds = (time.process_time() - began) / max(1, about["steps"])
    model.eval()
    if "keep" in about:
        model.save(folder / "kept" / f"{about['keep']} {cell.seed}")
    if about.get("validation"):
        drawing = float(score_losses(model, "validation").mean())
        return {"loss": UnifiedModel.FLOW_WEIGHT * drawing + float(answer_losses(model, "validation").mean())}
    accuracy = question_accuracy(model, "test", settings.ASKED)
    row = {
        "parameters": sum(p.numel() for p in model.parameters()), "sharing": attention_sharing(model.plan),
        "step_seconds": seconds, "answer_loss": float(answer_losses(model, "test").mean()),
        "accuracy": float(accuracy.set_index("skill").loc["all", "score"]),
        **score_part(model, "test", [read.caption for read in pool("test")]),
    }  # fmt: skip
    row["step_flops"] = count_flops(lambda: _loss(model, 0, HELD_OUT, task).backward()).total
    return row


def _model(about: Mapping[str, Any], base: UnifiedModel, seed: int) -> UnifiedModel:
    """Return the model of a run before it is trained."""
    if about["layout"] == "shared wide":
        wider = matching_width(base, trunk_plan("Y", fork=settings.FORK))
        return trunk_from(base, base.plan, wider, seed)
    ends = about.get("ends")
    return trunk_from(base, trunk_plan(about["layout"], about.get("fork"), tuple(ends) if ends else None))


def _loss(model: UnifiedModel, step: int, seed: int, task: str) -> Tensor:
    """Return the loss of batch number `step`: of drawing, of answering, or their weighted sum."""
    terms = []
    if task in ("both", "drawing"):
        rng = np.random.default_rng((seed, step, 1))
        kinds = rng.choice(KINDS, settings.BATCH)
        chosen = [compose_read(rng, str(kind), "train") for kind in kinds]
        captions = ["" if rng.random() < DROPOUT else read.caption for read in chosen]
        batch = noisy_batch(rng, chosen, captions, BRIDGE_TIME_SHIFT)
        terms.append(UnifiedModel.FLOW_WEIGHT * flow_loss(model, batch))
    if task in ("both", "answering"):
        rows = vlm_batch(step, seed, emoji_part("train"), model.tokenizer, settings.QUESTIONS)
        terms.append(model._answered(rows))
    return torch.stack(terms).sum()


@torch.no_grad()
def answer_losses(model: UnifiedModel, part: str, batches: int = 12, rows: int = 32) -> np.ndarray:
    """Return the loss of answers to fixed questions about images of a part.

    Parameters
    ----------
    model : UnifiedModel
        The model.
    part : str
        "validation" or "test".
    batches, rows : int
        How many batches of how many questions.

    Returns
    -------
    ndarray
        (batch,), nats a token.
    """
    losses = []
    for number in range(batches):
        rng = np.random.default_rng((HELD_OUT, number, len(part)))
        asked = [compose_question(rng, str(skill), part) for skill in rng.choice(SKILLS, rows)]
        images = to_pixels([render_scene(question.scene, rng) for question in asked], SIZE)
        dialogues = [[(question_prompt(question.question), question.answer)] for question in asked]
        losses.append(float(model._answered({**tokenize_rows(model.tokenizer, dialogues), "pixel_values": images})))
    return np.array(losses)
