"""Find which text tokens of a denoiser are words of the prompt: no padding, special tokens or template around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Read = Sequence[tuple[Tensor, Tensor | None]]  # token ids (batch, token) and attention mask of each text encoder's call


def word_mask(read: Read, empty: Read, length: int) -> Tensor:
    """Return which of a denoiser's text tokens are words of the prompt.

    Parameters
    ----------
    read : sequence of (Tensor, Tensor or None)
        Token ids (batch, token) and attention mask of each text encoder's call.
    empty : sequence of (Tensor, Tensor or None)
        The same of the empty prompt, of one sample.
    length : int
        How many text tokens the denoiser has.

    Returns
    -------
    Tensor
        Mask (batch, length).

    Notes
    -----
    A token is a word where the prompt's ids differ from those that the same pipeline makes of the empty prompt
    (`empty`): what both begin and end with is template, special tokens and padding. The denoiser's text
    tokens are those of the encoder that read as many, or of all encoders one after the other (encoders that read
    equally many share their tokens), or of the longest with its first tokens, a template, cut off.
    """
    words = [_words(ids, mask, empty[i][0], empty[i][1]) for i, (ids, mask) in enumerate(read)]
    lengths = [ids.shape[1] for ids, _ in read]
    batch = read[0][0].shape[0]
    mask = torch.zeros(batch, length, dtype=torch.bool)
    if length in lengths:
        parts = {0: [w for w, n in zip(words, lengths) if n == length]}
    elif sum(set(lengths)) <= length:
        starts, start = {}, 0
        for count in dict.fromkeys(lengths):
            starts[count], start = start, start + count
        parts = {start: [w for w, n in zip(words, lengths) if n == count] for count, start in starts.items()}
    else:
        longest = lengths.index(max(lengths))
        ids, given = read[longest]
        real = max(ids.shape[1] if given is None else int(given.sum(1).max()), 0)
        cut = real - length if real > length else lengths[longest] - length
        parts = {-cut: [words[longest]]}
    for start, samples in parts.items():
        for places in samples:
            for row, positions in enumerate(places):
                mask[row, [start + position for position in positions if 0 <= start + position < length]] = True
    return mask


def _words(ids: Tensor, mask: Tensor | None, empty_ids: Tensor, empty_mask: Tensor | None) -> list[range]:
    """Return the positions of each sample's words."""
    blank: list[int] = empty_ids[0].tolist()
    left = blank[:1] == blank[1:2]
    pad = (blank[0], None) if left else (None, blank[-1])  # what the empty prompt is padded with, left or right
    bare = _real(blank, None if empty_mask is None else empty_mask[0], pad)[1]
    found = []
    for row in range(len(ids)):
        start, real = _real(ids[row].tolist(), None if mask is None else mask[row], pad)
        before = 0
        while before < min(len(real), len(bare)) and real[before] == bare[before]:
            before += 1
        after = 0
        while after < min(len(real), len(bare)) - before and real[-1 - after] == bare[-1 - after]:
            after += 1
        found.append(range(start + before, start + len(real) - after))
    return found


def _real(ids: list[int], mask: Tensor | None, pad: tuple[int | None, int | None]) -> tuple[int, list[int]]:
    """Return where the tokens that are not padding start, and these tokens."""
    if mask is not None:
        kept = [place for place, real in enumerate(mask.tolist()) if real]
        return (kept[0], ids[kept[0] : kept[-1] + 1]) if kept else (0, [])
    start, end = 0, len(ids)
    while end and ids[end - 1] == pad[1]:
        end -= 1
    while start < end and ids[start] == pad[0]:
        start += 1
    return start, ids[start:end]
