"""What one training step holds and computes, found by running it on tensors that have shapes and no data.

Everything runs as it would for real, the forward pass, backward pass, gradient clipping and optimizer, under torch's
`FakeTensorMode`: operators tell the shapes that they return and compute nothing. Each storage is counted from its first
appearance to the moment that nothing refers to it, as an allocator would.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, shape_wrapper

from .step_costs import CPU_ATTENTION_FLOPS

KINDS = ("weights", "trained", "gradients", "optimizer", "activations", "transient", "update")

# Not by `FlopCounterMode`: its hooks on modules keep what checkpointing has computed again alive.
_OPERATIONS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    **{kernel: shape_wrapper(count) for kernel, count in CPU_ATTENTION_FLOPS.items()},
}


class Step(NamedTuple):
    """One training step. Bytes are exact counts of storages; operations are floating point, two to a multiply-add.

    Attributes:
        held: bytes of each kind at their most: `weights` of frozen parameters and of buffers, `trained` parameters,
            their `gradients`, state of the `optimizer`, `activations` (what the forward pass leaves for the backward
            pass).
        at_peak: bytes of each kind at the moment when their sum is largest; also `transient`, what passes come and go,
            and `update`, the same of clipping and optimizer.
        forward, backward, update: operations of the loss, of its gradients (what is computed again under gradient
            checkpointing counts) and of the optimizer.
    """

    held: dict[str, int]
    at_peak: dict[str, int]
    forward: int
    backward: int
    update: int

    @property
    def peak(self) -> int:
        return sum(self.at_peak.values())


class Ledger(TorchDispatchMode):
    """Counts, by kind, the bytes of storages that are alive while it is entered.

    Args:
        shares: the part of each kind that lies on one device; 1 where none is named.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        self.shares = {kind: shares.get(kind, 1.0) for kind in KINDS}
        self.arriving = "transient"  # the kind of a storage that was not seen before
        self.bytes: Counter[str] = Counter()
        self.most: dict[str, int] = {}
        self._alive: dict[int, tuple[int, str]] = {}
        self.operations = 0
        self._collected = 0

    def file(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count these tensors' storages as of this kind."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._alive:
                self.bytes[self._alive[key][1]] -= self._alive[key][0]
            else:
                weakref.finalize(storage, self._free, key)
            size = round(storage.nbytes() * self.shares[kind])
            self._alive[key] = size, kind
            self.bytes[kind] += size
        if self.bytes.total() > 1.02 * self._collected:
            gc.collect()  # cycles of frames hold storages until Python happens to look: the peak is not to depend on it
            self._collected = self.bytes.total()
        if self.bytes.total() > sum(self.most.values()):
            self.most = dict(self.bytes)

    def settle(self, kind: str, other: str) -> None:
        """Count what is of one kind and alive now as of the other, of the same share, also in the peak so far."""
        self._alive = {key: (size, other if k == kind else k) for key, (size, k) in self._alive.items()}
        self.bytes[other] += self.bytes.pop(kind, 0)
        self.most = dict(self.bytes) | {kind: sum(self.most.values()) - self.bytes.total()}

    def _free(self, key: int) -> None:
        size, kind = self._alive.pop(key)
        self.bytes[kind] -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:  # fake tensors ask for it all the time
            return output
        if (count := _OPERATIONS.get(func.overloadpacket)) is not None:
            self.operations += int(count(*args, **(kwargs or {}), out_val=output))
        made = (each for each in tree_iter(output) if isinstance(each, Tensor))
        self.file([t for t in made if t.untyped_storage()._cdata not in self._alive], self.arriving)
        return output


def simulate(
    model: nn.Module,
    loss: Callable[[], Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    shares: Mapping[str, float] | None = None,
) -> Step:
    """One step of training on fake tensors, the optimizers' states being there already.

    The step is that of `models/training/train_model.py`: loss, gradients, clipping to norm 1, update.

    Args:
        model: built, like the optimizers, under the `FakeTensorMode` that is entered now. All that it holds counts.
        loss: makes its inputs and returns the loss; whatever autocast it needs is its own.
        shares: the part of each kind that one of several devices holds; all of it without.

    Raises:
        ValueError: nothing to train; tensors with data.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing of the model is trained: a training step needs parameters that require gradients")
    if real := [name for name, p in model.named_parameters() if not hasattr(p, "fake_mode")]:
        raise ValueError(f"{real[0]!r} holds data: build the model under FakeTensorMode")
    for p in trained:  # a first update makes the optimizers' states
        p.grad = torch.zeros_like(p)
    _update(optimizers)
    states = [v for o in optimizers for state in o.state.values() for v in state.values() if isinstance(v, Tensor)]

    ledger = Ledger(shares or {})
    ledger.file((*(p for p in model.parameters() if not p.requires_grad), *model.buffers()), "weights")
    ledger.file(trained, "trained")
    ledger.file(states, "optimizer")
    hooks = [p.register_post_accumulate_grad_hook(lambda p: ledger.file([p.grad], "gradients")) for p in trained]
    gc.freeze()  # what is there already need not be looked through
    try:
        with ledger:
            value = loss()
            forward = ledger.operations
            ledger.settle("transient", "activations")
            held = dict(ledger.bytes)
            value.backward()
            backward = ledger.operations - forward
            held |= {"gradients": ledger.bytes["gradients"]}
            ledger.arriving = "update"
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            _update(optimizers)
    finally:
        gc.unfreeze()
        for hook in hooks:
            hook.remove()
    return Step(held, ledger.most, forward, backward, ledger.operations - forward - backward)


def _update(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad()
