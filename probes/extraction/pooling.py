"""Pool the tokens of one modality of one hidden state, while the model runs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..features.patch_grids import regrid
from ..subjects.sink_tokens import SinkRule, find_sinks
from .token_selection import Grids, Tokens, choose_positions

CLAMP = 0.95  # the quantile of |x| at which massive activations are clamped


class Pooled(NamedTuple):
    """What is kept of one hidden state.

    Attributes
    ----------
    values : torch.Tensor
        (batch, dim), (batch, token, dim) or (batch, row, column, dim), float32.
    clamped : torch.Tensor or None
        The same, pooled over the clamped tokens.
    counts : torch.Tensor or None
        (batch,), the number of tokens that are no padding, where tokens are kept.
    norms : torch.Tensor or None
        (batch, 3), the norms of each sample's tokens (`sink_tokens.find_sinks`), where sinks are looked for.
    """

    values: Tensor
    clamped: Tensor | None = None
    counts: Tensor | None = None
    norms: Tensor | None = None


def pooling_of(modality: str, pooling: str) -> str:
    """Return the pooling of one modality: text and sound have no patch grid, and are averaged beside one.

    Parameters
    ----------
    modality : str
        Such as "image" or "text".
    pooling : str
        The pooling that was asked for.

    Returns
    -------
    str
        The modality's pooling.
    """
    return "mean" if pooling.startswith("grid:") and modality not in ("image", "video") else pooling


def pool(
    state: Tensor,
    tokens: Tokens,
    pooling: str = "mean",
    dim_axis: int = -1,
    clean: bool = False,
    what: str = "own",
    sinks: SinkRule | None = None,
) -> Pooled:
    """Pool one hidden state of any layout, always in float32.

    The result shares no memory with the state.

    Parameters
    ----------
    state : torch.Tensor
        The hidden state.
    tokens : Tokens
        The tokens to pool.
    pooling : str
        "mean", "first" and "last" give (batch, dim). "none" keeps all tokens, (batch, token, dim), zero behind a
        sample's last. "grid:N" gives (batch, N, N, dim), where each cell is the mean of the patches that it overlaps,
        by area. Frames and pictures are each pooled onto N x N cells by their own rows and columns, and a cell is the
        mean over all frames of the sample. Rows and columns are those of `tokens.grids`, or of a state that is a map.
    dim_axis : int
        The state's dim axis.
    clean : bool
        Pool the clamped tokens as well. Each sample's values are clamped at the .95 quantile of |x| over its own tokens
        and dims, which removes massive activations.
    what : str
        The name of the tokens, for error messages.
    sinks : SinkRule, optional
        What counts as a sink. Sinks are left out of means; they are not looked for without a rule.

    Returns
    -------
    Pooled
        What is kept of the state.

    Raises
    ------
    ValueError
        The tokens do not fit the state, or nothing says in which rows and columns they lie.

    References
    ----------
    Huh et al., "The Platonic Representation Hypothesis", ICML 2024. Its code clamps features in the same way
    (`remove_outliers`, exact).
    """
    state = state.detach()
    moved = state.movedim(dim_axis, -1)
    with torch.autocast(state.device.type, enabled=False):
        rows, counts, grids = _rows(moved, tokens, tuple(state.shape), what)
        ragged = counts.to(rows.device) if tokens.ragged else None
        left_out, norms = None, None
        if sinks is not None:
            left_out, norms = find_sinks(rows, ragged, sinks._replace(leave_out=sinks.leave_out and pooling == "mean"))
        clamped = _reduce(_clamp(rows, ragged), ragged, grids, pooling, what, left_out) if clean else None
        values = _reduce(rows, ragged, grids, pooling, what, left_out)
        if norms is not None and pooling in ("first", "last"):
            norms[:, 1] = values.norm(dim=-1)  # of the token that is kept
    return Pooled(values, clamped, counts if pooling == "none" else None, norms)


def _rows(moved: Tensor, tokens: Tokens, shape: tuple[int, ...], what: str) -> tuple[Tensor, Tensor, Grids]:
    """Return a state's tokens (batch, kept, dim), which may be a view, their number by sample, and their grids."""
    _check_fit(moved, tokens, shape, what)
    if tokens.positions is None or tokens.counts is None:
        rows, grids = moved.flatten(1, -2), tokens.grids
        if tokens.chosen is not None:
            which = choose_positions(torch.arange(rows.shape[1]), tokens.chosen, f"{what} tokens")
            if not len(which):
                raise ValueError(f"hidden states of shape {shape}, but none of their tokens is chosen for {what}")
            rows = rows[:, which.to(rows.device)]
        elif not grids and moved.ndim in (4, 5):
            frames = moved.shape[1] if moved.ndim == 5 else 1
            grids = (((frames, moved.shape[-3], moved.shape[-2]),),) * len(moved)
        else:
            grids = _scaled(grids, rows.shape[1])
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
        fits, description = moved.ndim > 2 and moved.shape[0] == batch, f"tokens are all of those of {batch} stimuli"
    elif tokens.exact is not None:
        fits = moved.shape[0] == batch and size == math.prod(tokens.exact)
        description = f"mask is {tokens.exact}"
    else:
        second = moved.ndim > 2 and moved.shape[1] == batch  # (token, batch, dim), where twice the batch means nothing
        fits = tokens.reach <= size and not (doubled and not second and 2 * tokens.reach <= size)
        description = f"positions of {batch} stimuli go up to {tokens.reach - 1}"
    if fits:
        return
    alone = ": the model ran one sample at a time: give it the whole batch in one call, or say batch_size=1"
    guided = (
        ": the batch is twice that of the stimuli, as with classifier-free guidance: turn it off "
        "(guidance_scale=1, or no negative prompt)"
    )
    fewer = ": blocks before it take tokens away or add some, so read the layers in front of these, by layers="
    why = guided if doubled else alone if moved.shape[0] == 1 < batch else ""
    if not why and tokens.exact is not None and moved.ndim > 2 and moved.shape[0] == batch:
        why = fewer
    raise ValueError(f"hidden states of shape {shape}, but the {what} {description}{why}")


