"""Make one training step of a fused model whose blocks FSDP2 shards, and compare it with the step of whole blocks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from ...models.fusion.fused_model import FusedModel
from ...models.training.scene_batches import dit_batch
from ...probes.plans.layouts import lay_out
from ..support.inputs import clock
from .random_models import pixel_generator, text_expert
from .rows import Row
from .sizes import Setting

SAME = 1e-5  # over the largest value
RATE = 1e-3


class Step(nn.Module):
    """Make the loss of a fused model a forward pass, around which FSDP2 gathers weights."""

    def __init__(self, fused: FusedModel) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Return the loss of a batch."""
        return self.fused.loss(batch)


def measure(setting: Setting) -> Iterator[Row]:
    """Compare a sharded step with a whole one, on one rank.

    Parameters
    ----------
    setting : Setting
        Sizes and device.

    Yields
    ------
    Row
        Differences of loss, gradients and trained weights; the times of both steps.
    """
    sizes, device = setting.sizes, setting.device
    experts = text_expert(sizes.text, device, torch.float32), pixel_generator(sizes.generator, device)
    plan = lay_out("H", len(experts[0].blocks), len(experts[1].blocks), gated=False)
    batch = dit_batch(0, 0, size=sizes.fused_batch, time_shift=1.1)
    fused = FusedModel(*experts, plan).to(device).train()
    begun = {name: value.clone() for name, value in fused.bridges.state_dict().items()}
    whole, seconds = trained_step(Step(fused), batch, device)
    fused.bridges.load_state_dict(begun)
    with one_rank(device) as mesh:
        blocks = [tower.get_submodule(path) for tower, expert in zip((fused.understanding, fused.generation), experts)
                  for path in expert.blocks]  # fmt: skip
        for block in blocks:
            fully_shard(block, mesh=mesh)
        step = Step(fused)
        fully_shard(step, mesh=mesh)
        parts, sharded_seconds = trained_step(step, batch, device)
    largest = max(float(value.abs().max()) for name, value in whole.items() if name.startswith("gradients"))
    yield Row("FSDP2, largest gradient", largest, note="of the whole step")
    note = f"{plan.layout}, {len(plan.pairs)} bridges, {sizes.fused_batch} pictures, one rank"
    for quantity in ("loss", "gradients", "trained weights"):
        differences = [
            float((whole[name] - value).abs().max() / whole[name].abs().max().clamp(min=1e-12))
            for name, value in parts.items()
            if name.startswith(quantity)
        ]
        yield Row(f"FSDP2, difference of {quantity}", max(differences), "", at_most=SAME, note=note)
    yield Row("FSDP2, seconds of a step", sharded_seconds, "s", note=note)
    yield Row("FSDP2, times as long as the whole step", sharded_seconds / seconds, note=note)


def trained_step(step: Step, batch: dict[str, Any], device: str) -> tuple[dict[str, Tensor], float]:
    """Make one step of AdamW, and another one that is timed.

    Parameters
    ----------
    step : Step
        The fused model.
    batch : dict
        A batch.
    device : str
        Where it computes.

    Returns
    -------
    found : dict of Tensor
        The loss, the gradients and the trained weights of the first step, whole and on the CPU.
    seconds : float
        Of the second step.
    """
    trained = {name: p for name, p in step.fused.bridges.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE)
    found: dict[str, Tensor] = {}
    now = clock(device)
    began = now()
    for first in (True, False):
        began = now()
        loss = step(batch)
        loss.backward()
        if first:
            gradients = {name: p.grad for name, p in trained.items()}
            found = {"loss": whole_tensor(loss)} | {f"gradients of {n}": whole_tensor(g) for n, g in gradients.items()}
        optimizer.step()
        optimizer.zero_grad()
        if first:
            found |= {f"trained weights of {name}": whole_tensor(p) for name, p in trained.items()}
    return found, now() - began


def whole_tensor(tensor: Any) -> Tensor:
    """Return a tensor, or all of one that is sharded, on the CPU."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).cpu().clone()


@contextmanager
def one_rank(device: str) -> Iterator[DeviceMesh]:
    """Make this process a group of its own while the context lasts.

    Parameters
    ----------
    device : str
        "cuda", with NCCL, or "cpu", with Gloo.

    Yields
    ------
    DeviceMesh
        Of one device.
    """
    interfaces = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    before = {name: os.environ.get(name) for name in interfaces}
    os.environ |= {name: value for name, value in interfaces.items() if before[name] is None}
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device == "cuda" else "gloo"
        if device == "cuda":
            torch.cuda.set_device(0)
        dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        try:
            yield init_device_mesh(device, (1,))
        finally:
            dist.destroy_process_group()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
