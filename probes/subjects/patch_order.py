"""Tell the patches of an input apart, and the order in which they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.block_stacks import find_stacks
from ..hooks.skipped_blocks import skipping
from ..private_names import tree_flatten
from .entering_states import MOVED, entering_streams, flatten_tokens
from .input_changes import Grid, Inputs, Rows, noise_like, unchanged


def patch_units(value: Tensor, rows: Rows, counts: Tensor) -> Tensor | None:
    """Return the patch of its sample that each entry of an image input belongs to.

    Parameters
    ----------
    value : torch.Tensor
        The input: rows of patches, packed latents (sample, patch, dim), or pictures (picture, channel, row, column).
    rows : Rows
        The rows of each sample in it.
    counts : torch.Tensor
        (sample,), the number of patches of each sample.

    Returns
    -------
    torch.Tensor or None
        Of the shape of `value`, patches counted over all pictures of a sample; None where that is unclear.
    """
    if rows.axis:
        return None
    if value.ndim == 2 and torch.equal(rows.counts, counts):  # rows of patches, samples packed
        return torch.cat([torch.arange(int(n)) for n in counts])[:, None].expand(value.shape)
    pictures = int(rows.counts.sum())
    if not bool(counts.all()) or int(counts.sum()) % pictures:
        return None
    count = int(counts.sum()) // pictures  # patches of one picture
    if not torch.equal(rows.counts * count, counts):
        return None
    picture = torch.cat([torch.arange(int(n)) for n in rows.counts]) * count  # its first patch
    if value.ndim == 3 and value.shape[1] == count:  # packed latents
        return (picture[:, None, None] + torch.arange(count)[None, :, None]).expand(value.shape)
    if value.ndim == 4:
        height, width = value.shape[2:]
        side = math.isqrt(height * width // count)
        if side and side * side * count == height * width and height % side == width % side == 0:
            down, right = torch.arange(height) // side, torch.arange(width) // side
            patch = down[:, None] * (width // side) + right
            return (picture[:, None, None, None] + patch).expand(value.shape)
    return None


def packed_group(model: nn.Module, inputs: Inputs, name: str, rows: Rows) -> int | None:
    """Find whether patches that are packed into rows are listed in groups that are merged, or row by row.

    Families that merge patches by the same size list them differently: Qwen-VL group by group, PaddleOCR-VL row by row.
    So two patches are changed, the first one and the one that is behind it in its column if there are groups, and in
    its row if not: in groups, both move the same tokens of the language model.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    inputs : mapping
        The keyword arguments of one call.
    name : str
        The packed input.
    rows : Rows
        The packed rows, with the grids of the pictures.

    Returns
    -------
    int or None
        The side of a group, 1 where patches are listed row by row; None where that cannot be found out.
    """
    vision = getattr(getattr(model, "config", None), "vision_config", None)
    side = getattr(vision, "spatial_merge_size", 1) or 1
    pictures = [grid for of_sample in rows.grids for grid in of_sample]
    wide = next((n for n, (_, _, width) in enumerate(pictures) if width > side), None)
    if side == 1 or wide is None:  # in pictures as narrow as a group, both orders are one
        return 1
    first = sum(t * h * w for t, h, w in pictures[:wide])
    value = inputs[name]
    with torch.no_grad(), skipping(model, [block for blocks in find_stacks(model).values() for block in blocks]):
        before = _merged_tokens(model, inputs, len(value) // side**2)
        moved = []
        for row in (first, first + side):
            after = value.clone()
            after[row] += noise_like(value)[row]
            states = _merged_tokens(model, dict(inputs) | {name: after}, len(value) // side**2)
            if before is None or states is None:
                return None
            moved.append((states - before).abs().amax(1) > MOVED * float(before.abs().max()))
    return side if torch.equal(*moved) else 1


def _merged_tokens(model: nn.Module, inputs: Inputs, count: int) -> Tensor | None:
    """Return tokens (token, dim) behind the merging: what enters a language model, or else what a tower returns."""
    ids: Any = inputs.get("input_ids")
    for blocks in reversed(find_stacks(model).values()) if isinstance(ids, Tensor) else ():
        for state in (entering_streams(model, blocks[0], inputs) or {}).values():
            if state.ndim == 3 and state.shape[:2] == ids.shape:
                return flatten_tokens(state, -1)
    output = model(**unchanged(inputs)) if ids is None else None
    parts, _ = tree_flatten(dict(output) if isinstance(output, Mapping) else output)
    parts = [part for part in parts if isinstance(part, Tensor) and part.shape[:-1].numel() == count]
    return flatten_tokens(parts[0], -1) if parts else None


def packed_places(grid: Grid, group: int) -> tuple[Tensor, Tensor]:
    """Return the row and the column of each packed patch of a picture.

    Parameters
    ----------
    grid : tuple of int
        Frames, rows and columns of the picture.
    group : int
        The side of the groups in which the patches of a frame are listed, 1 for row by row.

    Returns
    -------
    row, column : torch.Tensor
        (patch,) each.
    """
    frames, height, width = grid
    number = torch.arange(height * width)
    block, inside = number // (group * group), number % (group * group)
    row = block // (width // group) * group + inside // group
    column = block % (width // group) * group + inside % group
    return row.repeat(frames), column.repeat(frames)


def reading_order(rows: Rows, group: int, sample: int, patch: Tensor) -> Tensor:
    """Return the place in reading order of patches that a processor lists in groups (Qwen-VL).

    Parameters
    ----------
    rows : Rows
        The packed rows, with the grids of the pictures.
    group : int
        The side of a group, as `packed_group` returns it.
    sample : int
        The sample.
    patch : torch.Tensor
        (kept,), the number of each patch among the sample's rows.

    Returns
    -------
    torch.Tensor
        (kept,), the place of each patch: picture by picture, frame by frame, row by row.
    """
    if not rows.grids or group == 1:
        return patch
    places = [torch.zeros(0, dtype=torch.int64)]
    first = 0
    for frames, height, width in rows.grids[sample]:
        row, column = packed_places((frames, height, width), group)
        frame = torch.arange(frames).repeat_interleave(height * width)
        places.append(first + frame * height * width + row * width + column)
        first += frames * height * width
    return torch.cat(places)[patch]
