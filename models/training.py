"""One training loop for experts and fused models, on accelerate: a stopped run ends with the same weights."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..probes.bridges import BridgePlan
from ..probes.intercept import Attention, Intercept
from . import small
from .fusion import FusedModel

# Matrices of blocks and bridges: Muon is made for these, and for neither norms, modulations nor embeddings.
_HIDDEN = re.compile(r"(block|blocks|layers|bridges)\.\d+\.(?!.*(norm|relative))")


def _attend_in_float(original: Attention, *states: Tensor, **options: Any) -> Tensor:
    """For bfloat16 autocast on CPUs, where the backward pass of attention is five times slower than in float32."""
    with torch.autocast("cpu", enabled=False):
        return original(*(each.float() for each in states), **options)


def fit(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    folder: str | Path,
    steps: int,
    *,
    learning_rate: float,
    muon: float | None = None,
    average: float | None = None,
    checkpoint_every: int = 250,
    progress: str = "training",
) -> list[dict[str, Any]]:
    """Train the parameters of `model` that require gradients, and leave them in `model`.

    Parameters
    ----------
    loss : `loss(step)` makes batch number `step` and returns its loss. A function of the step alone, so that a resumed
        run sees what an uninterrupted one would have seen.
    folder : its `state/` holds the newest checkpoint and `log.jsonl`, one line every 10 steps; a finished run in it is
        loaded, not repeated.
    learning_rate : of AdamW; warmed up over 5 % of the steps, then cosine to zero.
    muon : learning rate of Muon (Jordan et al. 2024) for the matrices of blocks and bridges, on the same schedule, with
        updates as large as AdamW's (Liu et al. 2025, arXiv 2502.16982); None leaves them to AdamW as well.
    average : decay of an exponential moving average of the weights, which then replaces them at the end.

    Accelerate's own settings hold: `ACCELERATE_MIXED_PRECISION=bf16` takes a quarter to a half off a step on CPUs
    that compute in it.

    Returns the log. Raises FloatingPointError at the first loss that is not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    optimizers = _optimizers(named, learning_rate, muon)
    warm = max(1, steps // 20)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min((s + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * s / steps))
        )
        for optimizer in optimizers
    ]
    ema = EMAModel(parameters, decay=average) if average else None
    accelerator = Accelerator()
    model, *stepped = accelerator.prepare(model, *optimizers, *schedules)
    in_float = accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu"
    if ema:
        accelerator.register_for_checkpointing(ema)

    start, log = _resume(accelerator, folder)
    with tqdm(total=steps, initial=start, desc=progress, mininterval=1) as bar:
        for step in range(start, steps):
            with accelerator.autocast(), Intercept(_attend_in_float) if in_float else nullcontext():
                value = loss(step)
            if not torch.isfinite(value):
                raise FloatingPointError(
                    f"loss {value.item()} at step {step} of {folder}: lower the learning rate and start it again"
                )
            accelerator.backward(value)
            accelerator.clip_grad_norm_(parameters, 1.0)
            for each in stepped:
                each.step()
            for p in parameters:
                p.grad = None
            if ema:
                ema.step(parameters)
            if step % 10 == 0 or step + 1 == steps:
                log.append({"step": step, "loss": value.item()})
                bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)
            bar.update()
            if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
                _save(accelerator, folder, step + 1, log)
    if ema:
        ema.copy_to(parameters)
    return log


def _optimizers(
    named: list[tuple[str, nn.Parameter]], learning_rate: float, muon: float | None
) -> list[torch.optim.Optimizer]:
    hidden = {name: p for name, p in named if muon and p.ndim == 2 and _HIDDEN.search(name)}
    rest = [p for name, p in named if name not in hidden]
    adamw = torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    if not muon or not hidden:
        return [adamw]
    updates = torch.optim.Muon(hidden.values(), lr=muon, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [adamw, updates]


def _resume(accelerator: Accelerator, folder: Path) -> tuple[int, list[dict[str, Any]]]:
    state, old = folder / "state", folder / "state.old"
    if not state.exists() and old.exists():  # stopped between the two renames of _save
        os.replace(old, state)
    if not state.exists():
        return 0, []
    accelerator.load_state(str(state))
    log = [json.loads(line) for line in (state / "log.jsonl").read_text().splitlines()]
    return json.loads((state / "step.json").read_text()), log


def _save(accelerator: Accelerator, folder: Path, step: int, log: list[dict[str, Any]]) -> None:
    """Write beside the newest checkpoint, then take its place: stopped at any moment, one of the two is whole."""
    fresh, state, old = folder / "state.new", folder / "state", folder / "state.old"
    shutil.rmtree(fresh, ignore_errors=True)
    accelerator.save_state(str(fresh))
    (fresh / "step.json").write_text(json.dumps(step))
    (fresh / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    if state.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(state, old)
    os.replace(fresh, state)
    shutil.rmtree(old, ignore_errors=True)


def train(
    fused: FusedModel,
    folder: str | Path,
    steps: int = 600,
    *,
    seed: int = 0,
    shuffled: bool = False,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
) -> list[dict[str, Any]]:
    """Train the bridges of a fused model on scenes (velocity loss) and save them to `folder`; returns the log.

    `shuffled` gives every image another image's caption: the floor, which learns all there is to learn but the text.
    A run that was stopped goes on; a finished one is loaded. Raises ValueError where `folder` holds another plan's run.
    """
    known = Path(folder) / "plan.json"
    if known.exists() and (found := BridgePlan.load(known).pairs) != fused.plan.pairs:
        raise ValueError(f"{folder} holds a run of another plan, {found} instead of {fused.plan.pairs}: choose another")
    fused.plan.save(known)
    fused.to(PartialState().device).train()

    def loss(step: int) -> Tensor:
        batch = small.dit_batch(step, seed, size=batch_size, noisier=1.1)
        captions = batch["caption"][1:] + batch["caption"][:1] if shuffled else batch["caption"]
        image, time, noise = (batch[name].to(fused.device) for name in ("image", "time", "noise"))
        mix = time[:, None, None, None]
        return small.velocity_loss(
            fused.predict(mix * noise + (1 - mix) * image, fused.condition(captions), time), image, time
        )

    # A gate starts at 0 and holds back the gradient of the maps behind it: it has to open first.
    rates = {"learning_rate": 2 * learning_rate, "muon": learning_rate}
    bridges = nn.ModuleDict({"bridges": fused.bridges})
    log = fit(bridges, loss, folder, steps, progress=f"fuse {fused.plan.rule}", **rates)
    fused.eval().save(folder)
    return log
