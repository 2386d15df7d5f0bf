"""Run a subject's pass over one stimulus as a function of the states that enter its first block.

captum needs a function of tensors, and modules in it whose outputs it can read and replace. Neither comes easily from a
model: its other inputs must grow with the steps of a path, blocks return tuples with a None in them, and the batch is
not always the first axis. So the subject itself shows the stimulus as many times as there are steps, and every layer's
states pass through an identity module, a `Tap`, with the steps in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..hooks.block_stacks import find_block
from ..hooks.capturing import EMBEDDINGS, capture
from ..hooks.hook_order import Reader
from ..private_names import tree_flatten, tree_unflatten
from ..stimuli.stimulus_set import Stimulus
from ..subjects.subject import ForwardPass, Subject

Output = Callable[[Any, Sequence[Stimulus], ForwardPass], Tensor]


class Tap(nn.Module):
    """An identity module that the states of one layer pass through."""

    def forward(self, *streams: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the states as they came.

        Parameters
        ----------
        *streams : Tensor
            One tensor (copy, ...) for each stream.

        Returns
        -------
        Tensor or tuple of Tensor
            The same.
        """
        return streams[0] if len(streams) == 1 else streams


class _Place(NamedTuple):
    """Where one stream of a layer is: which tensors of the flattened call or output, and its axis of samples."""

    stream: str | None
    leaves: tuple[int, ...]
    axis: int


class Replay:
    """A pass over one stimulus that can be run on other states than its own.

    `replay(*streams)` runs the pass on states (copy, *state), one tensor for each stream, and returns the output
    (copy,). The layer "embeddings" is what enters the first block.

    Parameters
    ----------
    subject : Subject
        The model that is probed.
    stimulus : Stimulus
        The image and text.
    output : callable
        A function (result, stimuli, shown) that returns one number for each copy, a tensor (copy,).
    task : str
        "understanding" or "generation".
    timestep : float, optional
        The timestep of the generation task.

    Attributes
    ----------
    layers : tuple of str
        "embeddings" and the paths of the blocks.
    inputs : tuple of Tensor
        The states that enter the first block, (1, *state) for each stream.
    streams : dict
        The names of the streams of each layer, in the order of its tap.
    taps : dict
        The module of each layer that captum attributes to.

    Raises
    ------
    RuntimeError
        If a layer's states cannot be found again among what its block is given or returns.
    """

    def __init__(
        self, subject: Subject, stimulus: Stimulus, output: Output, task: str, timestep: float | None = None
    ) -> None:
        self.subject, self.stimulus, self.output = subject, stimulus, output
        self.task, self.timestep = task, timestep
        self.layers = (EMBEDDINGS, *subject.blocks)
        self.taps = {layer: Tap() for layer in self.layers}
        self._showings: dict[int, ForwardPass] = {}
        once, twice = self._look(1), self._look(2)
        self._places = {layer: _places(layer, once[layer], twice[layer]) for layer in self.layers}
        self.streams = {layer: tuple(place.stream for place in places) for layer, places in self._places.items()}
        self.inputs = tuple(once[EMBEDDINGS][stream][1].detach()[None] for stream in self.streams[EMBEDDINGS])

    @property
    def shown(self) -> ForwardPass:
        """The stimulus, shown once; its `tokens` hold for each copy.

        Returns
        -------
        ForwardPass
            The pass of a single copy.
        """
        return self._shown(1)

    def _shown(self, copies: int) -> ForwardPass:
        if copies not in self._showings:
            repeated = [self.stimulus] * copies
            self._showings[copies] = self.subject.show(repeated, self.subject.modalities, self.task, self.timestep)
        return self._showings[copies]

    def __call__(self, *streams: Tensor) -> Tensor:
        copies = len(streams[0])
        shown = self._shown(copies)
        ran: set[str] = set()

        def through(layer: str, tree: Any, given: Sequence[Tensor] | None) -> Any:
            if layer in ran:
                raise RuntimeError(f"layer {layer!r} ran twice in one pass: it cannot be attributed to")
            ran.add(layer)
            leaves, spec = tree_flatten(tree)
            places = self._places[layer]
            if given is None:
                given = [_apart(leaves[place.leaves[0]], place.axis, copies) for place in places]
            out = self.taps[layer](*given)
            for place, state in zip(places, out if isinstance(out, tuple) else (out,), strict=True):
                for leaf in place.leaves:
                    leaves[leaf] = _together(state, place.axis)
            return tree_unflatten(leaves, spec)

        def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            return through(EMBEDDINGS, (args, kwargs), streams)

        def leave(layer: str) -> Callable[..., Any]:
            return lambda module, args, output: through(layer, output, None)

        model, blocks = self.subject.model, self.subject.blocks
        handles = []
        try:
            handles.append(find_block(model, blocks[0]).register_forward_pre_hook(enter, with_kwargs=True))
            handles += [find_block(model, path).register_forward_hook(Reader(leave(path))) for path in blocks]
            result = shown.run()
        finally:
            for handle in handles:
                handle.remove()
        value = self.output(result, [self.stimulus] * copies, shown)
        if not isinstance(value, Tensor):
            raise TypeError(f"output gave a {type(value).__name__}: expected a tensor, one number a sample")
        if value.shape != (copies,):
            raise ValueError(
                f"output gave {tuple(value.shape)} for a batch of {copies}: expected one number a sample, ({copies},)"
            )
        if value.is_complex() or not value.isfinite().all():
            raise ValueError(
                f"output gave {value.flatten()[0].item()} for {self.stimulus.id!r}: expected finite real numbers"
            )
        return value

    @torch.no_grad()
    def _look(self, copies: int) -> dict[str, dict[str | None, tuple[tuple[int, ...], Tensor]]]:
        """Run one untouched pass; return, for each layer and stream, the leaves that hold its state, and the state."""
        shown = self._shown(copies)  # before any hook is there: a subject may run the model to find its tokens
        found: dict[str, dict[str | None, tuple[tuple[int, ...], Tensor]]] = {layer: {} for layer in self.layers}
        flattened: dict[str, list[Any]] = {}

        def keep(layer: str, stream: str | None, state: Tensor) -> None:
            leaves = tuple(i for i, leaf in enumerate(flattened[layer]) if leaf is state or _same(leaf, state, layer))
            if not leaves:
                raise RuntimeError(f"the state of layer {layer!r} is not among what its block is given or returns")
            found[layer][stream] = leaves, state

        def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            leaves = tree_flatten((args, kwargs))[0]  # copied: a block may change its input in place
            flattened[EMBEDDINGS] = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]

        def leave(layer: str) -> Callable[..., None]:
            return lambda module, args, output: flattened.update({layer: tree_flatten(output)[0]})

        model, blocks = self.subject.model, self.subject.blocks
        handles = [find_block(model, blocks[0]).register_forward_pre_hook(enter, with_kwargs=True)]
        handles += [find_block(model, path).register_forward_hook(Reader(leave(path))) for path in blocks]
        try:
            with capture(model, self.layers, keep=keep):
                shown.run()
        finally:
            for handle in handles:
                handle.remove()
        return found


