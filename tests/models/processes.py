"""Train in the processes that torchrun starts for test_processes.py: `processes.py FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer

from bridgework.models.experts.opening import CHECKPOINTS
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.training.loop import fit
from bridgework.models.training.train_model import train
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.tests.models.conftest import build_dit, build_vlm

SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer,JointTransformerBlock",
}


def shared(folder: Path, process: int, processes: int, steps: int = 6) -> None:
    """Train a regression, dealt to the processes; where they are many, stop after four steps and resume."""
    for stop in (4, steps) if processes > 1 else (steps,):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

        def loss(step: int, model: nn.Module = model, stop: int = stop) -> torch.Tensor:
            if step == stop:
                raise InterruptedError
            x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))[process::processes]
            return (model(x) - x.sum(1, keepdim=True)).square().mean()

        try:
            fit(model, loss, folder / "run", steps, learning_rate=0.05, average=0.8, checkpoint_every=2)
        except InterruptedError:
            continue
        if process == 0:
            save_file(dict(model.state_dict()), folder / "final.safetensors")


def sharded(folder: Path) -> None:
    """Train a fused model whose blocks are sharded, twice: the second time the finished run is loaded."""
    AcceleratorState._reset_state()
    # accelerate shards on GPUs alone: its state says that these are some, and torch shards on CPUs all the same
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    os.environ |= SHARDED
    for number in range(2):
        fused = tiny()
        train(fused, folder / "run", 3, batch_size=4, average=0.5, validate=1, learning_rate=1e-3)
        assert not [p for p in fused.trained().parameters() if hasattr(p, "full_tensor")]
        if PartialState().is_main_process:
            os.replace(folder / "run" / "bridges.safetensors", folder / f"run-{number}.safetensors")


def tiny() -> FusedModel:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "scenes-vlm")
    torch.manual_seed(2)
    plan = BridgePlan(((0, 0), (2, 1), (3, 2)), "image", "alignment", {}, 4, 3, gated=False)
    return FusedModel(build_vlm(tokenizer), build_dit(tokenizer), plan)


if __name__ == "__main__":
    state = PartialState(cpu=True)
    out = Path(sys.argv[1])
    shared(out / "shared", state.process_index, state.num_processes)
    sharded(out / "sharded")
