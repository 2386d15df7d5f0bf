"""Find the tokens of a modality that are pooled, and the patch grid that they form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Chosen = slice | Sequence[int] | Tensor
Grids = tuple[tuple[tuple[int, int, int], ...], ...]  # frames, rows and columns of each picture of each sample


class Tokens(NamedTuple):
    """One modality's tokens in one pass, ready to be read from the state of any layer.

    Attributes
    ----------
    batch : int
        The number of stimuli.
    positions : torch.Tensor or None
        (batch, kept), counted over the hidden state without its dim axis, flattened. Entries behind a sample's count
        are padding. None stands for every token of a (batch, ...) state.
    counts : torch.Tensor or None
        (batch,), the number of positions of each sample; None where `positions` is None.
    ragged : bool
        Whether the counts differ.
    run : tuple of int or None
        Start and stop within each sample's row and the length of a row, where all samples have the same stretch.
    reach : int
        The number of tokens that a state must have at least.
    exact : tuple of int or None
        The shape (batch, token) that a state must have, where the subject gave a mask.
    grids : tuple of tuple of tuple of int
        Frames, rows and columns of each picture of each sample, where the subject gave them.
    chosen : slice, sequence of int, torch.Tensor or None
        The tokens of a state that count, where `positions` is None.
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


def token_positions(tokens: Tensor | None, count: int | None = None) -> Tensor:
    """Return the positions of a modality's tokens in the hidden state of one sample.

    Parameters
    ----------
    tokens : torch.Tensor or None
        One sample's part of `ForwardPass.tokens`, in any of its three forms: a bool mask, positions padded with -1, or
        None for all tokens.
    count : int, optional
        The number of tokens of the hidden state. It is needed where `tokens` is None, and checked against a mask.

    Returns
    -------
    torch.Tensor
        (kept,), int64, on the CPU.

    Raises
    ------
    ValueError
        The mask does not have `count` tokens, or there is neither `tokens` nor `count`.
    """
    if tokens is None:
        if count is None:
            raise ValueError("all tokens of a state are meant, but their number is not given")
        return torch.arange(count)
    flat = tokens.detach().cpu().flatten()
    if flat.dtype == torch.bool:
        if count not in (None, len(flat)):
            raise ValueError(f"the mask has {len(flat)} tokens, the hidden state {count}")
        return flat.nonzero()[:, 0]
    return flat[flat >= 0]


def find_tokens(
    modality: str,
    tokens: Tensor | None,
    batch: int,
    special: Tensor | None = None,
    chosen: Chosen | None = None,
    device: torch.device | str = "cpu",
    grids: Grids = (),
) -> Tokens:
    """Check one modality's tokens, as a subject gives them, and bring them into one form.

    Parameters
    ----------
    modality : str
        "image" or "text", for error messages.
    tokens : torch.Tensor or None
        The modality's part of `ForwardPass.tokens`. With three axes, (batch, row, column), it gives the patch grid too.
    batch : int
        The number of stimuli.
    special : torch.Tensor, optional
        The modality's part of `ForwardPass.special`. Special tokens are added in the order of the sequence where both
        are masks, else before the others.
    chosen : slice, sequence of int or torch.Tensor, optional
        A slice, a bool mask or positions (negative ones from the end), counted over the modality's own tokens in
        reading order. Where `tokens` is None they are counted over all tokens of each sample.
    device : torch.device or str
        The device of the hidden states.
    grids : tuple of tuple of tuple of int
        The patch grids, as `read_grids` returns them.

    Returns
    -------
    Tokens
        The tokens.

    Raises
    ------
    ValueError
        The tokens have another batch, a sample has none, or a choice is out of range.
    """
    if tokens is None:
        return Tokens(batch, chosen=chosen, grids=grids)
    for given in (tokens, special):
        if given is not None and (
            given.ndim not in (2, 3) or len(given) != batch or given.dtype not in (torch.bool, torch.int64)
        ):
            raise ValueError(
                f"the {modality} tokens have shape {tuple(given.shape)} and {given.dtype} for {batch} stimuli: "
                "expected a bool mask or int64 positions, (batch, token) or (batch, row, column)"
            )
    rows = _flat_positions(tokens)
    if tokens.ndim == 3:
        grids = _grids(tokens)
    if chosen is not None:
        rows = [choose_positions(row, chosen, f"{modality} tokens") for row in rows]
    if special is not None:
        rows = [torch.cat(pair) for pair in zip(_flat_positions(special), rows, strict=True)]
        if tokens.dtype == special.dtype == torch.bool:
            rows = [row.sort().values for row in rows]
    for sample, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"sample {sample} of a batch has no {modality} tokens to pool: leave that stimulus out")
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


