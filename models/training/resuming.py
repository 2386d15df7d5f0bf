"""The checkpoints of a training run: whole at any moment, and of that run alone."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as sharded
from accelerate import Accelerator, PartialState
from diffusers.training_utils import EMAModel
from torch import nn

from ...probes.files import write_json
from ...probes.plans.bridge_plan import BridgePlan


def check_same_run(folder: Path, plan: BridgePlan, made: dict[str, Any]) -> None:
    """Write what the run in `folder` is: plan.json, and how it is made, run.json.

    Raises ValueError where it holds a run of another plan or made otherwise, naming the file and what differs.
    """
    wanted = {"plan.json": json.loads(json.dumps(asdict(plan))), "run.json": made}
    for name, fields in wanted.items():
        path = folder / name
        if not path.exists():
            continue
        try:
            found = asdict(BridgePlan.load(path)) if name == "plan.json" else json.loads(path.read_text())
            found = json.loads(json.dumps(found))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: choose another folder, or remove it ({error})") from None
        if other := [key for key in sorted(fields.keys() | found.keys()) if fields.get(key) != found.get(key)]:
            raise ValueError(
                f"{path} is of another run, with {other[0]} {found.get(other[0])} instead of {fields.get(other[0])}: "
                "choose another folder"
            )
    if PartialState().is_main_process:
        plan.save(folder / "plan.json")
        write_json(folder / "run.json", made)
    PartialState().wait_for_everyone()


def resume(accelerator: Accelerator, folder: Path, ema: EMAModel | None) -> tuple[int, list[dict[str, Any]]]:
    """Load the newest checkpoint: the step to go on with and the log up to it, 0 and nothing where there is none."""
    state, old = folder / "state", folder / "state.old"
    accelerator.register_save_state_pre_hook(_leave_frozen)
    if ema and not accelerator.is_fsdp2:
        accelerator.register_for_checkpointing(ema)
    if accelerator.is_main_process and not state.exists() and old.exists():  # stopped between the renames of `save`
        os.replace(old, state)
    accelerator.wait_for_everyone()
    if not state.exists():
        return 0, []
    accelerator.load_state(str(state), strict=False)
    step = json.loads((state / "step.json").read_text())
    if ema and accelerator.is_fsdp2:
        sharded.load(_shards(ema), checkpoint_id=state / "average")
        ema.optimization_step = step
    return step, [json.loads(line) for line in (state / "log.jsonl").read_text().splitlines()]


def save(accelerator: Accelerator, folder: Path, step: int, log: list[dict[str, Any]], ema: EMAModel | None) -> None:
    """Write beside the newest checkpoint, then take its place: stopped at any moment, one of the two is whole."""
    fresh, state, old = folder / "state.new", folder / "state", folder / "state.old"
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    if ema and accelerator.is_fsdp2:  # accelerate would write the first process's shard alone
        sharded.save(_shards(ema), checkpoint_id=fresh / "average")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (fresh / "step.json").write_text(json.dumps(step))
        (fresh / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        if state.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(state, old)
        os.replace(fresh, state)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _leave_frozen(models: list[nn.Module], states: list[dict[str, Any]], folder: str) -> None:
    """Frozen weights are not written, and tied ones once: experts of gigabytes have them already."""
    for model, state in zip(models, states):
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        for name in state.keys() - trained - {name for name, _ in model.named_buffers()}:
            del state[name]


def _shards(ema: EMAModel) -> dict[str, Any]:
    return {str(number): shadow for number, shadow in enumerate(ema.shadow_params)}
