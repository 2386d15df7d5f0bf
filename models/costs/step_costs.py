"""What a layout costs: parameters, shared attention, FLOPs, wall time and peak memory of a training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ...probes.plans.bridge_plan import BridgePlan

_ATEN = torch.ops.aten
# torch counts the attention kernels of GPUs; without these, attention on a CPU would cost nothing.
CPU_ATTENTION_FLOPS = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: lambda *states, **_: sdpa_flop_count(*states[:3]),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *states, **_: sdpa_backward_flop_count(*states[:4])
    ),
}
_BATCHED = (_ATEN.bmm, _ATEN.baddbmm)
WARM_UP = 2


class Flops(NamedTuple):
    """Floating point operations of a run, two to a multiplication with its addition.

    `attention` is the part between tokens: kernels of scaled dot-product attention, and batched products (attention
    without a kernel; rotary angles are among them, and small). Masked pairs count: the kernels compute them.
    """

    total: int
    attention: int


def costs(model: Any, batch: dict[str, Any], rounds: int = 5) -> dict[str, Any]:
    """One row of what a fused or unified model costs on `batch`, which `small.dit_batch` or `stimuli_batch` made.

    A training step is the loss, its gradients and AdamW's update of what is trained, here at a learning rate of 0: it
    costs what a real one does and changes no weight.

    Returns:
        layout, attention_sharing (see there), batch_size, device;
        trainable_parameters, parameters: numbers, shared ones once;
        forward_flops, forward_attention_flops: of the loss without gradients;
        step_flops, step_attention_flops: of a training step (what is recomputed under checkpointing counts);
        step_seconds: the median of so many `rounds`, after two to warm up;
        step_peak_bytes: weights, AdamW's state and the most that a step holds beside them (see `peak_bytes`).

    Raises:
        TypeError: a model without a training loss and a plan.
        ValueError: nothing to train; no rounds; a device that is neither cpu nor cuda.
        FloatingPointError: a loss that is not finite: even a step of 0 would spread it over the weights.
    """
    if not all(hasattr(model, name) for name in ("loss", "plan", "parameters")):
        raise TypeError(f"expected a fused or unified model, with a loss and a plan, got {type(model).__name__}")
    if rounds < 1:
        raise ValueError(f"{rounds} rounds measure nothing: ask for at least one")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing of the model is trained: a training step needs parameters that require gradients")
    device, training = torch.device(model.device), model.training
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)

    def step() -> None:
        model.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    kept = [(p, p.grad) for p in trained]
    model.train()
    try:
        optimizer.zero_grad()
        with torch.no_grad():
            forward = count_flops(lambda: _finite(model.loss(batch)))
        whole = count_flops(step)
        seconds = step_seconds(step, device, rounds)
        states = [value for state in optimizer.state.values() for value in state.values()]
        held = held_bytes([*model.parameters(), *model.buffers(), *states])
        peak = held + peak_bytes(step, device)
    finally:
        model.train(training)
        for p, gradient in kept:
            p.grad = gradient
    return {
        "layout": model.plan.layout,
        "attention_sharing": attention_sharing(model.plan),
        "batch_size": len(batch["caption"]),
        "device": device.type,
        "trainable_parameters": sum(p.numel() for p in trained),
        "parameters": sum(p.numel() for p in model.parameters()),
        "forward_flops": forward.total,
        "forward_attention_flops": forward.attention,
        "step_flops": whole.total,
        "step_attention_flops": whole.attention,
        "step_seconds": seconds,
        "step_peak_bytes": peak,
    }


def attention_sharing(plan: BridgePlan) -> float:
    """The share of the generation tower's blocks at which its tokens attend to the understanding side, 0..1.

    Inside the block ("dense", "H", "last"), in the one behind it ("double fusion"), or because the block is shared: 1
    for the trunk "shared", and the shared blocks' share for "Y" and "X", whose branches never attend to each other. A
    block that meets several others counts once. HBridge bridges 16 of the 28 blocks that pair: 12 / 28 = 42.9 % less
    than dense (arXiv 2511.20520); the 4 blocks of its prelude count here as not shared.
    """
    return len({generation for _, generation in plan.pairs}) / plan.generation_layers


def count_flops(run: Callable[[], object]) -> Flops:
    """What one run costs, its backward pass included where it has one."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION_FLOPS) as counter:
        run()
    counts = {operation: int(flops) for operation, flops in counter.get_flop_counts()["Global"].items()}
    attention = [flops for operation, flops in counts.items() if operation in _BATCHED or "attention" in str(operation)]
    return Flops(sum(counts.values()), sum(attention))


def step_seconds(run: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """The median wall time of `rounds` runs, after two to warm up; a GPU is waited for."""
    taken = []
    for number in range(WARM_UP + rounds):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if number >= WARM_UP:
            taken.append(time.perf_counter() - start)
    return median(taken)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most that torch's allocator holds during a run beyond what it held before, run once to warm up before.

    On CUDA torch counts it; on a CPU the profiler tells every block allocated and freed. Both count the same thing, to
    the byte and the same in every run, unlike the process's resident memory: it leaves out Python, code and what the
    allocator or system keeps in reserve.

    Raises ValueError for another device.
    """
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"memory is measured on cpu and cuda, not on {device.type}: move the model")
    run()
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    results: Any = seen.profiler.kineto_results if seen.profiler else None
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def held_bytes(tensors: list[torch.Tensor]) -> int:
    """Bytes of the tensors' storages, shared ones once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _finite(loss: torch.Tensor) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} before any step: there is nothing to measure")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
