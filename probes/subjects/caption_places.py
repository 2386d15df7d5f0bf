"""Find the places that a caption fills in a row of tokens, from rows of longer captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from torch import Tensor

SAME = 1e-4  # text states that differ by less than this share of the largest value are the same token


def own_places(row: list, front: list, behind: list, replaced: Sequence[list]) -> list[int]:
    """Return the places in a row that its caption fills.

    Parameters
    ----------
    row : list
        The tokens, without padding.
    front, behind : list
        Those with a word before, or behind, the caption.
    replaced : sequence of list
        Those of other, short captions. They are needed where a row does not grow with its caption.

    Returns
    -------
    list of int
        The places; none where the row does not depend on the caption.
    """
    if front == row and behind == row and all(other == row for other in replaced):
        return []  # this row does not depend on the caption
    grows_front, grows_behind = len(front) > len(row), len(behind) > len(row)
    # Where a row is full already, what is added pushes its end out: another, short caption tells where that begins.
    start, end = _prefix(row, front), len(row) - _suffix(row, behind)
    if grows_front:
        start = min(start, len(row) - _suffix(row, front))
    elif replaced:
        start = min(_prefix(row, other) for other in replaced)
    if grows_behind:
        # States of text that a causal encoder has read differ everywhere behind the word.
        causal = not _are_ids(row) and _prefix(row, behind) > start and not _suffix(row, behind)
        end = _prefix(row, behind) if causal else max(end, _prefix(row, behind))
    elif replaced:
        end = len(row) - min(_suffix(row, other) for other in replaced)
    if end < start:  # a caption of repeated tokens: each of the two ends takes part of it
        start, end = end, start
    slots = _slots(row, front, behind) if grows_front and grows_behind and _are_ids(row) else []
    return [place for first, last in slots or [(start, end)] for place in range(first, last)]


def is_ambiguous(row: list, longer: list) -> bool:
    """Return whether the tokens that a row has more may stand in several places: they are like their neighbours."""
    return len(longer) > len(row) and _prefix(row, longer) + _suffix(row, longer) > len(row)


def is_merged(row: list, behind: list) -> bool:
    """Return whether a token of a row is gone, where a word was added behind its caption."""
    return len(behind) > len(row) and _prefix(row, behind) + _suffix(row, behind) < len(row)


def tokens_of(value: Tensor) -> list[Any]:
    """Return ids, or text states that can be compared, (token, ...), as a list.

    Parameters
    ----------
    value : torch.Tensor
        (token,), or (token, dim) of floating point.

    Returns
    -------
    list
        One entry for each token.
    """
    return _Token.of(value) if value.is_floating_point() else value.tolist()


class _Token:
    """A text state that is equal to another one where they differ by no more than rounding."""

    def __init__(self, state: Tensor, limit: float) -> None:
        self.state, self.limit = state, limit

    @classmethod
    def of(cls, states: Tensor) -> list[_Token]:
        states = states.detach().float().cpu().flatten(1)
        limit = SAME * float(states.abs().max()) if states.numel() else 0.0
        return [cls(state, limit) for state in states]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Token) or self.state.shape != other.state.shape:
            return False
        return float((self.state - other.state).abs().max()) <= self.limit

    def __hash__(self) -> int:
        return 0


def _slots(row: list, front: list, behind: list) -> list[tuple[int, int]]:
    """Return start and end of each place where the caption stands, or nothing where it stands in one."""
    if all(_prefix(row, other) + _suffix(row, other) >= len(row) for other in (front, behind)):
        return []  # one insertion each
    starts = [first for first, _ in _insertions(row, front)]
    ends = [last for _, last in _insertions(row, behind)]
    # Letters of the added word may be taken for letters of the caption, and then it seems to be added in pieces.
    while len(starts) > len(ends) > 0:
        starts.pop(1 + min(range(len(starts) - 1), key=lambda place: starts[place + 1] - starts[place]))
    while len(ends) > len(starts) > 0:
        ends.pop(min(range(len(ends) - 1), key=lambda place: ends[place + 1] - ends[place]))
    pairs = list(zip(starts, ends, strict=True))
    apart = all(last <= following for (_, last), (following, _) in pairwise(pairs))
    return pairs if apart and all(first < last for first, last in pairs) else []


def _insertions(row: list, longer: list) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a row where another one has more tokens."""
    begin = _prefix(row, longer)
    end = min(_suffix(row, longer), len(row) - begin)
    inside = SequenceMatcher(None, row[begin : len(row) - end], longer[begin : len(longer) - end], autojunk=False)
    for tag, first, last, start, stop in inside.get_opcodes():
        if tag == "insert":
            yield _possible(row, begin + first, longer[begin + start : begin + stop])
        elif tag == "replace" and stop - start > last - first:
            yield begin + first, begin + last


def _possible(row: list, place: int, added: list) -> tuple[int, int]:
    """Return the first and the last place where the same tokens may have been added to a row."""
    first = last = place
    while first and row[first - 1] == added[(first - place - 1) % len(added)]:
        first -= 1
    while last < len(row) and row[last] == added[(last - place) % len(added)]:
        last += 1
    return first, last


def without_padding(rows: Sequence[list]) -> tuple[list[list], int]:
    """Cut padding that no mask tells, so that rows end alike, and say how much the first row lost in front.

    A row that is padded to a fixed length has fewer padding tokens where its caption is longer.
    """
    cut = [list(row) for row in rows]
    if not all(row and _are_ids(row) for row in cut):
        return cut, 0
    skipped = 0
    # A word in front leaves a run at the end as it is, unless the run is padding, and so on.
    for end, witness in ((True, 1), (False, len(rows) - 1)):
        runs = [_run(row if not end else row[::-1]) for row in cut]
        token = cut[0][-1 if end else 0]
        if any(row[-1 if end else 0] != token for row in cut) or runs[witness] >= runs[0]:
            continue
        lost = [run - min(runs) for run in runs]
        skipped += 0 if end else lost[0]
        cut = [row[: len(row) - n] if end else row[n:] for row, n in zip(cut, lost, strict=True)]
    return cut, skipped


def ending_like(row: list, other: list) -> list:
    """Cut padding at both ends of another row that this row does not have."""
    for _ in range(2):
        row, other = row[::-1], other[::-1]  # the end comes first in the first turn
        if row and other and _are_ids(row):
            run = _run(other)
            if other[0] == row[0]:
                other = other[max(0, run - _run(row)) :]
            elif len(other) == len(row) and run > 1:
                other = other[run:]
    return other


def _are_ids(row: list) -> bool:
    return all(isinstance(token, int) for token in row[:1])


def _run(row: list) -> int:
    return next((place for place, token in enumerate(row) if token != row[0]), len(row))


def _prefix(one: list, other: list) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _suffix(one: list, other: list) -> int:
    return _prefix(one[::-1], other[::-1])
