"""Find the rows and columns in which the tokens of pictures and clips lie.

A square number of tokens is no square of patches: they may be a flat picture, several frames, or queries that each read
the whole picture. So the grid is taken from the inputs that say it (`image_grid_thw`, `spatial_shapes`, `image_sizes`,
`img_ids`) or from rows and columns of pixels, and it must show itself: the top row of every picture is changed, then
the left column, and the tokens of the top row and of the left column must move, and no others. Blocks that stand before
are skipped meanwhile, so that no token reads another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..hooks.block_stacks import find_stacks
from ..hooks.skipped_blocks import skipping
from .entering_states import MOVED, entering_streams, flatten_tokens
from .input_changes import Grid, Inputs, Rows, noise_like
from .patch_order import packed_group, packed_places

CLIPS = re.compile(r"video|frame|latent|^hidden_states$|^sample$")  # inputs whose further axis is time, not pictures

Grids = tuple[tuple[Grid, ...], ...]  # of each sample, the frames, rows and columns of each of its pictures
Change = Callable[[Any], Any]  # of an input's value


class Place(NamedTuple):
    """Where a modality's tokens stand.

    Attributes
    ----------
    model : torch.nn.Module
        The model.
    block : str
        The path of the first block of the stack.
    stream : str or None
        The stream, None where there is one.
    axis : int
        The axis of the hidden state that is dim.
    positions : torch.Tensor or None
        (sample, kept), as `Stream.positions`, or a bool mask (sample, token); None for all tokens of a (batch, ...)
        state.
    """

    model: nn.Module
    block: str
    stream: str | None = None
    axis: int = -1
    positions: Tensor | None = None


class _Guess(NamedTuple):
    """Grids that an input may have, and how to change its top rows and its left columns."""

    grids: list[Sequence[Grid]] | None  # None: to be found from what moves
    top: Change
    left: Change


def find_grids(place: Place, inputs: Inputs, name: str, rows: Rows) -> Grids:
    """Find the grids in which the tokens of one input lie.

    Parameters
    ----------
    place : Place
        Where these tokens stand.
    inputs : mapping
        The keyword arguments of one call.
    name : str
        The input that shows the pictures or clips.
    rows : Rows
        Where the samples stand in it.

    Returns
    -------
    tuple of tuple of tuple of int
        Of each sample, frames, rows and columns of each picture, in the order of its tokens.

    Raises
    ------
    ValueError
        The tokens do not lie in rows and columns, as far as can be found.
    """
    samples = len(rows.counts)
    stacks = find_stacks(place.model)
    others = [b for blocks in stacks.values() if place.block not in blocks for b in blocks]
    with torch.no_grad(), skipping(place.model, others):
        before = _entering(place, inputs)
        positions = _positions(place, before, samples)
        own = [row[row >= 0] for row in positions]
        flat = flatten_tokens(before, place.axis)
        limit = MOVED * float(flat.abs().max())

        def moved(change: Change) -> list[Tensor]:
            """Return which of each sample's tokens, in reading order, move with a change."""
            after = _entering(place, dict(inputs) | {name: change(inputs[name])})
            if after.shape != before.shape:
                raise ValueError("another number of tokens")
            differs = ((flatten_tokens(after, place.axis) - flat).abs().amax(1) > limit).cpu()
            return [differs[row] for row in own]

        for guess in _guesses(place.model, inputs, name, rows, [len(row) for row in own]):
            try:
                top, left = moved(guess.top), moved(guess.left)
            except (RuntimeError, ValueError):
                continue
            grids = guess.grids or [_grid_from(a, b) for a, b in zip(top, left, strict=True)]
            if all(_shows(*of_sample) for of_sample in zip(grids, top, left, strict=True)):
                _check_one_picture(place.model, name, grids, guess)
                return tuple(map(tuple, grids))
    counts = sorted({len(row) for row in own})
    raise ValueError(
        f"the tokens of {name!r}, {' or '.join(map(str, counts))} in a sample, do not lie in rows and columns that the "
        "inputs say or that changes of them show (queries, tiles and mixed patches do not): pool them by "
        "pooling='mean', or say rows and columns yourself, as AnyModel(..., grids=...) or ForwardPass(..., grids=...)"
    )


def _check_one_picture(model: nn.Module, name: str, grids: Sequence[Sequence[Grid]], guess: _Guess) -> None:
    """Raise ValueError for a sample with several pictures: images or tiles of one, which share no rows and columns."""
    config = getattr(model, "config", {})
    known = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    clips = guess.grids is not None or CLIPS.search(name) or any(key in known for key in ("num_frames", "tubelet_size"))
    shown = max(len(sample) if clips else sum(t for t, _, _ in sample) for sample in grids)
    if shown > 1:
        raise ValueError(
            f"{name!r} shows {shown} pictures or tiles in a sample, and a patch grid is that of one picture or clip: "
            "show one, pool them by pooling='mean', or say rows and columns yourself, as AnyModel(..., grids=...)"
        )


