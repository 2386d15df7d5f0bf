"""Write and load the checkpoints of a training run, so that one is whole at any moment."""

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


def check_same_run(folder: Path, plan: BridgePlan, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds another run, and write what the run in `folder` is.

    Parameters
    ----------
    folder : Path
        Folder of the run. It gets plan.json, the plan, and run.json, the settings.
    plan : BridgePlan
        Plan of the model that is trained.
    settings : dict
        All that decides the weights at the end, as plain JSON.

    Raises
    ------
    ValueError
        If the folder holds a run with another plan or other settings. The message names the file and what differs.
    """
    wanted = {"plan.json": json.loads(json.dumps(asdict(plan))), "run.json": settings}
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
        write_json(folder / "run.json", settings)
    PartialState().wait_for_everyone()


def resume(accelerator: Accelerator, folder: Path, ema: EMAModel | None) -> tuple[int, list[dict[str, Any]]]:
    """Load the newest checkpoint of a run.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
        Has prepared the model, the optimizers and the schedules that are loaded.
    folder : Path
        Folder of the run; the checkpoint is in its `state/`.
    ema : diffusers.training_utils.EMAModel or None
        Averaged weights, which are loaded as well.

    Returns
    -------
    step : int
        The step to resume with; 0 where there is no checkpoint.
    log : list of dict
        The log up to that step.
    """
    state, old = folder / "state", folder / "state.old"
    accelerator.register_save_state_pre_hook(_leave_frozen)
    if ema and not accelerator.is_fsdp2:
        accelerator.register_for_checkpointing(ema)
    if accelerator.is_main_process and not state.exists() and old.exists():  # stopped between the renames in `save`
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
    """Write a checkpoint beside the newest one, then put it in its place: at any moment one of the two is whole.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
        Has prepared the model, the optimizers and the schedules that are saved.
    folder : Path
        Folder of the run; the checkpoint becomes its `state/`.
    step : int
        The step to resume with.
    log : list of dict
        The log up to that step.
    ema : diffusers.training_utils.EMAModel or None
        Averaged weights, which are saved as well.
    """
    fresh, state, old = folder / "state.new", folder / "state", folder / "state.old"
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    if ema and accelerator.is_fsdp2:  # accelerate would write only the first process's shard
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
    """Leave frozen weights out of a checkpoint, and write tied ones once: experts of gigabytes have them already."""
    for model, state in zip(models, states):
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        for name in state.keys() - trained - {name for name, _ in model.named_buffers()}:
            del state[name]


def _shards(ema: EMAModel) -> dict[str, Any]:
    return {str(number): shadow for number, shadow in enumerate(ema.shadow_params)}
