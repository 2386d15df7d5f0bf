"""Recognise a model whose parts lie on several ranks, and put together the hidden states that a rank has a part of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..private_names import MESH, PARALLEL_CONFIG, PIPELINE_STAGE, buffers_of, parameters_of
from ..single_contexts import single_context
from .model_state import walk

ALIKE = 1e-2  # of the largest value: ranks that hold one state may differ in rounding, parts of it differ by far more


def ranks_of(*models: nn.Module) -> tuple[int, ...]:
    """Return the ranks that hold parts of models and must run them together.

    Parameters
    ----------
    *models : torch.nn.Module
        The models of one subject.

    Returns
    -------
    tuple of int
        The ranks, ascending, this one among them: those of every device mesh over which parameters are distributed
        (tensor parallel, expert parallel, FSDP2) and of diffusers' context parallelism. Empty for models that are
        whole on this rank.

    Raises
    ------
    ValueError
        The model is parallel in a way that cannot be probed: a stage of a pipeline, FSDP1, DeepSpeed's ZeRO-3.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return ()
    found: set[int] = set()
    for model in models:
        check_parallel(model)
        for module in model.modules():
            sequence = getattr(getattr(module, PARALLEL_CONFIG, None), "context_parallel_config", None)
            meshes = [getattr(sequence, MESH, None)]
            meshes += [getattr(tensor, "device_mesh", None) for tensor in _own_tensors(module)]
            found.update(rank for mesh in meshes if mesh is not None for rank in mesh.mesh.flatten().tolist())
    return tuple(sorted(found))


