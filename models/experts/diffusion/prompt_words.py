"""Find which text tokens of a denoiser are words of the prompt: no padding, special tokens or template around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

PROBES = ("7", "yes")  # prompts that differ from each other in their first and in their last token


class EncoderCall(NamedTuple):
    """Hold one call of a text encoder.

    Attributes
    ----------
    encoder : str
        What the pipeline calls the encoder.
    ids : Tensor
        Token ids (batch, token).
    mask : Tensor or None
        The attention mask, where one was passed.
    output : Any
        What the encoder returned, with tensors on the meta device.
    """

    encoder: str
    ids: Tensor
    mask: Tensor | None
    output: Any = None


def own_tokens(real: Sequence[int], others: Sequence[Sequence[int]], full: bool = False) -> range:
    """Return which tokens are a prompt's own, by comparing them with those of other prompts.

    Parameters
    ----------
    real : sequence of int
        Token ids without padding.
    others : sequence of sequence of int
        The same of other prompts, which differ from each other in their first and in their last word.
    full : bool
        Whether the prompt may have been cut at a maximum length, so that what stands behind others is cut too.

    Returns
    -------
    range
        Positions.

    Notes
    -----
    What all prompts begin with and end with is template and special tokens.
    """
    before = min(_shared(real, other) for other in others)
    first, *rest = others
    common = min((_shared(first[::-1], other[::-1]) for other in rest), default=0)
    template = list(first[len(first) - min(common, len(first) - min(before, len(first))) :])
    left = list(real[before:])
    after = _shared(left[::-1], template[::-1])
    if full and after < len(template):
        after = max(n for n in range(len(template) + 1) if n <= len(left) and left[len(left) - n :] == template[:n])
    return range(before, len(real) - after)


def word_table(read: Sequence[EncoderCall], others: Sequence[Sequence[EncoderCall]], pads: dict[str, int]) -> Tensor:
    """Return which tokens that text encoders read are words of the prompts.

    Parameters
    ----------
    read : sequence of EncoderCall
        For a batch of prompts. An encoder may read the batch at once, or prompt by prompt.
    others : sequence of sequence of EncoderCall
        For each other prompt, its calls.
    pads : dict of str to int
        The token that each encoder's tokenizer pads with.

    Returns
    -------
    Tensor
        Mask (batch, 1 + token), over the tokens of all calls one after the other; the first place stands for none.
    """
    count = max(len(call.ids) for call in read)
    each = [call.encoder for call in read].count(read[0].encoder)
    single = count == 1 and each > len([c for c in others[0] if c.encoder == read[0].encoder])
    rows = each if single else count
    table, start = torch.zeros(rows, 1 + sum(call.ids.shape[1] for call in read), dtype=torch.bool), 1
    seen: dict[str, int] = {}
    for call in read:
        place = seen.get(call.encoder, 0)
        seen[call.encoder] = place + 1
        peers = [[c for c in other if c.encoder == call.encoder] for other in others]
        if all(peers):
            turn, row = divmod(place, len(peers[0])) if single else (0, place)
            bare = [real_tokens(peer[row % len(peer)], 0, pads)[1] for peer in peers]
            for sample in range(len(call.ids)):
                places, real, full = real_tokens(call, sample, pads)
                own = own_tokens(real, bare, full)
                table[turn if single else sample, [start + places[position] for position in own]] = True
        start += call.ids.shape[1]
    return table


def real_tokens(call: EncoderCall, row: int, pads: dict[str, int]) -> tuple[list[int], list[int], bool]:
    """Return the tokens that are not padding.

    Parameters
    ----------
    call : EncoderCall
        One call.
    row : int
        Of its batch.
    pads : dict of str to int
        The token that each encoder's tokenizer pads with.

    Returns
    -------
    places : list of int
        Where they are: padding may stand at an end, or between the prompt and what follows it (LongCat-Image).
    real : list of int
        Token ids.
    full : bool
        Whether they fill the row, so that the prompt may have been cut.
    """
    ids: list[int] = call.ids[row].tolist()
    if call.mask is not None and call.mask.dim() == 2:
        kept = call.mask[row].nonzero()[:, 0].tolist()
        return kept, [ids[place] for place in kept], len(kept) == len(ids)
    pad, start, end = pads.get(call.encoder), 0, len(ids)
    while end and ids[end - 1] == pad:
        end -= 1
    while start < end and ids[start] == pad:
        start += 1
    return list(range(start, end)), ids[start:end], end - start >= len(ids) - 1  # CLIP pads with its end token


def tagged(calls: Sequence[EncoderCall], digit: int | None) -> list[Any]:
    """Return what text encoders would return if the states of each token were its number.

    Parameters
    ----------
    calls : sequence of EncoderCall
        In order; tokens are numbered from 1, over all calls.
    digit : int or None
        0 or 1: the lower or the upper digit of the number, to base 256, which half precision holds exactly.

    Returns
    -------
    list
        One output a call.
    """
    outputs, start = [], 1
    for call in calls:
        length = call.ids.shape[1]
        numbers = torch.arange(start, start + length)
        numbers = numbers if digit is None else numbers // 256**digit % 256

        def tag(leaf: Any, numbers: Tensor = numbers, call: EncoderCall = call) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                return leaf
            filled = torch.zeros(leaf.shape, dtype=leaf.dtype, device=call.ids.device)
            if leaf.dim() == 3 and leaf.shape[1] == len(numbers):
                filled += numbers.to(filled)[None, :, None]
            return filled

        outputs.append(mapped(tag, call.output))
        start += length
    return outputs


def mapped(change: Any, value: Any) -> Any:
    """Return an encoder's output with `change` applied to what it holds.

    Parameters
    ----------
    change : callable
        Of one leaf.
    value : Any
        Tensors, in tuples, lists or mappings or alone.

    Returns
    -------
    Any
        Of the same form.
    """
    if isinstance(value, dict):  # transformers' outputs are dicts whose fields are set too
        return type(value)(**{name: mapped(change, part) for name, part in value.items()})
    if isinstance(value, tuple | list):
        return type(value)([mapped(change, part) for part in value])
    return change(value)


def tensors(value: Any) -> list[Tensor]:
    """Return the floating-point tensors of an encoder's output.

    Parameters
    ----------
    value : Any
        Tensors, in tuples, lists or mappings or alone.

    Returns
    -------
    list of Tensor
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in tensors(part)]
    return [value] if isinstance(value, Tensor) and value.is_floating_point() else []


def words_among(states: Tensor, table: Tensor) -> Tensor | None:
    """Return which of a denoiser's text tokens are words, where their states are numbers of the encoders' tokens.

    Parameters
    ----------
    states : Tensor
        (batch, token, dim): numbers, as `tagged` gives them, from one or several encoders.
    table : Tensor
        As `word_table` returns it.

    Returns
    -------
    Tensor or None
        Mask (batch, token). None where these are no such numbers: the pipeline computes with the encoders' states.
    """
    numbers = states.float().round()
    if not torch.equal(numbers, states.float()) or float(numbers.min()) < 0 or float(numbers.max()) >= table.shape[1]:
        return None
    index = numbers.long().flatten(1).cpu()
    return table.gather(1, index).view(numbers.shape).any(-1)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count
