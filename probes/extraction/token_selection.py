"""Choose which tokens of a modality are pooled, and which patch grid they form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def token_indices(tokens: Tensor | None, count: int) -> Tensor:
    """Where a modality's tokens stand among the `count` tokens of one sample's state, whatever form `tokens` has."""
    if tokens is None:
        return torch.arange(count)
    flat = tokens.detach().cpu().flatten()
    if flat.dtype == torch.bool:
        if len(flat) != count:
            raise ValueError(f"the mask has {len(flat)} tokens, the hidden state {count}")
        return flat.nonzero()[:, 0]
    return flat[flat >= 0]


Chosen = slice | Sequence[int] | Tensor
Grids = tuple[tuple[int, int], ...]  # rows and columns of each sample's patches


class Tokens(NamedTuple):
    """One modality's tokens in one pass, ready to be read from the state of any layer.

    Attributes:
        batch: how many stimuli there are.
        positions: (batch, kept), counted over the hidden state without its dim axis, flattened; what stands right of a
            sample's own is none. None: every token of a (batch, ...) state.
        counts: (batch,), how many positions each sample has; None with `positions`.
        ragged: whether they differ.
        run: start and stop within each sample's row and the length of a row, where all samples have the same stretch.
        reach: how many tokens a state must have at least, or exactly, where a mask tells it.
        exact: the mask's shape (batch, token), where there is one.
        grids: of the patches, where the subject told them.
        chosen: which of a state's tokens count, where `positions` is None.
    """

    batch: int
    positions: Tensor | None = None
    counts: Tensor | None = None
    ragged: bool = False
    run: tuple[int, int, int] | None = None
    reach: int = 0
    exact: tuple[int, int] | None = None
    grids: Grids = ()
    chosen: Chosen | None = None


def find_tokens(
    modality: str,
    tokens: Tensor | None,
    batch: int,
    special: Tensor | None = None,
    chosen: Chosen | None = None,
    device: torch.device | str = "cpu",
) -> Tokens:
    """What a subject says of one modality's tokens, checked and brought into one form.

    Parameters
    ----------
    tokens, special : as `Shown` gives them. With three axes, (batch, row, column), they tell the patch grid too.
        Special tokens are added: in the order of the sequence where both are masks, else before the others.
    chosen : a slice, a bool mask or positions (negative ones from the end), counted over the modality's own tokens in
        reading order; for tokens of None that is over all tokens of each sample.
    device : where the states will be.

    Raises ValueError for tokens of another batch, a sample without tokens, choices out of range.
    """
    if tokens is None:
        return Tokens(batch, chosen=chosen)
    for given in (tokens, special):
        if given is not None and (
            given.ndim not in (2, 3) or len(given) != batch or given.dtype not in (torch.bool, torch.int64)
        ):
            raise ValueError(
                f"the {modality} tokens have shape {tuple(given.shape)} and {given.dtype} for {batch} stimuli: "
                "expected a bool mask or int64 positions, (batch, token) or (batch, row, column)"
            )
    rows, grids = _listed(tokens), _told_grids(tokens) if tokens.ndim == 3 else ()
    if chosen is not None:
        rows, grids = [_choose(row, chosen, f"{modality} tokens") for row in rows], ()
    if special is not None:
        rows = [torch.cat(pair) for pair in zip(_listed(special), rows, strict=True)]
        if tokens.dtype == special.dtype == torch.bool:
            rows = [row.sort().values for row in rows]
    for at, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"sample {at} of a batch has no {modality} tokens to pool: leave that stimulus out")
    counts = torch.tensor([len(row) for row in rows])
    return Tokens(
        batch,
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device),
        counts.to(device),
        ragged=bool((counts != counts[0]).any()),
        run=_run(rows),
        reach=1 + max(int(row.max()) for row in rows),
        exact=(batch, tokens[0].numel()) if tokens.dtype == torch.bool else None,
        grids=grids,
    )


def _told_grids(tokens: Tensor) -> Grids:
    there = tokens if tokens.dtype == torch.bool else tokens >= 0
    return tuple((int(each.any(1).sum()), int(each.any(0).sum())) for each in there)


def _listed(tokens: Tensor) -> list[Tensor]:
    """Each sample's positions in the flattened state, in reading order."""
    tokens = tokens.flatten(1).cpu()
    if tokens.dtype == torch.bool:
        return [row.nonzero()[:, 0] + at * tokens.shape[1] for at, row in enumerate(tokens)]
    return [row[row >= 0] for row in tokens]


def _choose(row: Tensor, chosen: Chosen, what: str) -> Tensor:
    if isinstance(chosen, slice):
        return row[chosen]
    try:
        return row[torch.as_tensor(chosen).cpu()]
    except IndexError as error:
        raise ValueError(f"the tokens chosen do not fit a sample of {len(row)} {what}: {error}") from None


def _run(rows: list[Tensor]) -> tuple[int, int, int] | None:
    """The stretch that all samples have in common: a slice reads it without a copy."""
    starts = [int(row[0]) for row in rows]
    stride = starts[1] - starts[0] if len(rows) > 1 else 0
    start, length = starts[0], len(rows[0])
    if stride < 0 or (len(rows) > 1 and start + length > stride):
        return None
    for at, row in enumerate(rows):
        if len(row) != length or not torch.equal(row, torch.arange(length) + start + at * stride):
            return None
    return start, start + length, stride
