"""Find which tokens of a stack's hidden states are image, text, time, padding or none of these, and their order.

Names and shapes of inputs do not tell where their tokens stand: a model may put the text first or last, pack samples
one after another, permute patches into windows or hold the batch second. So each input is changed in turn, and the
hidden states that enter a stack's first block are compared, before any attention has mixed them. The tokens that change
belong to that input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import checked
from ..hooks.block_stacks import find_stacks
from ..hooks.capturing import capture
from ..hooks.model_memory import forgetting
from .entering_states import (
    MOVED,
    Entrance,
    States,
    dim_axis,
    entering_streams,
    flatten_tokens,
    merge_residual_streams,
)
from .input_changes import Inputs, count_samples, data_inputs, special_ids, unchanged
from .sample_rows import divide_inputs
from .token_movement import Stream, TokenTracer, positions_by_sample

Streams = dict[str, dict[str | None, Stream]]  # by stack and name

LAYOUTS = 32  # that are remembered
NOISES = 4  # tensors of noise, as large as a batch, that are kept; the same are drawn again where they are not
TRIES = 2  # verifications that fail, after which a layout is found anew every time
PROJECTED = 8  # dims of a random projection, in which states are compared
ALIKE = 1e-3  # the largest difference between two responses to the same noise, over a token's largest
ROUNDED = 8  # the same where a format is coarse, in its steps
ASKED = ("stacks", "kinds", "residual_streams")  # arguments of `find_streams` that a layout depends on


def find_streams(
    model: nn.Module,
    inputs: Inputs,
    *,
    stacks: Mapping[str, Sequence[str]] | None = None,
    kinds: Mapping[str, str] | None = None,
    samples: int | None = None,
    own: Mapping[str, Any] | None = None,
    residual_streams: str | int | None = None,
) -> dict[str, dict[str | None, Stream]]:
    """Find the token streams of each stack that `model(**inputs)` runs.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    inputs : mapping
        The keyword arguments of one call.
    stacks : mapping, optional
        The stacks to look at, as `find_stacks` returns them; by default all.
    kinds : mapping of str to str, optional
        The kinds of inputs whose names do not tell, such as {"x": "image"}.
    samples : int, optional
        The size of the batch, where the inputs' first axis does not tell.
    own : mapping of str to torch.Tensor, optional
        By text input, the tokens that are the captions' own (`caption_tokens.CaptionSearch`). Other words are of
        the kind "template". By default all words are text.
    residual_streams : str or int, optional
        What becomes of the states of a token where the model keeps several (hyper-connections): "mean" or the number of
        one. Without it such a model is refused.

    Returns
    -------
    dict of dict of Stream
        For each stack, in depth order, its streams by name. The name is None where there is one stream.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        An input is neither image nor text by its name or by `kinds`; or the model keeps several states of each token,
        and nothing says what becomes of them.

    See Also
    --------
    find_stacks : Lists the stacks without running the model.
    AnyModel : Finds the streams of every batch by itself.

    Examples
    --------
    >>> find_streams(llava, inputs)["model.language_model.layers"][None].positions["image"]
    tensor([[ 3,  4, ..., 18], [27, 28, ..., 42]])          # two samples of 24 tokens
    """
    checked("model", model, nn.Module, remedy="pass a torch module")
    checked("inputs", inputs, Mapping, remedy="name what the model is called with")
    data = data_inputs(inputs, kinds or {})
    samples = samples or count_samples(inputs)
    rows = divide_inputs(model, inputs, data, samples)
    found: dict[str, dict[str | None, Stream]] = {}
    before: dict[str, Sequence[str]] = {}
    with torch.no_grad():
        for path, blocks in (stacks or find_stacks(model)).items():
            states = entering_streams(model, blocks[0], inputs)
            if states is not None:
                block = model.get_submodule(blocks[0])
                found[path] = {}
                for name, state in states.items():
                    axis, asked = dim_axis(block, state), (own, residual_streams)
                    tracer = TokenTracer(model, blocks[0], name, axis, inputs, data, rows, samples, *asked)
                    found[path][name] = tracer.read(state)
                if any("mixed" in stream.positions for stream in found[path].values()):
                    carried = _carried(model, inputs, samples, before, found, states)
                    found[path] = carried or found[path]
                before[path] = blocks
    return found


def _carried(
    model: nn.Module,
    inputs: Inputs,
    samples: int,
    before: Mapping[str, Sequence[str]],
    found: Mapping[str, Mapping[str | None, Stream]],
    states: States,
) -> dict[str | None, Stream] | None:
    """Return the streams of a stack whose tokens earlier stacks have mixed.

    Its tokens are recognised among the tokens of earlier stacks' output. The result is None where one is not found.
    """
    labels: dict[bytes, tuple[str, int]] = {}  # a token's values -> kind, sample
    for path, blocks in before.items():
        with forgetting(model), capture(model, [blocks[-1]]) as taps:
            model(**unchanged(inputs))
        tap: Any = taps[blocks[-1]]
        for name, state in (tap if isinstance(tap, dict) else {None: tap}).items():
            if name in found[path]:
                rows = _rows(state, found[path][name].dim_axis)
                labels |= dict(zip(rows, _labels(found[path][name], len(rows), samples), strict=False))
    carried: dict[str | None, Stream] = {}
    for name, state in states.items():
        like = [s for streams in found.values() for s in streams.values() if len(s.shape) == state.ndim]
        axis = like[0].dim_axis if like else state.ndim - 1
        known = [labels.get(row) for row in _rows(state, axis)]
        if None in known:
            return None
        kinds, owner = [label[0] for label in known if label], torch.tensor([label[1] for label in known if label])
        masks = {kind: torch.tensor([other == kind for other in kinds]) for kind in dict.fromkeys(kinds)}
        positions = {kind: positions_by_sample(mask, owner, samples) for kind, mask in masks.items()}
        carried[name] = Stream(positions, tuple(state.shape), axis)
    return carried


def _rows(state: Tensor, axis: int) -> list[bytes]:
    """Return the values of each token."""
    return [row.tobytes() for row in flatten_tokens(state, axis).cpu().numpy()]


def _labels(stream: Stream, count: int, samples: int) -> list[tuple[str, int]]:
    """Return kind and sample of each token that a stack returns, from those of its input.

    Where a stack changes the number of tokens, they are known only if all are of one kind, sample after sample, and
    those of each sample become fewer or more by the same factor.
    """
    before = sum(int((positions >= 0).sum()) for positions in stream.positions.values())
    if before != count:
        (kind, positions), *others = stream.positions.items()
        own = [row[row >= 0] for row in positions]
        in_order = torch.equal(torch.cat(own).argsort(), torch.arange(before)) if before else False
        if others or not in_order or any(len(row) * count % before for row in own):
            return []
        return [(kind, sample) for sample, row in enumerate(own) for _ in range(len(row) * count // before)]
    labels = [("", 0)] * count
    for kind, positions in stream.positions.items():
        for sample, row in enumerate(positions.tolist()):
            for place in row:
                if place >= 0:
                    labels[place] = (kind, sample)
    return labels


@dataclass
class _Layout:
    """What was found of inputs of one layout.

    Attributes
    ----------
    streams : dict of dict of Stream
        As of `find_streams`.
    entrances : list of Entrance
        Each reads one of them.
    scales : dict of float
        By input, the size of the noise that is added to it.
    answers : list of tuple of Tensor, optional
        How each stream answered this noise (`_answer`); None where one cannot be read.
    failed : int
        How many batches of this layout answered in another way.
    """

    streams: Streams
    entrances: list[Entrance]
    scales: dict[str, float]
    answers: list[tuple[Tensor, Tensor]] | None
    failed: int = 0


@dataclass
class StreamMemory:
    """Remember the token streams of inputs of one layout, and verify them for every batch instead of finding them anew.

    A layout is the shapes of the pictures, sounds or clips, and all else that a model is given, byte for byte. What was
    found holds for other contents only where their tokens stand in the same places. So the same noise is added to them
    as when it was found. Where each token is a linear function of its patch, as in most models, noise moves it by the
    same difference whatever the content, and every other token by another. Where a token answers otherwise (contents
    that choose, sort or pad tokens; embeddings behind a norm or a tower), streams are found anew, and after two such
    batches the layout is not verified any more.

    Attributes
    ----------
    layouts : dict
        What was found, by layout, those used last at the end.
    noise : dict of torch.Tensor
        By shape, the noise.
    """

    layouts: dict[Hashable, _Layout] = field(default_factory=dict)
    noise: dict[Hashable, Tensor] = field(default_factory=dict)

    def find(self, model: nn.Module, inputs: Inputs, shown: Sequence[str], **asked: Any) -> Streams:
        """Find the token streams of each stack, or remember them.

        Parameters
        ----------
        model : torch.nn.Module
            The model.
        inputs : mapping
            The keyword arguments of one call.
        shown : sequence of str
            The kinds of inputs that differ from batch to batch. With text among them nothing is remembered, because
            which words are a caption's own is another question for every batch.
        **asked
            The other arguments of `find_streams`.

        Returns
        -------
        dict of dict of Stream
            As of `find_streams`.

        Raises
        ------
        ValueError
            As `find_streams` does.
        """
        data = data_inputs(inputs, asked["kinds"])
        names = [n for kind in shown for n in data.get(kind, ()) if _has_content(inputs[n])]
        layout = None if "text" in shown or not names else _layout_of(model, inputs, names, asked)
        if layout is None:
            return find_streams(model, inputs, **asked)
        known = self.layouts.pop(layout, None)
        if known is None or known.failed < TRIES:
            with torch.no_grad():
                if known is not None and _same(known.answers, self._answers(known, inputs), inputs[names[0]].dtype):
                    self.layouts[layout] = known
                    return known.streams
                found = find_streams(model, inputs, **asked)
                known = _Layout(found, [], {}, None, 0 if known is None else known.failed + 1)
                if known.failed < TRIES:
                    known.entrances = _entrances(model, inputs, found, asked["stacks"])
                    known.scales = {name: float(inputs[name].float().std().clamp_min(1e-2)) for name in names}
                    known.answers = self._answers(known, inputs)
        else:
            found = find_streams(model, inputs, **asked)
        self.layouts[layout] = known
        for held, most in ((self.layouts, LAYOUTS), (self.noise, NOISES)):
            while len(held) > most:
                del held[next(iter(held))]
        return found

    def _answers(self, layout: _Layout, inputs: Inputs) -> list[tuple[Tensor, Tensor]] | None:
        """Return how each stream answers noise in each input; None where one has another shape, or is not there."""
        answers = []
        streams = [stream for found in layout.streams.values() for stream in found.values()]
        for entrance, stream in zip(layout.entrances, streams, strict=True):
            before = _tokens(entrance.read(inputs), stream)
            for name, scale in layout.scales.items():
                noisy = inputs[name] + self._noise(inputs[name]) * scale
                after = _tokens(entrance.read(dict(inputs) | {name: noisy}), stream)
                if before is None or after is None or before.shape != after.shape:
                    return None
                answers.append(_answer(before, after))
        return answers

    def _noise(self, value: Tensor) -> Tensor:
        like = (tuple(value.shape), value.dtype, value.device)
        if like not in self.noise:
            self.noise[like] = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
        return self.noise[like]


def _has_content(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def _layout_of(model: nn.Module, inputs: Inputs, names: Sequence[str], asked: Mapping[str, Any]) -> Hashable | None:
    """Return what tells layouts apart; None where an input is no tensor and no plain value.

    Of the inputs of these names, their content is left out, but not which pictures of a sample are blank: those fill up
    a batch.
    """
    parts: list[Hashable] = [id(model), asked["samples"], repr([asked[name] for name in ASKED])]
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            content = value.detach().resolve_conj().resolve_neg()
            if name in names:
                content = (content != 0).flatten(2).any(2) if content.ndim > 4 else content.new_empty(0)
            text = content.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
            parts.append((name, tuple(value.shape), value.dtype, value.device, hashlib.sha256(text).digest()))
        elif value is None or isinstance(value, bool | int | float | str):
            parts.append((name, repr(value)))
        else:
            return None
    return (*parts, repr(special_ids(model)) if "input_ids" in inputs else "")


def _entrances(model: nn.Module, inputs: Inputs, found: Streams, stacks: Mapping[str, Sequence[str]]) -> list[Entrance]:
    """Return what reads each stream that was found."""
    entrances = []
    for path, streams in found.items():
        states = entering_streams(model, stacks[path][0], inputs) or {}
        entrances += [Entrance(model, stacks[path][0], inputs, name, states[name]) for name in streams]
    return entrances


def _tokens(state: Tensor | None, stream: Stream) -> Tensor | None:
    """Return the tokens of a state, (position, dim), or None if it is not of the stream's shape."""
    residual = stream.residual
    if state is None or state.ndim != len(stream.shape) + (residual is not None):
        return None
    if residual is not None and (residual.axis >= state.ndim - 1 or state.shape[residual.axis] != residual.count):
        return None
    state = merge_residual_streams(state, residual)
    return flatten_tokens(state, stream.dim_axis) if tuple(state.shape) == stream.shape else None


def _answer(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens moved, (position,), and by what; of those that did not, their states: (position, projected).

    Differences and states are compared in a random projection, which is smaller.
    """
    change = after - before
    moved = change.abs().amax(1) > MOVED * float(before.abs().max())
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(before.shape[1], PROJECTED, generator=generator).to(before)
    return moved, torch.where(moved[:, None], change, before) @ projection


def _same(one: Sequence[tuple[Tensor, Tensor]] | None, two: Sequence[tuple[Tensor, Tensor]] | None, kind: Any) -> bool:
    """Return whether all tokens answer alike, to the precision of a format."""
    if not one or not two:
        return False
    allowed = max(ALIKE, ROUNDED * torch.finfo(kind).eps)
    return all(
        torch.equal(moved, other) and bool(((rows - others).abs() <= allowed * rows.abs().amax(1, True)).all())
        for (moved, rows), (other, others) in zip(one, two, strict=True)
    )
