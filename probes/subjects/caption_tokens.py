"""Find which tokens of the text inputs are a caption's own, by asking for the inputs of longer captions.

A chat template, a system prompt or examples stand around a caption. A word is put before the caption, and another one
behind it: the tokens before the first difference, and behind the last, are template. No model runs for this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .caption_places import ending_like, is_ambiguous, is_merged, own_places, tokens_of, without_padding
from .input_changes import Inputs, Rows, padding_of

Ask = Callable[[Sequence[int], Sequence[str]], Inputs]  # places of samples, and captions to show in their stead
Divide = Callable[[Inputs, int], Mapping[str, Rows]]  # inputs and number of samples -> rows of each, by text input
Mask = Tensor | list[Tensor]

# Unlike one another, and rare in captions: two in front, four behind, of which each pair ends in other letters.
WORDS = ("quartz", "falcon", "jumped", "bishop", "tundra", "monkey")
OTHERS = (f"{WORDS[4]} {WORDS[5]}", f"{WORDS[3]} {WORDS[0]}")


class CannotAsk(Exception):
    """Report that there are no inputs for other captions: they are looked up by captions or words that are known."""


class CaptionTokens(NamedTuple):
    """The captions' own tokens among the text inputs of one batch.

    Attributes
    ----------
    own : dict of torch.Tensor or list of torch.Tensor
        By the name of the input, a bool mask over its tokens: (batch, token), or one for each sample. Inputs that have
        no token axis are left out.
    cut : tuple of int
        The samples whose caption is longer than what the inputs hold of it.
    """

    own: dict[str, Mask]
    cut: tuple[int, ...] = ()


class Sequences(NamedTuple):
    """The token sequences of one input, without the padding that a mask tells.

    Attributes
    ----------
    tokens : list of list
        Of each sample.
    places : list of list of int
        Where each token stands in the flattened input.
    """

    tokens: list[list[Any]]
    places: list[list[int]]


def search_captions(
    ask: Ask, captions: Sequence[str], inputs: Inputs, names: Sequence[str], divide: Divide, asked: bool = False
) -> CaptionTokens | None:
    """Find the captions' own tokens among text inputs.

    Parameters
    ----------
    ask, captions, inputs, names, divide
        As `CaptionSearch` takes them.
    asked : bool
        Whether `ask` shows captions otherwise than `inputs` does, such as without noise. Then it is asked for these
        captions too, and tokens stand in the same places.

    Returns
    -------
    CaptionTokens or None
        None where it cannot be told.
    """
    shown = inputs
    if asked:
        try:
            shown = ask(range(len(captions)), captions)
        except CannotAsk:
            return None
    if any(_shape(shown.get(name)) != _shape(inputs[name]) for name in names):
        return None
    return CaptionSearch(ask, captions, shown, names, divide).find()


@dataclass
class CaptionSearch:
    """Ask for the inputs of other captions, and compare.

    Parameters
    ----------
    ask : callable
        `ask(places, captions)` returns the inputs for other captions of some samples, or raises `CannotAsk`.
    captions : sequence of str
        The captions that `inputs` shows.
    inputs : mapping
        The keyword arguments of one call.
    names : sequence of str
        The names of its text inputs.
    divide : callable
        `divide(inputs, samples)` returns the rows of each sample in each text input (`sample_rows.divide_inputs`).

    Attributes
    ----------
    alone : bool
        Whether each sample is asked for alone: where no mask tells padding, one sample has none.
    ambiguous : set of int
        The samples in which the word that was added is like a token beside it (unknown words to a small vocabulary), so
        that a word of the caption has to be tried.
    merged : set of int
        The samples in which the word may have become one with letters of the template behind it, so that another one
        has to be tried.
    full : dict of bool
        For the samples to which nothing can be added, whether it is the end behind the caption that is full.
    """

    ask: Ask
    captions: Sequence[str]
    inputs: Inputs
    names: Sequence[str]
    divide: Divide
    alone: bool = field(init=False)
    ambiguous: set[int] = field(default_factory=set, init=False)
    merged: set[int] = field(default_factory=set, init=False)
    full: dict[int, bool] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        values = [value for name in self.names if isinstance(value := self.inputs[name], Tensor)]
        ids = [value for value in values if value.ndim == 2 and not value.is_floating_point()]
        self.alone = len(self.captions) > 1 and any(_padding(self.inputs, value.shape) is None for value in ids)

    def find(self) -> CaptionTokens | None:
        """Find the captions' own tokens.

        Returns
        -------
        CaptionTokens or None
            None where it cannot be told: there are no inputs for other captions, or they have the same tokens.
        """
        found: dict[str, list[set[int]]] = {}
        with suppress(CannotAsk):
            found = self._compare(_unlike_words)
        doubts = ((self.ambiguous, _own_words), (self.merged, _other_words))
        for samples, words in doubts:
            again: dict[str, list[set[int]]] = {}
            if samples or not found:
                with suppress(CannotAsk):
                    again = self._compare(words)
            for name in found.keys() & again.keys():
                for sample in samples:
                    found[name][sample] = found[name][sample] & again[name][sample] or found[name][sample]
            found = found or again
        if not found:
            return None
        own = {name: _as_mask(self.inputs[name], kept) for name, kept in found.items()}
        return CaptionTokens(own, self._cut())

    def _compare(self, words: Callable[[str, bool], str]) -> dict[str, list[set[int]]]:
        """Return each caption's places in each input, by captions with a word in front and behind; {} if none tells."""
        front, behind = ([_joined(words(c, end), c, end) for c in self.captions] for end in (False, True))
        here, before, after = self._here(), self._rows(front), self._rows(behind)
        others: list[dict[str, Sequences]] = []
        own: dict[str, list[set[int]]] = {}
        depends, ambiguous, merged = False, set(), set()
        for name in here.keys() & before.keys() & after.keys():
            own[name] = []
            for number, tokens in enumerate(here[name].tokens):
                rows, skipped = without_padding((tokens, before[name].tokens[number], after[name].tokens[number]))
                row, longer_front, longer_behind = rows
                same_front, same_behind = longer_front == row, longer_behind == row
                depends |= not (same_front and same_behind)
                if is_ambiguous(row, longer_front) or is_ambiguous(row, longer_behind):
                    ambiguous.add(number)
                elif is_merged(row, longer_behind):
                    merged.add(number)
                replaced: list[list[Any]] = []
                if not len(longer_front) > len(row) < len(longer_behind):
                    others = others or [self._rows([text] * len(self.captions)) for text in OTHERS]
                    replaced = [ending_like(row, rows[name].tokens[number]) for rows in others if name in rows]
                if same_front != same_behind and any(other != row for other in replaced):
                    self.full[number] = same_behind
                places = own_places(row, longer_front, longer_behind, replaced)
                own[name].append({here[name].places[number][skipped + place] for place in places})
        if words is _unlike_words:
            self.ambiguous, self.merged = ambiguous, merged
        return own if depends else {}

    def _cut(self) -> tuple[int, ...]:
        """Return the samples that are cut, of those to which nothing can be added: with less they are the same."""
        cut: set[int] = set()
        here = self._here() if self.full else {}
        for shorter in (without_word, without_letter):
            if left := self.full.keys() - cut:
                captions = enumerate(self.captions)
                texts = [shorter(text, self.full[n]).strip() or text if n in left else text for n, text in captions]
                there = {}
                with suppress(CannotAsk):
                    there = self._rows(texts)
                for name in here.keys() & there.keys():
                    alike = {n for n in left if here[name].tokens[n] == there[name].tokens[n]}
                    cut |= {number for number in alike if texts[number] != self.captions[number]}
        return tuple(sorted(cut))

    def _here(self) -> dict[str, Sequences]:
        """Return the sequences of the inputs as they are, each sample's as it is without padding where it is alone."""
        found = self._sequences(self.inputs, len(self.captions))
        if self.alone:
            for name, rows in self._rows(self.captions).items():
                if name in found:
                    found[name] = _located(found[name], rows.tokens)
        return found

    def _rows(self, captions: Sequence[str]) -> dict[str, Sequences]:
        """Return the sequences of the inputs of other captions."""
        count = len(captions)
        if not self.alone:
            return self._sequences(self.ask(range(count), captions), count)
        singles = [self._sequences(self.ask([place], [caption]), 1) for place, caption in enumerate(captions)]
        names = set.intersection(*(set(single) for single in singles))
        return {
            name: Sequences(
                [single[name].tokens[0] for single in singles], [single[name].places[0] for single in singles]
            )
            for name in names
        }

    def _sequences(self, inputs: Inputs, samples: int) -> dict[str, Sequences]:
        """Return each sample's token sequence in the text inputs that have a token axis."""
        rows = self.divide(inputs, samples)
        found = {}
        for name in self.names:
            value = inputs.get(name)
            if isinstance(value, list | tuple):  # one tensor for each sample
                if len(value) == samples and all(isinstance(part, Tensor) and part.ndim for part in value):
                    found[name] = Sequences([tokens_of(part) for part in value], [list(range(len(p))) for p in value])
            elif isinstance(value, Tensor) and name in rows:
                axes = value.ndim - value.is_floating_point()  # (token,) or (sample, token)
                if axes in (1, 2) and rows[name].axis < axes:
                    found[name] = _split(value, axes, rows[name], _padding(inputs, value.shape[:axes]))
        return found


