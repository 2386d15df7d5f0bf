"""Find which tokens of a stack's hidden states are image, text, time, padding or none of these, and their order.

Names and shapes of inputs do not tell where their tokens stand: a model may put the text first or last, pack samples
one after another, permute patches into windows or hold the batch second. So each input is changed in turn, and the
hidden states that enter a stack's first block are compared, before any attention has mixed them. The tokens that change
belong to that input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.block_stacks import find_stacks
from ..hooks.capturing import capture
from ..hooks.model_memory import forgetting
from .entering_states import States, dim_axis, entering_streams, flatten_tokens
from .input_changes import Inputs, count_samples, data_inputs, unchanged
from .sample_rows import divide_inputs
from .token_movement import Stream, TokenTracer, positions_by_sample


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
    ValueError
        An input is neither image nor text by its name or by `kinds`; or the model keeps several states of each token,
        and nothing says what becomes of them.

    Examples
    --------
    >>> find_streams(llava, inputs)["model.language_model.layers"][None].positions["image"]
    tensor([[ 3,  4, ..., 18], [27, 28, ..., 42]])          # two samples of 24 tokens
    """
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