def check_parallel(model: nn.Module) -> None:
    """Refuse a model that is parallel in a way that cannot be probed.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Raises
    ------
    ValueError
        It is a stage of a pipeline, or sharded by FSDP1 or DeepSpeed's ZeRO-3.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    for module in model.modules():
        name = type(module).__name__
        if name == "PipelineIdentityLayer" or getattr(module, PIPELINE_STAGE, None) is not None:
            why = (
                "is one stage of a pipeline, so that this rank has only some of its blocks: open it whole, or sharded "
                "by tensor parallelism or fully_shard"
            )
        elif name == "FullyShardedDataParallel":
            why = (
                "is sharded by FullyShardedDataParallel (FSDP1), whose flat parameters have no names: shard it by "
                "torch's fully_shard (FSDP2), or open it whole"
            )
        elif any(hasattr(tensor, "ds_id") for tensor in _own_tensors(module)):
            why = (
                "is sharded by DeepSpeed's ZeRO-3, which leaves a rank empty parameters: shard it by torch's "
                "fully_shard, or open it whole"
            )
        else:
            continue
        raise ValueError(f"{type(model).__name__} {why}")


def gathers_weights(model: nn.Module) -> bool:
    """Return whether FSDP2 shards the model: a pass that ends early would leave its blocks gathered."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    return any(kind.__name__ == "FSDPModule" for module in model.modules() for kind in type(module).__mro__)


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor where this rank holds a part of it (DTensor), and any other tensor as it is.

    All ranks of the tensor's mesh must call it.

    Parameters
    ----------
    tensor : torch.Tensor
        Any tensor.

    Returns
    -------
    torch.Tensor
        A plain tensor.
    """
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def all_ranks(tensor: Tensor, holds: bool) -> bool:
    """Return whether something holds on all ranks that have parts of a tensor; each of them must ask.

    Parameters
    ----------
    tensor : torch.Tensor
        Any tensor. A plain one is this rank's alone.
    holds : bool
        Whether it holds on this rank.

    Returns
    -------
    bool
        The same on all of its ranks.
    """
    mesh = getattr(tensor, "device_mesh", None)
    if mesh is None or mesh.size() == 1:
        return holds
    device = tensor.to_local().device  # type: ignore[operator]  # a DTensor
    ranks, flag = tuple(sorted(mesh.mesh.flatten().tolist())), torch.tensor(int(holds), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN, group=_group(ranks, dist.group.WORLD))
    return bool(flag)


_parts: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()  # layers whose states are parts of the tokens


class StateGathering:
    """Put together each hidden state of a model that runs on several ranks.

    A state that is distributed says so. A plain tensor may be the whole state, the same on all ranks, or a part of
    its tokens: sequence-parallel blocks pass on parts and do not say it. So the ranks compare what they hold.

    Parameters
    ----------
    model : torch.nn.Module
        The model.

    Attributes
    ----------
    ranks : tuple of int
        The ranks that hold parts of the model (`ranks_of`).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.ranks = model, ranks_of(model)
        self.known_parts = _parts.setdefault(model, set())
        self.sizes: set[tuple[int, int]] = set()  # (batch, token) of what the model was given

    def look(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """Take in the sizes of a model's inputs, as a forward pre-hook."""
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim >= 2]
        self.sizes |= {(value.shape[0], value.shape[1]) for value in given}

    def whole(self, path: str, state: Any) -> Any:
        """Return a whole state; all ranks of the model must call it in the same order.

        Parameters
        ----------
        path : str
            The layer, for error messages.
        state : torch.Tensor or dict of torch.Tensor
            What this rank has of the state, or of each stream.

        Returns
        -------
        torch.Tensor or dict of torch.Tensor
            The state, the same on every rank.

        Raises
        ------
        ValueError
            The ranks hold different parts, and which ones cannot be told.
        """
        if isinstance(state, dict):
            return {stream: self.whole(path, part) for stream, part in state.items()}
        if hasattr(state, "full_tensor"):
            return whole(state)
        return self._joined(path, state) if len(self.ranks) > 1 else state

    def _joined(self, path: str, state: Tensor) -> Tensor:
        group = _group(self.ranks, dist.group.WORLD)
        shapes: list[Any] = [None] * len(self.ranks)
        dist.all_gather_object(shapes, tuple(state.shape), group=group)
        if len({shape[:1] + shape[2:] for shape in shapes}) > 1 or len({len(shape) for shape in shapes}) > 1:
            raise ValueError(self._explain(path, shapes))
        if len(set(shapes)) == 1:
            first, last, mean = state.select(1, 0), state.select(1, -1), state.mean(1)
            some = torch.stack([first, last, mean]).float()
            others = [torch.empty_like(some) for _ in self.ranks]
            dist.all_gather(others, some, group=group)
            scale = max(float(other.abs().max()) for other in others)
            alike = all(float((other - others[0]).abs().max()) <= ALIKE * scale for other in others)
            if alike and path not in self.known_parts:  # parts may be alike as well: a text that repeats itself
                return state
        tokens = sum(shape[1] for shape in shapes)
        if state.ndim < 3 or (state.shape[0], tokens) not in self.sizes:
            raise ValueError(self._explain(path, shapes))
        self.known_parts.add(path)
        longest = max(shape[1] for shape in shapes)
        padded = state.new_zeros(state.shape[0], longest, *state.shape[2:])
        padded[:, : state.shape[1]] = state
        parts = [torch.empty_like(padded) for _ in self.ranks]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:, : shape[1]] for part, shape in zip(parts, shapes, strict=True)], 1)

    def _explain(self, path: str, shapes: Sequence[tuple[int, ...]]) -> str:
        tokens = sorted({size[1] for size in self.sizes if size[0] == shapes[0][0] and size[1] > shapes[0][1]})
        of = f" of {tokens[0]}" if tokens else ""
        return (
            f"layer {path!r} gives {shapes[0][1]}{of} tokens on one rank and others on another, shapes "
            f"{', '.join(map(str, shapes))}: its states are parts of what the model's {len(self.ranks)} ranks hold "
            "(sequence parallel, say); let the blocks give DTensors (use_local_output=False) or whole states "
            "(output_layouts=Replicate())"
        )


@single_context
def no_buffer_broadcasts(*modules: nn.Module) -> Iterator[None]:
    """Keep DistributedDataParallel from broadcasting buffers before a pass: ranks run passes of unlike number.

    Parameters
    ----------
    *modules : torch.nn.Module
        The modules, with everything inside them.
    """
    wrapped = [
        part
        for module in modules
        for part in walk(module)
        if isinstance(part, nn.parallel.DistributedDataParallel) and part.require_forward_param_sync
    ]
    for part in wrapped:
        part.require_forward_param_sync = False
    try:
        yield
    finally:
        for part in wrapped:
            part.require_forward_param_sync = True


def _own_tensors(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in (*parameters_of(module).values(), *buffers_of(module).values()) if tensor is not None]


@lru_cache
def _group(ranks: tuple[int, ...], world: Any) -> Any:
    """Return the process group of these ranks; each of them must ask for it."""
    if len(ranks) == world.size():
        return world
    return dist.new_group(list(ranks), use_local_synchronization=True)