def _split(value: Tensor, axes: int, rows: Rows, padding: Tensor | None) -> Sequences:
    """Return the sequence of each sample in a tensor whose first one or two axes are its tokens'."""
    flat, found = value.flatten(0, axes - 1), Sequences([], [])
    places = torch.arange(len(flat)).view(value.shape[:axes])
    for part in places.split(rows.counts.tolist(), rows.axis):
        kept = part.flatten() if padding is None else part[~padding.flatten()[part]]
        found.tokens.append(tokens_of(flat[kept.to(flat.device)]))
        found.places.append(kept.tolist())
    return found


def _located(rows: Sequences, alone: Sequence[list[Any]]) -> Sequences:
    """Return where each sample's sequence stands in its row of a batch, which is padded at one of its ends."""
    places = []
    for row, place, tokens in zip(rows.tokens, rows.places, alone, strict=True):
        count = len(tokens)
        if row[:count] == tokens:
            places.append(place[:count])
        elif row[len(row) - count :] == tokens:
            places.append(place[len(row) - count :])
        else:
            raise CannotAsk
    return Sequences(list(alone), places)


def _padding(inputs: Inputs, shape: Sequence[int]) -> Tensor | None:
    """Return the padding of an input of this shape, as the masks over the same tokens say it, or None."""
    found = None
    for name, mask in inputs.items():
        padding = padding_of(name, mask)
        if padding is not None and padding.shape == shape:
            found = padding if found is None else found | padding
    return None if found is None else found.cpu()