def _grids(tokens: Tensor) -> Grids:
    """Return the rows and columns of each sample's patches, from tokens (batch, row, column)."""
    masks = tokens if tokens.dtype == torch.bool else tokens >= 0
    return tuple(((1, int(mask.any(1).sum()), int(mask.any(0).sum())),) for mask in masks)


def read_grids(given: Any, batch: int, modality: str) -> Grids:
    """Bring patch grids, as a subject gives them, into one form.

    Parameters
    ----------
    given : sequence or callable
        One part of `ForwardPass.grids`: for each sample (rows, columns), (frames, rows, columns) or a list of these, or
        a function without arguments that returns them.
    batch : int
        The number of stimuli.
    modality : str
        "image" or "video", for error messages.

    Returns
    -------
    tuple of tuple of tuple of int
        Of each sample, frames, rows and columns of each picture.

    Raises
    ------
    ValueError
        The grids have another form, or are not one for each stimulus.
    """
    given = given() if callable(given) else given
    grids: Grids = ()
    fits = False
    try:
        samples = [[sample] if isinstance(sample[0], int) else list(sample) for sample in given]
        grids = tuple(tuple(_grid(grid) for grid in sample) for sample in samples)
        fits = all(min(grid) > 0 for sample in grids for grid in sample)
    except (TypeError, ValueError, IndexError, KeyError):
        pass
    if not fits or len(grids) != batch:
        raise ValueError(
            f"the {modality} grids are {given!r} for {batch} stimuli: expected for each (rows, columns), "
            "(frames, rows, columns) or a list of these"
        )
    return grids


def _grid(given: Any) -> tuple[int, int, int]:
    frames, rows, columns = given if len(given) == 3 else (1, *given)
    return int(frames), int(rows), int(columns)


def _flat_positions(tokens: Tensor) -> list[Tensor]:
    """Return each sample's positions in the flattened state, in reading order."""
    length = tokens[0].numel() if tokens.dtype == torch.bool else 0  # positions count over the whole state already
    return [token_positions(sample) + number * length for number, sample in enumerate(tokens.cpu())]


def choose_positions(row: Tensor, chosen: Chosen, what: str) -> Tensor:
    """Choose some of one sample's positions.

    Parameters
    ----------
    row : torch.Tensor
        (kept,), the positions of the modality's tokens.
    chosen : slice, sequence of int or torch.Tensor
        A slice, a bool mask or indices into `row`.
    what : str
        The name of the tokens, for error messages.

    Returns
    -------
    torch.Tensor
        The chosen positions.

    Raises
    ------
    ValueError
        A choice is out of range.
    """
    if isinstance(chosen, slice):
        return row[chosen]
    try:
        return row[torch.as_tensor(chosen).cpu()]
    except IndexError as error:
        raise ValueError(f"the tokens chosen do not fit a sample of {len(row)} {what}: {error}") from None


def _run(rows: list[Tensor]) -> tuple[int, int, int] | None:
    """Return the stretch that all samples have in common, which a slice reads without a copy, or None."""
    starts = [int(row[0]) for row in rows]
    stride = starts[1] - starts[0] if len(rows) > 1 else 0
    start, length = starts[0], len(rows[0])
    if stride < 0 or (len(rows) > 1 and start + length > stride):
        return None
    for sample, row in enumerate(rows):
        if len(row) != length or not torch.equal(row, torch.arange(length) + start + sample * stride):
            return None
    return start, start + length, stride
