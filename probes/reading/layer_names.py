"""Name the layers that an extraction reads: blocks, sites, and the turns of blocks that run several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ..arguments import shown
from ..hooks.capturing import EMBEDDINGS
from ..subjects.subject import Subject
from .sites import find_site


def layer_paths(subject: Subject, layers: Sequence[str] | None) -> dict[str, str]:
    """Return the names of the layers and sites that are asked for, in depth order, with their paths in the model.

    Parameters
    ----------
    subject : Subject
        What is probed.
    layers : sequence of str or None
        Names ("embeddings", "0", "1", ...), sites (`find_site`) or paths in the model; None for all layers.

    Returns
    -------
    dict of str to str
        The path of each layer, by name.

    Raises
    ------
    ValueError
        The subject has no such layer, or `layers` is not a list of names.
    """
    known = {EMBEDDINGS: EMBEDDINGS} | {str(number): path for number, path in enumerate(subject.blocks)}
    if layers is None:
        return known
    try:
        named = [] if isinstance(layers, str | bytes | Mapping) else list(layers)
    except TypeError:  # no iterable, or an array without an axis
        named = []
    if not named or not all(isinstance(name, str | int) and not isinstance(name, bool) for name in named):
        raise ValueError(f"layers is {shown(layers)}: expected a list of names such as ['embeddings', '7']")
    names = {path: name for name, path in known.items()}
    paths = {}
    for asked in dict.fromkeys(str(name) for name in layers):
        place, turn = split_turn(asked)
        name = names.get(place, place)
        try:
            path = known[name] if name in known else find_site(subject.model, subject.blocks, name).path
        except ValueError as error:
            raise ValueError(f"{subject.name} has no layer {asked!r}: {error}") from None
        paths[f"{name}@{turn}" if turn else name] = path
    return dict(sorted(paths.items(), key=lambda layer: layer_depth(subject, layer[0])))


def split_turn(name: str) -> tuple[str, int]:
    """Return a layer's name without its turn, and the turn, 0 where none is named: "4@2" is block 4 at its second."""
    place, _, turn = name.rpartition("@")
    return (place, int(turn)) if place and turn.isdigit() else (name, 0)


def layer_depth(subject: Subject, name: str) -> float:
    """Return the relative depth of a layer or site, 0 = embeddings, 1 = last block.

    Parameters
    ----------
    subject : Subject
        What is probed.
    name : str
        A name that `layer_paths` returns.

    Returns
    -------
    float
        The depth.
    """
    name = split_turn(name)[0]
    if name == EMBEDDINGS or name.isdigit():
        return 0.0 if name == EMBEDDINGS else (int(name) + 1) / len(subject.blocks)
    return find_site(subject.model, subject.blocks, name).depth


class Turns:
    """Count the runs of each layer in one pass, and name them.

    Parameters
    ----------
    blocks : sequence of str
        The paths of the subject's blocks.
    fractions : mapping of str to float
        For each path of a site, how far inside its block it stands.

    Attributes
    ----------
    counts : dict of int
        How often each path ran.
    """

    def __init__(self, blocks: Sequence[str], fractions: Mapping[str, float]) -> None:
        self.blocks, self.fractions = set(blocks), fractions
        self.counts: dict[str, int] = {}
        self._streams: dict[tuple[str, str | None], int] = {}
        self._places: dict[tuple[str, int], float] = {}  # counted in runs of blocks
        self._runs = 0

    def count(self, path: str, stream: str | None) -> int:
        """Count a state that was read, and return the turn that it belongs to, from 1."""
        turn = self._streams[path, stream] = self._streams.get((path, stream), 0) + 1
        if (path, turn) not in self._places:
            self.counts[path] = turn
            self._runs += path in self.blocks
            self._places[path, turn] = self._runs + self.fractions.get(path, 0.0)
        return turn

    def names(self, name: str, path: str) -> dict[str, int]:
        """Return the names of a layer's runs that are asked for, each with its turn: "4" alone, or "4@1", "4@2", ..."""
        place, wanted = split_turn(name)
        turns = [wanted] if wanted else range(1, self.counts.get(path, 0) + 1)
        return {place if self.counts.get(path) == 1 else f"{place}@{turn}": turn for turn in turns}

    def kept(self, subject: str, layers: Mapping[str, str], present: set[str]) -> dict[str, tuple[str, int]]:
        """Return path and turn of the runs that are asked for, by the names that they get, in the order of the pass.

        Parameters
        ----------
        subject : str
            The subject's name.
        layers : mapping of str to str
            The layers that are asked for, with their paths.
        present : set of str
            The paths that have states of the modality.
        """
        runs: dict[str, tuple[str, int]] = {}
        for layer, path in layers.items():
            for name, turn in self.names(layer, path).items() if path in present else ():
                if turn > self.counts[path]:
                    raise ValueError(
                        f"layer {layer!r} is asked for, but {path!r} of {subject} ran {self.counts[path]} times in a "
                        "pass: name a turn up to that"
                    )
                if path != EMBEDDINGS or turn == 1:
                    runs[layer if path == EMBEDDINGS else name] = (path, turn)
        if max(self.counts.values(), default=1) == 1:
            return runs
        return dict(sorted(runs.items(), key=lambda run: self.depth(*run[1])))

    def depth(self, path: str, turn: int) -> float:
        """Return the relative depth of a run among all runs of blocks in the pass."""
        return self._places[path, turn] / max(self._runs, 1)


def check_turns(
    subject: str,
    calls: int | str | None,
    turns: Turns,
    before: Mapping[str, float],
    now: Mapping[str, float],
    first: str,
) -> None:
    """Raise ValueError where blocks ran more or less often than asked for, or than in the batches before.

    Parameters
    ----------
    subject : str
        The subject's name.
    calls : int, "all" or None
        The option of `extract`.
    turns : Turns
        What ran in this pass.
    before, now : mapping of str to float
        The layers of the first pass and of this one.
    first : str
        The id of the first stimulus of the batch.
    """
    most = max(turns.counts.values())
    if calls not in (None, "all", most):
        raise ValueError(
            f"calls is {calls}, but a block of {subject} ran {most} times in a pass: ask for calls={most} or 'all'"
        )
    if list(before) != list(now):
        other = next(iter({*before} ^ {*now}))
        raise ValueError(
            f"blocks of {subject} run another number of times for stimulus {first!r} and its batch than before "
            f"({other!r} is there once and not always): extract stimuli that take as many turns by themselves"
        )


def once_each(model: nn.Module, blocks: Sequence[str]) -> list[str]:
    """Return the blocks without those that are the same module as an earlier one, with tied weights."""
    modules = {path: model.get_submodule(path) for path in blocks}
    first = {id(module): path for path, module in reversed(modules.items())}
    return [path for path, module in modules.items() if first[id(module)] == path]
