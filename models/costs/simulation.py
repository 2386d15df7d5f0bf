"""Count what one training step holds and computes, by running it on tensors that have shapes and no data.

The forward pass, the backward pass, gradient clipping and the optimizers run as they would for real, under torch's
`FakeTensorMode`: operators return shapes and compute nothing. Each storage is counted from its first appearance to the
moment when nothing refers to it any more, as an allocator would count it.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, shape_wrapper

from ...probes.private_names import TorchDispatchMode, address_of, tree_iter
from .step_costs import CPU_ATTENTION_FLOPS

KINDS = ("weights", "trained", "gradients", "optimizer", "activations", "transient", "update")

# `FlopCounterMode` does not serve here: its hooks on modules keep alive what checkpointing has computed again.
_OPERATIONS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    **{kernel: shape_wrapper(count) for kernel, count in CPU_ATTENTION_FLOPS.items()},
}


class Step(NamedTuple):
    """What one training step holds and computes.

    Attributes
    ----------
    held : dict of str to int
        Bytes of each kind at their most: `weights`, frozen parameters and buffers; `trained` parameters; their
        `gradients`; the state of the `optimizer`; `activations`, what the forward pass leaves for the backward pass.
        They are exact counts of storages.
    at_peak : dict of str to int
        Bytes of each kind at the moment when their sum is largest. Two more kinds are `transient`, what passes
        allocate and free again, and `update`, the same of clipping and optimizers.
    forward, backward, update : int
        Floating point operations, two to a multiply-add, of the loss, of its gradients (what is computed again under
        gradient checkpointing counts) and of the optimizers.
    """

    held: dict[str, int]
    at_peak: dict[str, int]
    forward: int
    backward: int
    update: int

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        return sum(self.at_peak.values())


class Ledger(TorchDispatchMode):
    """Count, by kind, the bytes of the storages that are alive while this mode is entered.

    Parameters
    ----------
    shares : mapping of str to float
        The part of each kind that lies on one device; 1 for a kind that is not named.

    Attributes
    ----------
    arriving : str
        The kind that new storages are counted as.
    bytes : Counter
        Bytes by kind that are alive now.
    most : dict of str to int
        Bytes by kind at the moment when their sum was largest.
    operations : int
        Floating point operations so far.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        self.shares = {kind: shares.get(kind, 1.0) for kind in KINDS}
        self.arriving = "transient"
        self.bytes: Counter[str] = Counter()
        self.most: dict[str, int] = {}
        self._alive: dict[int, tuple[int, str]] = {}
        self.operations = 0
        self._collected = 0

    def file(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count the storages of tensors as one kind, whatever they were counted as before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = address_of(storage)
            if key in self._alive:
                self.bytes[self._alive[key][1]] -= self._alive[key][0]
            else:
                weakref.finalize(storage, self._free, key)
            size = round(storage.nbytes() * self.shares[kind])
            self._alive[key] = size, kind
            self.bytes[kind] += size
        if self.bytes.total() > 1.02 * self._collected:
            gc.collect()  # cycles of frames keep storages alive, and the peak must not depend on when Python collects
            self._collected = self.bytes.total()
        if self.bytes.total() > sum(self.most.values()):
            self.most = dict(self.bytes)

    def settle(self, kind: str, other: str) -> None:
        """Count what is alive of one kind as another kind of the same share, in the peak so far as well."""
        self._alive = {key: (size, other if k == kind else k) for key, (size, k) in self._alive.items()}
        self.bytes[other] += self.bytes.pop(kind, 0)
        self.most = dict(self.bytes) | {kind: sum(self.most.values()) - self.bytes.total()}

    def _free(self, key: int) -> None:
        size, kind = self._alive.pop(key)
        self.bytes[kind] -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:  # fake tensors call it all the time
            return output
        if (count := _OPERATIONS.get(func.overloadpacket)) is not None:
            self.operations += int(count(*args, **(kwargs or {}), out_val=output))
        tensors = (leaf for leaf in tree_iter(output) if isinstance(leaf, Tensor))
        self.file([t for t in tensors if address_of(t.untyped_storage()) not in self._alive], self.arriving)
        return output


def simulate(
    model: nn.Module,
    loss: Callable[[], Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    shares: Mapping[str, float] | None = None,
    computed: bool = False,
) -> Step:
    """Run one training step on fake tensors and return what it holds and computes.

    The step is that of models/training/loop.py: loss, gradients, clipping to norm 1, update. The optimizers have their
    states already, as in every step but the first.

    Parameters
    ----------
    model : torch.nn.Module
        Built, like the optimizers, under the `FakeTensorMode` that is entered now. All that it holds counts.
    loss : Callable[[], torch.Tensor]
        Makes its inputs and returns the loss. It enters the autocast that it needs itself.
    optimizers : sequence of torch.optim.Optimizer
        The optimizers of the trained parameters.
    shares : mapping of str to float, optional
        The part of each kind that one of several devices holds; all of it by default.
    computed : bool
        Whether the model holds data, and the step is computed. It changes what is trained.

    Returns
    -------
    Step
        Bytes by kind, and operations.

    Raises
    ------
    ValueError
        If there is nothing to train, or a tensor of the model has data.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing of the model is trained: a training step needs parameters that require gradients")
    if not computed and (real := [name for name, p in model.named_parameters() if not hasattr(p, "fake_mode")]):
        raise ValueError(f"{real[0]!r} holds data: build the model under FakeTensorMode")
    for p in trained:  # a first update creates the optimizers' states
        p.grad = torch.zeros_like(p)
    _update(optimizers)
    states = [v for o in optimizers for state in o.state.values() for v in state.values() if isinstance(v, Tensor)]

    gc.freeze()  # the ledger's collections need not look through what exists already
    ledger = Ledger(shares or {})
    ledger.file((*(p for p in model.parameters() if not p.requires_grad), *model.buffers()), "weights")
    ledger.file(trained, "trained")
    ledger.file(states, "optimizer")
    hooks = [p.register_post_accumulate_grad_hook(lambda p: ledger.file([p.grad], "gradients")) for p in trained]
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
