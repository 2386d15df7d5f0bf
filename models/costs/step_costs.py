"""Measure what a layout costs: parameters, shared attention, FLOPs, wall time and peak memory of a training step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ...probes.arguments import checked
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.private_names import (
    _scaled_dot_product_flash_attention_for_cpu,
    _scaled_dot_product_flash_attention_for_cpu_backward,
)

_ATEN = torch.ops.aten
# torch counts the attention kernels of GPUs alone; without these, attention on a CPU would cost nothing.
CPU_ATTENTION_FLOPS = {
    _scaled_dot_product_flash_attention_for_cpu: lambda *states, **_: sdpa_flop_count(*states[:3]),
    _scaled_dot_product_flash_attention_for_cpu_backward: (lambda *states, **_: sdpa_backward_flop_count(*states[:4])),
}
_BATCHED = (_ATEN.bmm, _ATEN.baddbmm)
WARM_UP = 2  # runs before time is taken


class Flops(NamedTuple):
    """Floating point operations of a run, two to a multiplication with its addition.

    Attributes
    ----------
    total : int
        All operations.
    attention : int
        Those between tokens: kernels of scaled dot-product attention, and batched products (attention without a
        kernel; rotary angles are among them, and small). Masked pairs count: the kernels compute them.
    """

    total: int
    attention: int


def costs(model: Any, batch: dict[str, Any], rounds: int = 5) -> dict[str, Any]:
    """Measure what a training step of a fused or unified model costs.

    Parameters
    ----------
    model : FusedModel, UnifiedModel or UnifiedTokens
        The model. It comes back unchanged.
    batch : dict
        What `scene_batches.dit_batch` or `batches.stimuli_batch` (models/training/) returned.
    rounds : int
        Number of steps that are timed.

    Returns
    -------
    dict
        layout, attention_sharing (see there), batch_size, device;
        trainable_parameters, parameters: numbers of them, shared ones once;
        forward_flops, forward_attention_flops: of the loss without gradients;
        step_flops, step_attention_flops: of a training step (what is recomputed under checkpointing counts);
        step_seconds: the median over `rounds`, after two steps to warm up;
        step_peak_bytes: weights, AdamW's state and the most that a step holds beside them (see `peak_bytes`).

    Raises
    ------
    TypeError
        For a model without a training loss and a plan.
    ValueError
        If there is nothing to train, no rounds, or a device that is neither cpu nor cuda.
    FloatingPointError
        For a loss that is not finite: even a step of 0 would spread it over the weights.

    Notes
    -----
    A training step is the loss, its gradients and AdamW's update of what is trained, here at a learning rate of 0: it
    costs what a real one does and changes no weight.
    """
    if not all(hasattr(model, name) for name in ("loss", "plan", "parameters")):
        raise TypeError(f"expected a fused or unified model, with a loss and a plan, got {type(model).__name__}")
    rounds = checked("rounds", rounds, int, least=1)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing of the model is trained: a training step needs parameters that require gradients")
    device, training = torch.device(model.device), model.training
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)

    def step() -> None:
        model.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    gradients = [p.grad for p in trained]
    model.train()
    try:
        optimizer.zero_grad()
        with torch.no_grad():
            forward = count_flops(lambda: _finite(model.loss(batch)))
        complete = count_flops(step)
        seconds = step_seconds(step, device, rounds)
        states = [value for state in optimizer.state.values() for value in state.values()]
        held = held_bytes([*model.parameters(), *model.buffers(), *states])
        peak = held + peak_bytes(step, device)
    finally:
        model.train(training)
        for p, gradient in zip(trained, gradients, strict=True):
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
        "step_flops": complete.total,
        "step_attention_flops": complete.attention,
        "step_seconds": seconds,
        "step_peak_bytes": peak,
    }


def attention_sharing(plan: BridgePlan) -> float:
    """Return the share of the generation tower's blocks at which its tokens attend to the understanding side.

    Parameters
    ----------
    plan : BridgePlan
        The plan.

    Returns
    -------
    float
        Between 0 and 1.

    Notes
    -----
    The tokens attend inside the block ("dense", "H", "last", "soft"), in a block behind it ("double fusion"), or
    because the block is shared: the share is 1 for the trunk "shared", and the shared blocks' share for "Y" and "X",
    whose branches never attend to each other. A block that meets several others counts once. HBridge [1]_ bridges 16 of
    the 28 blocks that pair: 12 / 28 = 42.9 % less than dense; the 4 blocks of its prelude count here as not shared.

    References
    ----------
    .. [1] HBridge, arXiv 2511.20520.
    """
    if not isinstance(plan, BridgePlan):
        raise TypeError(f"the plan is a {type(plan).__name__}: expected a BridgePlan")
    return len({generation for _, generation in plan.pairs}) / plan.generation_layers


def count_flops(run: Callable[[], object]) -> Flops:
    """Count the floating point operations of one run, its backward pass included if it has one.

    Parameters
    ----------
    run : Callable[[], object]
        The run.

    Returns
    -------
    Flops
        All operations, and those between tokens.
    """
    checked("run", run, Callable)
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION_FLOPS) as counter:
        run()
    counts = {operation: int(flops) for operation, flops in counter.get_flop_counts()["Global"].items()}
    attention = [flops for operation, flops in counts.items() if operation in _BATCHED or "attention" in str(operation)]
    return Flops(sum(counts.values()), sum(attention))


def step_seconds(run: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """Return the median wall time of a run, in seconds, after two runs to warm up.

    Parameters
    ----------
    run : Callable[[], object]
        The run.
    device : torch.device
        Device of the run; a GPU's work is waited for.
    rounds : int
        Number of runs that are timed.

    Returns
    -------
    float
        Seconds.
    """
    checked("run", run, Callable)
    rounds, device = checked("rounds", rounds, int, least=1), checked("device", device, torch.device)
    seconds = []
    for number in range(WARM_UP + rounds):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return median(seconds)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Return the most that torch's allocator holds during a run beyond what it held before the run.

    Parameters
    ----------
    run : Callable[[], object]
        The run. It is run twice, the first time to warm up.
    device : torch.device
        A cpu or cuda device.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    ValueError
        For another device.

    Notes
    -----
    On CUDA torch counts the bytes; on a CPU the profiler reports every block that is allocated and freed. Both count
    the same thing, to the byte and the same in every run. The process's resident memory would not do: Python, code
    and what the allocator or the system keeps in reserve are in it.
    """
    checked("run", run, Callable)
    checked("device", device, torch.device)
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
    with _quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    results: Any = profiled.profiler.kineto_results if profiled.profiler else None
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler's own lines out of the output, unless the user has set how much it says.

    The profiler reads its level once in a process, when it is first used.
    """
    name = "KINETO_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "99"
    try:
        yield
    finally:
        del os.environ[name]


def held_bytes(tensors: list[torch.Tensor]) -> int:
    """Return the bytes of tensors' storages, shared ones once.

    Parameters
    ----------
    tensors : list of torch.Tensor
        The tensors.

    Returns
    -------
    int
        Bytes.
    """
    if len(tensors := list(tensors)):
        checked("tensors", tensors, Sequence[torch.Tensor])
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _finite(loss: torch.Tensor) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} before any step: there is nothing to measure")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
