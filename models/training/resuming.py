"""Write and load the checkpoints of a training run, so that one is whole at any moment."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from diffusers.training_utils import EMAModel
from torch import nn

from ...probes.files import cause_of, is_of_the_system, write_json
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.tensor_files import hash_file, read_sealed, with_seal
from .training_state import (
    fill,
    load_optimizer,
    random_states,
    read_state,
    set_random_states,
    trained_state,
    write_state,
)

HASHES = "hashes.json"  # of all other files of a checkpoint
EARLIER = "made_longer_after"  # in run.json
PICKLES = ("*.bin", "*.pkl", "*.pt", ".metadata")  # as accelerate and torch's distributed checkpoints name theirs


def check_same_run(folder: Path, plan: BridgePlan, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds another run, and write what the run in `folder` is.

    A run that has ended may be asked for with more steps. It is then trained on, with a warning.

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

    Warns
    -----
    UserWarning
        If a run is made longer: its learning rate rises again, so it is not the run that had as many steps at once.
    """
    earlier: list[int] = []  # the numbers of steps after which the run had ended before
    wanted = {"plan.json": json.loads(json.dumps(asdict(plan))), "run.json": settings}
    for name, fields in wanted.items():
        path = folder / name
        if not path.exists():
            continue
        try:
            found = asdict(BridgePlan.load(path)) if name == "plan.json" else read_sealed(path)
            found = json.loads(json.dumps(found))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: choose another folder, or remove it ({error})") from None
        ended = -1
        if name == "run.json":
            earlier = found.pop(EARLIER, [])
            if found.get("steps") == _ended_at(folder) < fields["steps"]:
                ended, found["steps"] = found["steps"], fields["steps"]
        if other := [key for key in sorted(fields.keys() | found.keys()) if fields.get(key) != found.get(key)]:
            raise ValueError(
                f"{path} is of another run, with {other[0]} {found.get(other[0])} instead of {fields.get(other[0])}: "
                "choose another folder"
            )
        if ended >= 0:
            earlier = [*earlier, ended]
            warnings.warn(
                f"the run in {folder} ended after {ended} steps and is made longer, to {fields['steps']}: its learning "
                "rate rises again, so it is another run than one of as many steps at once",
                stacklevel=3,
            )
    if PartialState().is_main_process:
        plan.save(folder / "plan.json")
        write_json(folder / "run.json", with_seal(settings | ({EARLIER: earlier} if earlier else {})))
    PartialState().wait_for_everyone()


