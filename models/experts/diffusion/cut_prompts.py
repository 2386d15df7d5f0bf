"""Find which prompts a pipeline cuts: less of them gives its text encoders the same tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ....probes.subjects.caption_tokens import without_letter, without_word
from .prompt_words import EncoderCall, real_tokens


def cut_prompts(
    read: Sequence[EncoderCall],
    prompts: Sequence[str],
    again: Callable[[list[str]], Sequence[EncoderCall]],
    pads: dict[str, int],
) -> tuple[tuple[int, ...], int | None]:
    """Find the prompts that are longer than what a text encoder reads of them.

    Parameters
    ----------
    read : sequence of EncoderCall
        The calls of the text encoders for the prompts.
    prompts : sequence of str
        The prompts.
    again : callable
        `again(prompts)` returns the calls for other prompts, as many. It is asked where an encoder's row is full.
    pads : dict of str to int
        The token that each encoder's tokenizer pads with.

    Returns
    -------
    cut : tuple of int
        Their places in the batch.
    limit : int or None
        The number of tokens that the first of them was cut at.
    """
    rows = _rows(read, len(prompts))
    full = {
        (sample, number)
        for sample, calls in enumerate(rows)
        for number, (call, row) in enumerate(calls)
        if real_tokens(call, row, pads)[2]
    }
    cut: dict[int, int] = {}
    for shorter in (without_word, without_letter):
        left = {sample for sample, _ in full} - cut.keys()
        if not left:
            break
        texts = [shorter(text).strip() or text if n in left else text for n, text in enumerate(prompts)]
        there = _rows(again(texts), len(prompts))
        for sample, number in sorted(full):
            if sample in left and texts[sample] != prompts[sample] and number < len(there[sample]):
                (call, row), (other, at) = rows[sample][number], there[sample][number]
                if call.ids[row].tolist() == other.ids[at].tolist():
                    cut.setdefault(sample, call.ids.shape[1])
    return tuple(sorted(cut)), next(iter(cut.values()), None)


def _rows(read: Sequence[EncoderCall], samples: int) -> list[list[tuple[EncoderCall, int]]]:
    """Return the rows that hold each sample, in the order of the calls: a batch, or one prompt after the other."""
    found: list[list[tuple[EncoderCall, int]]] = [[] for _ in range(samples)]
    counts, seen = Counter(call.encoder for call in read), Counter()
    for call in read:
        if len(call.ids) == samples:
            for row in range(samples):
                found[row].append((call, row))
        elif len(call.ids) == 1 and counts[call.encoder] % samples == 0:
            found[seen[call.encoder] * samples // counts[call.encoder]].append((call, 0))
        seen[call.encoder] += 1
    return found