def _same(leaf: Any, state: Tensor, layer: str) -> bool:
    """Return whether a leaf is what enters the first block: that is captured as a copy, and known by its numbers."""
    return layer == EMBEDDINGS and isinstance(leaf, Tensor) and leaf.dtype == state.dtype and torch.equal(leaf, state)


def _places(layer: str, once: dict, twice: dict) -> tuple[_Place, ...]:
    """Find the axis of samples of each stream: the one that doubles when two copies are shown."""
    places = []
    for stream, (leaves, state) in once.items():
        both = twice[stream][1]
        doubled = [axis for axis, size in enumerate(state.shape) if both.shape[axis] == 2 * size]
        if both.ndim != state.ndim or both.numel() != 2 * state.numel() or len(doubled) != 1:
            raise RuntimeError(
                f"layer {layer!r} has states {tuple(state.shape)} for one sample and {tuple(both.shape)} for two: "
                "expected one axis to double"
            )
        places.append(_Place(stream, leaves, doubled[0]))
    return tuple(places)


def _apart(state: Tensor, axis: int, copies: int) -> Tensor:
    """Turn a batch of copies, as the model has it, into (copy, *state of one)."""
    return state.unflatten(axis, (copies, -1)).movedim(axis, 0)


def _together(state: Tensor, axis: int) -> Tensor:
    """Turn (copy, *state of one) into a batch of copies, as the model has it."""
    return state.movedim(0, axis).flatten(axis, axis + 1)