def _ended_at(folder: Path) -> int:
    """Return the step of the newest checkpoint of a run, or -1."""
    path = folder / "state" / "step.json"
    return json.loads(path.read_text()) if path.exists() else -1


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a training run: everything that changes while it runs, so that it resumes with the same bits.

    Attributes
    ----------
    folder : Path
        Folder of the run; the newest checkpoint is its `state/`, safetensors and JSON.
    accelerator : accelerate.Accelerator
        Has prepared the model, the optimizers and the schedules.
    model : torch.nn.Module
        The model, as the accelerator returned it.
    updaters : sequence
        The optimizers, and as many schedules.
    ema : diffusers.training_utils.EMAModel or None
        The averaged weights.
    """

    folder: Path
    accelerator: Accelerator
    model: nn.Module
    updaters: Sequence[Any]
    ema: EMAModel | None

    def resume(self) -> tuple[int, list[dict[str, Any]]]:
        """Load the newest checkpoint.

        Returns
        -------
        step : int
            The step to resume with; 0 where there is no checkpoint.
        log : list of dict
            The log up to that step.

        Raises
        ------
        ValueError
            The checkpoint is damaged, or of an earlier version, with pickles in it.

        Warns
        -----
        UserWarning
            If the checkpoint was written before there were hashes, so that damage cannot be seen.
        """
        state, old = self.folder / "state", self.folder / "state.old"
        if self.accelerator.is_main_process and not state.exists() and old.exists():  # stopped between the renames
            os.replace(old, state)
        self.accelerator.wait_for_everyone()
        if not state.exists():
            return 0, []
        _refuse_pickles(state)
        _check_hashes(state)
        own, read = trained_state(self._unwrapped), read_state(state / "model.safetensors")
        for name, tensor in own.items():
            fill(tensor, read[name])
        optimizers, schedules = self._optimizers_and_schedules
        kept = read_state(state / "optimizers.safetensors")
        for optimizer, its in zip(optimizers, kept["optimizers"], strict=True):
            load_optimizer(optimizer, its)
        for schedule, its in zip(schedules, kept["schedules"], strict=True):
            schedule.load_state_dict(its)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(kept["scaler"])
        if self.ema:
            average = read_state(state / "average.safetensors")
            for shadow, whole in zip(self.ema.shadow_params, average.pop("shadow_params"), strict=True):
                fill(shadow, whole)
            self.ema.load_state_dict(average)
        if (mine := state / f"random-{self.accelerator.process_index}.safetensors").exists():
            set_random_states(read_state(mine))
        step = json.loads((state / "step.json").read_text())
        return step, [json.loads(line) for line in (state / "log.jsonl").read_text().splitlines()]

    def save(self, step: int, log: list[dict[str, Any]]) -> None:
        """Write a checkpoint beside the newest one, then put it in its place: at any moment one of the two is whole.

        Parameters
        ----------
        step : int
            The step to resume with.
        log : list of dict
            The log up to that step.

        Raises
        ------
        OSError
            It cannot be written. The newest one stays as it was.
        """
        try:
            self._save(step, log)
        except Exception as error:
            if not is_of_the_system(error):
                raise
            there = self.folder / "state" / "step.json"
            kept = f"that of step {there.read_text()} is whole" if there.exists() else "there is none before it"
            raise OSError(
                f"the checkpoint of step {step} in {self.folder} cannot be written ({cause_of(error)}); {kept}: make "
                "room, then run the same command again, which resumes"
            ) from None

    def _save(self, step: int, log: list[dict[str, Any]]) -> None:
        fresh, state, old = (self.folder / name for name in ("state.new", "state", "state.old"))
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
        self.accelerator.wait_for_everyone()
        write_state(fresh / "model.safetensors", trained_state(self._unwrapped), main)
        optimizers, schedules = self._optimizers_and_schedules
        kept = {
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "schedules": [schedule.state_dict() for schedule in schedules],
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
        }
        write_state(fresh / "optimizers.safetensors", kept, main)
        if self.ema:
            write_state(fresh / "average.safetensors", self.ema.state_dict(), main)
        write_state(fresh / f"random-{self.accelerator.process_index}.safetensors", random_states())
        self.accelerator.wait_for_everyone()
        if main:
            (fresh / "step.json").write_text(json.dumps(step))
            (fresh / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
            write_json(fresh / HASHES, {path.name: hash_file(path) for path in sorted(fresh.iterdir())})
            if state.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(state, old)
            os.replace(fresh, state)
            shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    @property
    def _unwrapped(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def _optimizers_and_schedules(self) -> tuple[Sequence[Any], Sequence[Any]]:
        half = len(self.updaters) // 2
        return self.updaters[:half], self.updaters[half:]


def _check_hashes(state: Path) -> None:
    """Refuse a checkpoint of which a file is not the one that was written."""
    if not (state / HASHES).is_file():
        warnings.warn(
            f"{state} was written before checkpoints held hashes: whether it is whole cannot be checked", stacklevel=4
        )
        return
    try:
        written = dict(json.loads((state / HASHES).read_text(encoding="utf-8")))
    except (TypeError, ValueError):
        written = {}
    there = {path.name for path in state.iterdir()} - {HASHES}
    damaged = [HASHES] if not written else sorted(written.keys() ^ there)
    if damaged := damaged or [name for name in sorted(there) if hash_file(state / name) != written[name]]:
        raise ValueError(
            f"{state / damaged[0]} is damaged: it is not what was written; put back a copy of {state}, or remove it to "
            "train from the start"
        )


def _refuse_pickles(state: Path) -> None:
    if found := sorted(path for pattern in PICKLES for path in state.rglob(pattern)):
        raise ValueError(
            f"{found[0]} is a pickle of an earlier version, and nothing is unpickled here: train to the end with the "
            f"version that began, or remove {state} and start again"
        )