def _as_mask(value: Any, kept: Sequence[set[int]]) -> Mask:
    """Return a mask over the tokens of an input that holds at some places of each sample."""
    if not isinstance(value, Tensor):
        lengths = [len(part) for part in value]
        return [torch.zeros(n).bool().index_fill(0, _index(row), True) for n, row in zip(lengths, kept, strict=True)]
    shape = value.shape[: value.ndim - value.is_floating_point()]
    return torch.zeros(shape.numel()).bool().index_fill(0, _index(set().union(*kept)), True).view(shape)


def _index(places: set[int]) -> Tensor:
    return torch.tensor(sorted(places), dtype=torch.int64)


def _joined(word: str, text: str, end: bool) -> str:
    return " ".join(part for part in ((text, word) if end else (word, text)) if part.strip())


def _unlike_words(text: str, end: bool) -> str:
    """Return a word that is no part of a caption."""
    choice = WORDS[2:4] if end else WORDS[:1] + WORDS[4:]
    return next((word for word in choice if word not in text.lower()), choice[0])


def _other_words(text: str, end: bool) -> str:
    """Return further words that are no part of a caption."""
    choice = WORDS[4:] if end else WORDS[1:3]
    return next((word for word in choice if word not in text.lower()), choice[0])


def _own_words(text: str, end: bool) -> str:
    """Return a word of a caption, another one than that at this end of it where there is one."""
    words = text.split() or [""]
    beside = words[-1 if end else 0]
    return next((word for word in words if word != beside), beside)


def without_word(text: str, end: bool = True) -> str:
    """Return a caption without its last word, or its first."""
    words = text.split()
    return " ".join(words[:-1] if end else words[1:])


def without_letter(text: str, end: bool = True) -> str:
    """Return a caption without its last letter, or its first."""
    return text.rstrip()[:-1] if end else text.lstrip()[1:]


def _shape(value: Any) -> Any:
    return [_shape(part) for part in value] if isinstance(value, list | tuple) else getattr(value, "shape", None)