def _entering(place: Place, inputs: Inputs) -> Tensor:
    states = entering_streams(place.model, place.block, inputs)
    if states is None or place.stream not in states:
        raise ValueError(f"the block {place.block!r} has no states of these inputs")
    return states[place.stream]


def _positions(place: Place, state: Tensor, samples: int) -> Tensor:
    if place.positions is not None and place.positions.dtype == torch.bool:
        mask = place.positions.cpu()
        rows = [row.nonzero()[:, 0] + number * mask.shape[1] for number, row in enumerate(mask)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    if place.positions is not None:
        return place.positions
    moved = state.movedim(place.axis, -1)
    return torch.arange(moved.shape[:-1].numel()).view(samples, -1)


def _grid_from(top: Tensor, left: Tensor) -> Sequence[Grid]:
    """Return the grid of equal frames of which these are the tokens of top rows and of left columns."""
    count, across, down = len(top), int(top.sum()), int(left.sum())
    frames = across * down // count if count else 0
    if not frames or across % frames or down % frames:
        return ()
    return ((frames, down // frames, across // frames),)


def _shows(grids: Sequence[Grid], top: Tensor, left: Tensor) -> bool:
    """Return whether the tokens of the top rows and of the left columns moved, and no others."""
    if sum(t * h * w for t, h, w in grids) != len(top):
        return False
    rows, columns = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    for t, h, w in grids:
        rows.append(torch.arange(h).repeat_interleave(w).repeat(t))
        columns.append(torch.arange(w).repeat(h * t))
    return torch.equal(top, torch.cat(rows) == 0) and torch.equal(left, torch.cat(columns) == 0)


def _guesses(model: nn.Module, inputs: Inputs, name: str, rows: Rows, counts: Sequence[int]) -> Iterator[_Guess]:
    """Yield the grids that inputs say, then those that pixels would show."""
    value = inputs[name]
    if rows.grids:
        yield from _packed(model, inputs, name, rows, counts)
        return
    for said in _said_sizes(inputs, value, rows):
        yield from said(counts)
    first = value[0] if isinstance(value, list | tuple) else value
    if first.ndim > (2 if isinstance(value, list | tuple) else 3):
        yield _Guess(None, *(_edge(axis) for axis in (-2, -1)))


def _edge(axis: int) -> Change:
    """Return a change of the first row (-2) or the first column (-1) of pixels of all pictures."""

    def change(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [change(part) for part in value]
        after = value + noise_like(value)
        if value.ndim > 4:  # pictures of zeros fill up the batch
            after = torch.where(
                (value != 0).flatten(2).any(2).view(*value.shape[:2], *[1] * (value.ndim - 2)), after, 0
            )
        first = torch.arange(value.shape[axis], device=value.device) == 0
        return torch.where(first[:, None] if axis == -2 else first, after, value)

    return change


def _merged(grids: Sequence[Sequence[Grid]], counts: Sequence[int]) -> tuple[list[Sequence[Grid]], int] | None:
    """Return the grids of tokens that each stand for a square of patches, and the side of the square; None if not."""
    patches = sum(t * h * w for of_sample in grids for t, h, w in of_sample)
    side = math.isqrt(patches // sum(counts)) if sum(counts) else 0
    if not side or any(h % side or w % side for of_sample in grids for _, h, w in of_sample):
        return None
    found: list[Sequence[Grid]] = [[(t, h // side, w // side) for t, h, w in of_sample] for of_sample in grids]
    fits = all(sum(t * h * w for t, h, w in g) == count for g, count in zip(found, counts, strict=True))
    return (found, side) if fits else None


def _packed(model: nn.Module, inputs: Inputs, name: str, rows: Rows, counts: Sequence[int]) -> Iterator[_Guess]:
    """Yield the guesses for patches packed along the first axis: in groups that are merged, or row by row."""
    merged = _merged(rows.grids, counts)
    if merged is None:
        return
    found, side = merged
    # Of tokens that are patches themselves, any order would show itself to be right, so it is asked for.
    group = packed_group(model, inputs, name, rows) if side == 1 else None
    for size in (side, 1) if side > 1 else () if group is None else (group,):
        places = [packed_places(grid, size) for of_sample in rows.grids for grid in of_sample]
        row, column = (torch.cat([place[axis] for place in places]) for axis in (0, 1))
        yield _Guess(found, _at(row < side), _at(column < side))


def _at(chosen: Tensor) -> Change:
    """Return a change of the entries where a mask over the first axes holds."""

    def change(value: Tensor) -> Tensor:
        mask = chosen.to(value.device).view(*chosen.shape, *[1] * (value.ndim - chosen.ndim))
        return torch.where(mask, value + noise_like(value), value)

    return change


def _said_sizes(inputs: Inputs, value: Any, rows: Rows) -> Iterator[Callable[[Sequence[int]], Iterator[_Guess]]]:
    """Yield what other inputs say about the rows and columns of pictures that are not packed."""
    if not isinstance(value, Tensor):
        return
    per_sample = rows.counts.tolist()
    for name, given in inputs.items():
        if not isinstance(given, Tensor) or given is value:
            continue
        sizes = given.detach().cpu()
        if sizes.ndim == 2 and sizes.shape == (len(value), 2) and not sizes.is_floating_point():
            largest = value.shape[1] if value.ndim == 3 else math.inf
            if value.ndim > 3 or int(sizes.prod(1).max()) <= largest:
                yield _sized(sizes, value, per_sample)
        if "ids" in name and sizes.shape[-1] in (2, 3, 4) and value.ndim == 3 and sizes.shape[-2] == value.shape[1]:
            yield _numbered(sizes, value, per_sample)
    for shapes in inputs.values():  # QwenImage: [[(frames, rows, columns)], ...]
        first = shapes[0] if isinstance(shapes, list) and shapes else None
        first = first[0] if isinstance(first, list) and len(first) == 1 else first
        if isinstance(first, tuple) and len(first) == 3 and value.ndim == 3 and math.prod(first) == value.shape[1]:
            yield _sized(torch.tensor([first] * len(value)), value, per_sample)
    spans = [inputs.get(key) for key in ("num_frames", "height", "width")]
    if value.ndim == 3 and all(isinstance(span, int) for span in spans) and math.prod(spans) == value.shape[1]:  # type: ignore[arg-type]
        yield _sized(torch.tensor([spans] * len(value)), value, per_sample)


def _sized(sizes: Tensor, value: Tensor, per_sample: Sequence[int]) -> Callable[[Sequence[int]], Iterator[_Guess]]:
    """Return the guesses for pictures of these sizes, filled up to one: (picture, patch, dim), or pixels."""
    thw = sizes if sizes.shape[1] == 3 else torch.cat([torch.ones_like(sizes[:, :1]), sizes], 1)
    grids = [[(int(t), int(h), int(w)) for t, h, w in part.tolist()] for part in thw.split(list(per_sample))]

    def guesses(counts: Sequence[int]) -> Iterator[_Guess]:
        merged = _merged(grids, counts)
        if merged is None:
            return
        found, side = merged
        if value.ndim > 3:
            yield _Guess(found, _edge(-2), _edge(-1))
            return
        top, left = torch.zeros(2, *value.shape[:2], dtype=torch.bool)
        for picture, (t, h, w) in enumerate(thw.tolist()):
            row, column = packed_places((t, h, w), 1)
            top[picture, : t * h * w], left[picture, : t * h * w] = row < side, column < side
        yield _Guess(found, _at(top), _at(left))

    return guesses


def _numbered(ids: Tensor, value: Tensor, per_sample: Sequence[int]) -> Callable[[Sequence[int]], Iterator[_Guess]]:
    """Return the guesses for packed latents or patches whose rows and columns stand in ids, frames before them."""
    ids = (ids if ids.ndim == 3 else ids.expand(len(value), *ids.shape)).long()

    def guesses(counts: Sequence[int]) -> Iterator[_Guess]:
        varying = [axis for axis in range(ids.shape[-1]) if bool((ids[..., axis] != ids[..., :1, axis]).any())]
        for axes in (varying[-2:], varying[-2:][::-1]) if len(varying) > 1 else ():
            there = (ids[..., axes] >= 0).all(-1)
            row, column = ids[..., axes[0]], ids[..., axes[1]]
            grids = []
            for mask, r, c in zip(there, row, column, strict=True):
                h, w = int(r[mask].max()) + 1, int(c[mask].max()) + 1
                grids.append((int(mask.sum()) // (h * w), h, w))
            of_sample = [part.tolist() for part in torch.tensor(grids).split(list(per_sample))]
            merged = _merged([[(t, h, w) for t, h, w in part] for part in of_sample], counts)
            if merged is not None:
                found, side = merged
                yield _Guess(found, _at(there & (row < side) & (row >= 0)), _at(there & (column < side)))

    return guesses
