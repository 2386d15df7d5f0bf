"""Pooling inside the hook: the tokens of one modality of one hidden state, brought down to what is kept of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..features.patch_grids import regrid
from .token_selection import Grids, Tokens, _choose

CLAMP = 0.95  # the quantile of |x| at which massive activations are cut


class Pooled(NamedTuple):
    """What is kept of one state: (batch, dim), (batch, token, dim) or (batch, row, column, dim), float32.

    `clamped` is the same of the clamped tokens; `counts` (batch,) says how many of the tokens are no padding.
    """

    values: Tensor
    clamped: Tensor | None = None
    counts: Tensor | None = None


def pooling_of(modality: str, pooling: str) -> str:
    """The pooling of one modality: text has no patch grid, and is averaged beside one."""
    return "mean" if pooling.startswith("grid:") and modality != "image" else pooling


def pool(
    state: Tensor, tokens: Tokens, pooling: str = "mean", dim_axis: int = -1, clean: bool = False, what: str = "own"
) -> Pooled:
    """Pool one hidden state of any layout, always in float32; nothing of the state itself is kept alive.

    mean, first, last: (batch, dim). none: all tokens, (batch, token, dim), zero behind a sample's last.
    grid:N: (batch, N, N, dim), each cell the mean of the patches that it overlaps, by area; the patches are a square
    unless the state is a map or the tokens told their rows and columns.

    `clean` pools the clamped tokens as well: each sample's are cut at the .95 quantile of |x| over its own tokens and
    dims, which takes massive activations away (the code of the Platonic Representation Hypothesis, Huh et al. 2024,
    does so to features: `remove_outliers`, exact). `what` names the tokens in errors.

    Raises ValueError for a state that the tokens do not fit, or patches that are no square.
    """
    state = state.detach()
    moved = state.movedim(dim_axis, -1)
    with torch.autocast(state.device.type, enabled=False):
        rows, counts, grids = _rows(moved, tokens, tuple(state.shape), what)
        ragged = counts.to(rows.device) if tokens.ragged else None
        clamped = _reduce(_clamp(rows, ragged), ragged, grids, pooling, what) if clean else None
        values = _reduce(rows, ragged, grids, pooling, what)
    return Pooled(values, clamped, counts if pooling == "none" else None)


def _rows(moved: Tensor, tokens: Tokens, shape: tuple[int, ...], what: str) -> tuple[Tensor, Tensor, Grids]:
    """A state's tokens (batch, kept, dim), which may be a view, each sample's number of them, and their grids."""
    _check_fit(moved, tokens, shape, what)
    if tokens.positions is None or tokens.counts is None:
        rows, grids = moved.flatten(1, -2), ()
        if tokens.chosen is not None:
            which = _choose(torch.arange(rows.shape[1]), tokens.chosen, f"{what} tokens")
            if not len(which):
                raise ValueError(f"hidden states of shape {shape}, but none of their tokens is chosen for {what}")
            rows = rows[:, which.to(rows.device)]
        elif moved.ndim == 4:
            grids = ((moved.shape[1], moved.shape[2]),) * len(moved)
        return rows, torch.full((len(rows),), rows.shape[1], device=rows.device), grids
    flat = moved.flatten(0, -2)
    if tokens.run is not None and len(flat) == (tokens.batch * tokens.run[2] or len(flat)):
        return flat.unflatten(0, (tokens.batch, -1))[:, tokens.run[0] : tokens.run[1]], tokens.counts, tokens.grids
    places = tokens.positions.to(flat.device)
    return flat.index_select(0, places.flatten()).unflatten(0, places.shape), tokens.counts, tokens.grids


def _check_fit(moved: Tensor, tokens: Tokens, shape: tuple[int, ...], what: str) -> None:
    size, batch = moved.shape[:-1].numel(), tokens.batch
    doubled = moved.ndim > 2 and moved.shape[0] == 2 * batch
    if tokens.positions is None:
        fits, told = moved.ndim > 2 and moved.shape[0] == batch, f"tokens are all of those of {batch} stimuli"
    elif tokens.exact is not None:
        fits, told = moved.shape[0] == batch and size == math.prod(tokens.exact), f"mask is {tokens.exact}"
    else:
        second = moved.ndim > 2 and moved.shape[1] == batch  # (token, batch, dim), where twice the batch means nothing
        fits = tokens.reach <= size and not (doubled and not second and 2 * tokens.reach <= size)
        told = f"positions of {batch} stimuli go up to {tokens.reach - 1}"
    if fits:
        return
    guided = (
        ": the batch is twice that of the stimuli, as with classifier-free guidance: turn it off "
        "(guidance_scale=1, or no negative prompt)"
    )
    raise ValueError(f"hidden states of shape {shape}, but the {what} {told}{guided if doubled else ''}")


def _clamp(rows: Tensor, ragged: Tensor | None) -> Tensor:
    """Each sample's own tokens cut at the quantile of their absolute values; float32."""
    cut = rows.to(torch.float32, copy=True)
    for at, row in enumerate(cut):
        own = (row if ragged is None else row[: int(ragged[at])]).abs().flatten()
        limit = own.kthvalue(min(int(CLAMP * own.numel()), own.numel() - 1) + 1).values
        row.clamp_(-limit, limit)
    return cut


def _reduce(rows: Tensor, ragged: Tensor | None, grids: Grids, pooling: str, what: str) -> Tensor:
    """Rows (batch, kept, dim) pooled; where `ragged`, what stands right of each sample's count is none of it."""
    if pooling == "first":
        return rows[:, 0].to(torch.float32, copy=True)
    if pooling == "last":
        last = -1 if ragged is None else ragged - 1
        return rows[torch.arange(len(rows), device=rows.device), last].float()
    if pooling.startswith("grid:"):
        return _on_grid(rows, ragged, grids, int(pooling.removeprefix("grid:")), what)
    if ragged is None:
        return rows.mean(1, dtype=torch.float32) if pooling == "mean" else rows.to(torch.float32, copy=True)
    none = torch.arange(rows.shape[1], device=rows.device) >= ragged[:, None]
    kept = rows.float().masked_fill(none[..., None], 0)  # also where padding holds NaN
    return kept if pooling == "none" else kept.sum(1) / ragged[:, None]


def _on_grid(rows: Tensor, ragged: Tensor | None, grids: Grids, side: int, what: str) -> Tensor:
    cells = []
    counts = [rows.shape[1]] * len(rows) if ragged is None else ragged.tolist()
    for at, (row, count) in enumerate(zip(rows, counts, strict=True)):
        high, wide = grids[at] if grids else (math.isqrt(count),) * 2
        if high * wide != count:
            kind = f"{high} x {wide}" if grids else "square"
            raise ValueError(
                f"hidden states with {count} {what} tokens of a sample, which are no {kind} of patches: show square "
                "images, or have the subject give its tokens as (batch, row, column)"
            )
        cells.append(regrid(row[:count].float().unflatten(0, (high, wide)), side, side))
    return torch.stack(cells)