def _clamp(rows: Tensor, ragged: Tensor | None) -> Tensor:
    """Clamp each sample's own tokens at the quantile of their absolute values, in float32."""
    clamped = rows.to(torch.float32, copy=True)
    for sample, row in enumerate(clamped):
        own = (row if ragged is None else row[: int(ragged[sample])]).abs().flatten()
        limit = own.kthvalue(min(int(CLAMP * own.numel()), own.numel() - 1) + 1).values
        row.clamp_(-limit, limit)
    return clamped


def _reduce(
    rows: Tensor, ragged: Tensor | None, grids: Grids, pooling: str, what: str, left_out: Tensor | None = None
) -> Tensor:
    """Pool rows (batch, kept, dim); `ragged` (batch,) counts each sample's own, where the rest is padding.

    `left_out` (batch, kept) marks the tokens that a mean leaves out.
    """
    if pooling == "first":
        return rows[:, 0].to(torch.float32, copy=True)
    if pooling == "last":
        last = -1 if ragged is None else ragged - 1
        return rows[torch.arange(len(rows), device=rows.device), last].float()
    if pooling.startswith("grid:"):
        return _on_grid(rows, ragged, grids, int(pooling.removeprefix("grid:")), what)
    if left_out is not None and pooling == "mean":
        own = torch.full((len(rows),), rows.shape[1], device=rows.device) if ragged is None else ragged
        away = left_out | (torch.arange(rows.shape[1], device=rows.device) >= own[:, None])
        return rows.float().masked_fill(away[..., None], 0).sum(1) / (~away).sum(1)[:, None]
    if ragged is None:
        return rows.mean(1, dtype=torch.float32) if pooling == "mean" else rows.to(torch.float32, copy=True)
    padding = torch.arange(rows.shape[1], device=rows.device) >= ragged[:, None]
    # Also where padding holds NaN. Rows of unlike numbers were gathered, so that they are a copy of the state's.
    kept = rows.float().masked_fill_(padding[..., None], 0)
    return kept if pooling == "none" else kept.sum(1) / ragged[:, None]


def _scaled(grids: Grids, count: int) -> Grids:
    """Return grids for layers that merge squares of patches (Swin), whose number of tokens is a part of the grids'."""
    patches = sum(t * h * w for t, h, w in grids[0]) if grids else 0
    side = math.isqrt(patches // count)
    if side < 2 or any(h % side or w % side for sample in grids for _, h, w in sample):
        return grids
    return tuple(tuple((t, h // side, w // side) for t, h, w in sample) for sample in grids)


def _on_grid(rows: Tensor, ragged: Tensor | None, grids: Grids, side: int, what: str) -> Tensor:
    cells = []
    counts = [rows.shape[1]] * len(rows) if ragged is None else ragged.tolist()
    for sample, (row, count) in enumerate(zip(rows, counts, strict=True)):
        pictures = grids[sample] if grids else ()
        if sum(t * h * w for t, h, w in pictures) != count:
            grid = " and ".join(f"{t} of {h} x {w}" if t > 1 else f"{h} x {w}" for t, h, w in pictures)
            said = f"a patch grid of {grid}" if grid else "nothing says in which rows and columns they lie"
            raise ValueError(
                f"hidden states with {count} {what} tokens of a sample, and {said}: pool them by pooling='mean', or "
                "have the subject say it, as ForwardPass(..., grids=...), or give its tokens as (batch, row, column)"
            )
        parts = row[:count].float().split([t * h * w for t, h, w in pictures])
        frames = [regrid(part.unflatten(0, picture), side, side) for part, picture in zip(parts, pictures, strict=True)]
        cells.append(torch.cat(frames).mean(0))
    return torch.stack(cells)
