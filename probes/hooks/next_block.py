"""Follow which of a block's outputs the next block is given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

RESIDUAL = re.compile(r"resid|^res$|_res$|^skip$")  # arguments that carry what is added to the hidden state later


class OutputOrder(NamedTuple):
    """What each part of a block's output is to the next block.

    Attributes
    ----------
    names : tuple of str or None
        The argument by which the next block takes each part; None for a part that it does not take.
    summed : bool
        Whether the hidden state is the sum of the named parts, as of a (mixer output, residual) pair.
    """

    names: tuple[str | None, ...]
    summed: bool = False


class Origin(NamedTuple):
    """What a tensor was made of: the parts of an output, by number, and whether it is their sum or made of it."""

    parts: frozenset[int]
    summed: bool = False


class OutputTrace(TorchFunctionMode):
    """Follow, while the mode is entered, what torch's functions make of the parts of a block's output.

    Parameters
    ----------
    parts : sequence
        The parts. Those that are no floating point tensors are left out.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        self.parts = {number: part for number, part in enumerate(parts) if _is_tensor(part)}
        # Copies, because a part may be changed in place before the next block runs.
        self.values = {number: part.clone() for number, part in self.parts.items()}
        self.found: dict[int, tuple[Tensor, Origin]] = {}  # the tensor is held, so that its id stays its own
        self.entered = False

    def __enter__(self) -> OutputTrace:
        self.entered = True
        return super().__enter__()

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        self.entered = False
        super().__exit__(exc_type, exc_val, exc_tb)

    def origin(self, tensor: Tensor) -> Origin | None:
        """Return what a tensor was made of, or None where it has nothing of the parts."""
        if id(tensor) in self.found:
            return self.found[id(tensor)][1]
        same = [number for number, part in self.parts.items() if tensor is part]
        same += [number for number, part in self.parts.items() if _same_memory(tensor, part)]
        if same and (tensor.shape != self.values[same[0]].shape or _equal(tensor, self.values[same[0]])):
            return Origin(frozenset(same[:1]))
        return self._by_values(tensor) or (Origin(frozenset(same[:1])) if same else None)

    def _by_values(self, tensor: Tensor) -> Origin | None:
        equal = [number for number, value in self.values.items() if _equal(tensor, value)]
        if equal:
            return Origin(frozenset(equal)) if len(equal) == 1 else None
        pair = next((pair for pair in _pairs(self.values) if self._is_sum(tensor, pair)), None)
        return Origin(frozenset(pair), summed=True) if pair else None

    def _is_sum(self, tensor: Tensor, numbers: Sequence[int]) -> bool:
        values = [self.values[number] for number in numbers]
        if len(values) != 2 or values[0].shape != values[1].shape or tensor.shape != values[0].shape:
            return False
        precise = 4 * torch.finfo(tensor.dtype).eps
        total = values[0].float() + values[1].float()
        return torch.allclose(tensor.float(), total, precise, precise * float(total.detach().abs().max()))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        origins = [self._known(tensor) for tensor in _tensors((args, kwargs))]
        result = func(*args, **kwargs)
        origins = [origin for origin in origins if origin]
        if origins:
            made = list(_tensors(result))
            if not made and args and isinstance(args[0], Tensor):
                made = [args[0]]  # an assignment to a part of a tensor
            for tensor in made:
                self.found[id(tensor)] = (tensor, self._joined(tensor, origins))
        return result

    def _known(self, tensor: Tensor) -> Origin | None:
        known = self.found.get(id(tensor))
        if known:
            return known[1]
        return next((Origin(frozenset((n,))) for n, part in self.parts.items() if tensor is part), None)

    def _joined(self, tensor: Tensor, origins: Sequence[Origin]) -> Origin:
        parts = frozenset().union(*(origin.parts for origin in origins))
        if len(parts) == 1:
            return Origin(parts)
        summed = all(origin.summed for origin in origins) and len({origin.parts for origin in origins}) == 1
        return Origin(parts, summed or self._is_sum(tensor, sorted(parts)))


def order_from_next(
    parts: Sequence[Any], inputs: Mapping[str, Any], trace: OutputTrace | None = None
) -> OutputOrder | None:
    """Find which parts of a block's output the next block is given.

    A part is recognised as the same tensor, by its memory (a view, a detached copy), by its values (a copy), or by the
    operations between the two blocks that made an input of it (`OutputTrace`).

    Parameters
    ----------
    parts : sequence
        The parts of the output.
    inputs : mapping
        The next block's inputs by name.
    trace : OutputTrace, optional
        The trace of these parts that was entered when the block returned.

    Returns
    -------
    OutputOrder or None
        The argument that takes each part; None where the next block takes none of them.

    Raises
    ------
    ValueError
        The next block is given a mixture of two parts that is not their sum.
    """
    trace = trace or OutputTrace(parts)
    taken: dict[str, Origin] = {}
    for name, value in _named_tensors(inputs):
        if origin := trace.origin(value):
            taken.setdefault(name, origin)
    if not taken:
        return None
    names: list[str | None] = [None] * len(parts)
    sums = {name: origin for name, origin in taken.items() if origin.summed}
    if sums:
        name, origin = next(iter(sums.items()))
        for number in origin.parts:
            names[number] = name
        return OutputOrder(tuple(names), summed=True)
    single = {name: next(iter(origin.parts)) for name, origin in taken.items() if len(origin.parts) == 1}
    first = "hidden_states" if "hidden_states" in taken else next(iter(taken))
    if first not in single:
        raise ValueError(
            f"the next block is given a mixture of {len(taken[first].parts)} outputs that is not their sum, as "
            f"{first!r}: which of them is the hidden state, or how a residual is added to it, cannot be told"
        )
    for name, number in single.items():
        names[number] = names[number] or name
    width = parts[single[first]].shape[-1]
    for number, name in enumerate(names):  # streams have one width, or are called hidden states
        if name and name != first and parts[number].shape[-1] != width and not name.endswith("hidden_states"):
            names[number] = None
    named = [name for name in names if name]
    residual = len(named) == 2 and any(RESIDUAL.search(name) for name in named)
    return OutputOrder(tuple(names), summed=residual)


def _named_tensors(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating point tensors among inputs, with those in lists and dicts, each with its argument's name."""
    for name, value in inputs.items():
        for tensor in _tensors(value):
            if _is_tensor(tensor):
                yield name, tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2 and not value.is_nested


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return (
        one.numel() == other.numel()
        and one.device == other.device
        and one.device.type != "meta"
        and one.data_ptr() == other.data_ptr()
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.device != other.device:
        return False
    return torch.equal(one.detach(), other.to(one.dtype))


def _pairs(numbers: Mapping[int, Tensor]) -> list[tuple[int, int]]:
    return [(one, other) for one in numbers for other in numbers if one < other]
