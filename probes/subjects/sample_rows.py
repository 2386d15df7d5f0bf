"""Find which rows of each input belong to each sample, where images, clips or tiles are packed along one axis.

Packed rows are never shared out evenly, for samples may show unlike numbers of images. They are counted by what the
inputs say (`image_grid_thw`, lengths) and by the placeholders among the words. Where that does not tell, images are
changed, and each belongs to the sample whose placeholders move.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.block_stacks import find_stacks
from .entering_states import MOVED, entering_streams, flatten_tokens
from .input_changes import Inputs, Rows, noise_like, packed_grids, special_ids
from .token_movement import Stream, identify_by_bits

SAYS_LENGTHS = re.compile(r"num|count|length|split")  # inputs of one number for each sample


def divide_inputs(model: nn.Module, inputs: Inputs, data: Mapping[str, Sequence[str]], samples: int) -> dict[str, Rows]:
    """Find the rows of each sample in every input that holds data.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    inputs : mapping
        The keyword arguments of one call.
    data : mapping of str to list of str
        The inputs that hold data, by kind (`data_inputs`).
    samples : int
        The number of samples.

    Returns
    -------
    dict of Rows
        By the name of the input.

    Raises
    ------
    ValueError
        The rows of an input cannot be divided among the samples.
    """
    found: dict[str, Rows] = {}
    for kind, names in data.items():
        for name in names:
            if not isinstance(inputs[name], Tensor) or inputs[name].ndim:
                found[name] = _divide(model, inputs, name, kind, samples)
            if kind == "audio":
                found[name] = found[name]._replace(filled=_filled(name, inputs))
    return found


def _filled(name: str, inputs: Inputs) -> Tensor | None:
    """Return where sounds are no padding, by a mask over their time that the inputs hold, or None."""
    value = inputs[name]
    for other, mask in inputs.items():
        words = other == "attention_mask" and "input_ids" in inputs
        if words or not isinstance(mask, Tensor) or mask.ndim != 2 or not other.endswith("mask"):
            continue
        for axis in range(1, value.ndim) if isinstance(value, Tensor) else ():
            if mask.shape == (len(value), value.shape[axis]):
                return mask.bool().view([size if place in (0, axis) else 1 for place, size in enumerate(value.shape)])
    return None


def placeholder_counts(model: nn.Module, inputs: Inputs, name: str, kind: str) -> Tensor | None:
    """Count the placeholders among each sample's words that an input fills.

    Parameters
    ----------
    model : torch.nn.Module
        The model, whose configuration names the placeholders.
    inputs : mapping
        All inputs of the call.
    name : str
        The input.
    kind : str
        Its kind, such as "image".

    Returns
    -------
    Tensor or None
        (sample,); None where there are no words, or no placeholders among them.
    """
    given = inputs.get("input_ids")
    if not isinstance(given, Tensor) or given.ndim != 2:
        return None
    ids = special_ids(model).get("video" if "video" in name else kind, set())
    counts = torch.isin(given, torch.tensor(sorted(ids), dtype=given.dtype, device=given.device)).sum(1).cpu()
    return counts if counts.any() else None


def _divide(model: nn.Module, inputs: Inputs, name: str, kind: str, samples: int) -> Rows:
    """Return the rows of each sample in one input."""
    value = inputs[name]
    length, tensor = len(value), isinstance(value, Tensor)
    grids = packed_grids(name, inputs) if tensor else None
    sizes = torch.ones(length, dtype=torch.int64) if grids is None else grids.prod(1)
    if samples == 1:
        return _rows(sizes, torch.tensor([len(sizes)]), grids)
    held = placeholder_counts(model, inputs, name, kind)
    one_each = torch.ones(samples, dtype=torch.int64)
    if len(sizes) == samples and (held is None or bool(held.all())):
        return _rows(sizes, one_each, grids)
    counts = None
    if grids is not None and held is not None:
        counts = _share(sizes, held)
    if counts is None and kind not in ("text", "time"):
        counts = _measured(model, inputs, name, sizes, samples)
    if counts is None and tensor and grids is None and len(sizes) != samples:
        if (lengths := _said_lengths(inputs, length, samples)) is not None:
            return Rows(0, lengths)
        others = [axis for axis, size in enumerate(value.shape[:-1]) if size == samples and axis]
        if value.ndim == 2 and not value.is_floating_point() and value.shape[1] == samples:
            others = [1]  # ids (token, sample)
        if len(others) == 1 and value.ndim < 4:  # of pictures, that axis would be the colours
            return Rows(others[0], one_each)
    if counts is None and len(sizes) == samples:
        counts = one_each
    if counts is None:
        what = f"of shape {tuple(value.shape)}" if tensor else f"of {length} entries"
        remedy = "show one picture or clip a stimulus, or pass input_ids with their placeholders too"
        if kind == "text":
            remedy = "give texts as (sample, token) with padding, or say batch_size=1"
        raise ValueError(
            f"the input {name!r} {what} cannot be divided among {samples} samples, for nothing tells which rows belong "
            f"to which sample: {remedy}"
        )
    return _rows(sizes, counts, grids)


def _rows(sizes: Tensor, units: Tensor, grids: Tensor | None) -> Rows:
    """Return the rows of samples that hold so many units each, of these sizes."""
    counts = torch.stack([part.sum() for part in sizes.split(units.tolist())])
    if grids is None:
        return Rows(0, counts)
    said = [tuple((int(t), int(h), int(w)) for t, h, w in part.tolist()) for part in grids.split(units.tolist())]
    return Rows(0, counts, tuple(said))


def _said_lengths(inputs: Inputs, length: int, samples: int) -> Tensor | None:
    """Return the rows of each sample where an input counts them, or holds where each begins (cu_seqlens)."""
    for name, given in inputs.items():
        if not isinstance(given, Tensor) or given.is_floating_point() or given.ndim != 1:
            continue
        if name.startswith("cu_") and len(given) == samples + 1 and int(given[-1]) == length:
            return given.diff().cpu().long()
        if SAYS_LENGTHS.search(name) and len(given) == samples and int(given.sum()) == length:
            return given.cpu().long()
    return None


def _share(sizes: Tensor, held: Tensor) -> Tensor | None:
    """Return the number of pictures of each sample, so that their patches fill its placeholders exactly, or None."""
    ends = (sizes.cumsum(0) * int(held.sum())).tolist()  # multiplied, for pictures may be merged by a common factor
    total, found, before = int(sizes.sum()), [], 0
    for filled in (held.cumsum(0) * total).tolist():
        if filled not in (0, *ends):
            return None
        until = ends.index(filled) + 1 if filled else 0
        found.append(until - before)
        before = until
    return torch.tensor(found)


def _measured(model: nn.Module, inputs: Inputs, name: str, sizes: Tensor, samples: int) -> Tensor | None:
    """Return the number of entries of each sample, by whose tokens move when an entry changes, or None."""
    ids: Any = inputs.get("input_ids")
    value = inputs[name]
    if not isinstance(ids, Tensor) or not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    entry = torch.arange(len(sizes)).repeat_interleave(sizes).to(value.device)
    changed = value + noise_like(value)
    for blocks in reversed(find_stacks(model).values()):
        try:
            before = _entering(model, blocks[0], inputs, tuple(ids.shape))
            if before is None:
                continue

            def move(chosen: Tensor, block: str = blocks[0], before: Tensor = before) -> Tensor:
                rows = chosen.to(value.device)[entry].view(-1, *[1] * (value.ndim - 1))
                after = _entering(model, block, dict(inputs) | {name: torch.where(rows, changed, value)}, ids.shape)
                assert after is not None
                return ((after - before).abs().amax(1) > MOVED * float(before.abs().max())).cpu()

            found = identify_by_bits(len(sizes), move, len(before))
        except (RuntimeError, ValueError, AssertionError):
            return None
        owners = [(found == number).nonzero()[:, 0] // ids.shape[1] for number in range(len(sizes))]
        if any(not len(owner) or (owner != owner[0]).any() for owner in owners):
            return None
        owner = torch.stack([owner[0] for owner in owners])
        return torch.bincount(owner, minlength=samples) if torch.equal(owner, owner.sort().values) else None
    return None


def _entering(model: nn.Module, block: str, inputs: Inputs, shape: Sequence[int]) -> Tensor | None:
    """Return what enters a block, (position, dim), if it has a token for each word; None if not."""
    with torch.no_grad():
        states = entering_streams(model, block, inputs) or {}
    fitting = [state for state in states.values() if state.ndim == 3 and tuple(state.shape[:2]) == tuple(shape)]
    return flatten_tokens(fitting[0], -1) if fitting else None


def are_read_alike(one: Mapping[str | None, Stream], other: Mapping[str | None, Stream]) -> bool:
    """Return whether blocks of both stacks can be read in the same way.

    Parameters
    ----------
    one, other : mapping of Stream
        The streams of each stack, by name.

    Returns
    -------
    bool
        True where their tokens have the same places, or fill the rows of both.
    """
    if set(one) != set(other):
        return False
    return all(
        (fills_rows(s) and fills_rows(other[name]) and list(s.positions) == list(other[name].positions))
        or (s.shape == other[name].shape and _same(s.positions, other[name].positions))
        for name, s in one.items()
    )


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[kind], other[kind]) for kind in one)


def fills_rows(stream: Stream) -> bool:
    """Return whether all tokens of a (batch, ...) state are of one kind, in order.

    Parameters
    ----------
    stream : Stream
        The places of the tokens of each kind.

    Returns
    -------
    bool
        True where a row is the tokens of a sample, and no others.
    """
    (positions, *others) = stream.positions.values()
    return not others and torch.equal(positions, torch.arange(positions.numel()).view(positions.shape))
