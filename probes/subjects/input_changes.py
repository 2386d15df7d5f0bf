"""Change one input of a model at a time: find its kind by its name, and give it other values of that kind."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor, nn

from ..private_names import tree_map
from ..stimuli.stimulus_set import Stimulus

# The kind of an input by its name; the first pattern that fits counts. None: it goes with another input, and is never
# changed.
KINDS: tuple[tuple[str, str | None], ...] = (
    (r"^(decoder_)?input_ids$|^inputs_embeds$", "text"),
    (r"mask|_ids$|grid|size|shape|index|length|position|rotary|pooled|label|meta|style|guidance|type", None),
    (r"timestep|^t$|^time$|sigma", "time"),
    (r"audio|speech|sound|waveform|^input_features$|^input_values$", "audio"),
    (r"pixel|image|img|vision|visual|latent|^sample$|^hidden_states$", "image"),
    (r"text|txt|prompt|caption|^encoder_hidden_states", "text"),
)

SAYS_GRIDS = re.compile(r"grid|spatial_shape|sizes")  # inputs of rows and columns, or frames, rows and columns
ANOTHER: dict[str, Callable[[Stimulus], Stimulus]] = {
    "image": lambda s: s._replace(image=ImageOps.invert(s.image)),
    "text": lambda s: s._replace(text=f"another {s.text}"),
}

Inputs = Mapping[str, Any]
Ask = Callable[[Sequence[Stimulus]], Inputs]
Grid = tuple[int, int, int]  # frames, rows and columns of a picture or clip, counted in patches


class Rows(NamedTuple):
    """Where the samples stand in one input.

    Attributes
    ----------
    axis : int
        The axis along which they stand.
    counts : torch.Tensor
        (sample,), the number of rows of each sample along it: one, or as many as its patches, tiles or images.
    grids : tuple of tuple of tuple of int
        Frames, rows and columns of each picture of each sample, where rows are patches and an input says so.
    filled : torch.Tensor or None
        Where sounds of unlike length are no padding, broadcastable to the input, bool; None for all of it.
    """

    axis: int
    counts: Tensor
    grids: tuple[tuple[Grid, ...], ...] = ()
    filled: Tensor | None = None


def data_inputs(inputs: Inputs, kinds: Mapping[str, str]) -> dict[str, list[str]]:
    """Group the inputs that hold data by kind.

    Parameters
    ----------
    inputs : mapping
        The keyword arguments of one call.
    kinds : mapping of str to str
        The kinds of inputs whose names do not tell.

    Returns
    -------
    dict of list of str
        The names of the inputs of each kind ("image", "text", "audio", "video", "time"). Videos are images where
        `kinds` does not say otherwise.

    Raises
    ------
    ValueError
        An input looks like data but neither its name nor `kinds` gives its kind, or no input holds data.
    """
    data: dict[str, list[str]] = {}
    for name, value in inputs.items():
        first = value[0] if isinstance(value, list | tuple) and value else value
        if not isinstance(first, Tensor):
            continue
        by_name = next((kind for pattern, kind in KINDS if re.search(pattern, name)), "unknown")
        if name == "input_ids" and first.ndim > 2:
            by_name = "image"  # a map of codes
        kind = kinds.get(name, by_name)
        if kind == "unknown" and first.ndim > (2 if first.is_floating_point() else 1):
            raise ValueError(
                f"cannot tell by its name whether the input {name!r} is image or text: say so, "
                f"as kinds={{{name!r}: 'image'}}"
            )
        if kind not in (None, "unknown"):
            data.setdefault(kind, []).append(name)
    if not data:
        names = ", ".join(inputs) or "no inputs"
        raise ValueError(f"none of {names} is image or text by its name: say which, as kinds={{'x': 'image'}}")
    return data


def unchanged(inputs: Inputs) -> dict[str, Any]:
    """Copy what a pass may change in its inputs, such as a cache of keys and values, which grows with every pass.

    Parameters
    ----------
    inputs : mapping
        The keyword arguments of one call.

    Returns
    -------
    dict
        The arguments, with copies of tensors and of objects that hold some.
    """
    return {name: tree_map(_copied, value) for name, value in inputs.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    plain = value is None or callable(value) or isinstance(value, str | bytes | int | float | torch.dtype)
    return value if plain else copy.deepcopy(value)


def count_samples(inputs: Inputs) -> int:
    """Count the samples of a batch of inputs.

    Parameters
    ----------
    inputs : mapping
        The keyword arguments of one call.

    Returns
    -------
    int
        The length of the first axis of `input_ids`, or of the first tensor. Ids with one axis are one sample. Without
        ids, each picture whose patches are packed into rows is one.

    Raises
    ------
    ValueError
        No input is a tensor.
    """
    ids = inputs.get("input_ids")
    if isinstance(ids, Tensor):
        return len(ids) if ids.ndim > 1 else 1
    tensors = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim]
    if not tensors:
        raise ValueError("no tensor among the inputs: pass what model(**inputs) takes")
    grids = packed_grids(tensors[0], inputs)
    return len(inputs[tensors[0]] if grids is None else grids)


def packed_grids(name: str, inputs: Inputs) -> Tensor | None:
    """Return what the inputs say about the pictures whose patches are packed along the first axis of an input.

    Parameters
    ----------
    name : str
        The packed input.
    inputs : mapping
        All inputs of the call.

    Returns
    -------
    Tensor or None
        (picture, 3), frames, rows and columns of each; None where no input accounts for all rows.
    """
    value = inputs[name]
    said = {
        other: grid.detach().cpu()
        for other, grid in inputs.items()
        if isinstance(grid, Tensor) and not grid.is_floating_point() and SAYS_GRIDS.search(other)
    }
    for other in sorted(said, key=lambda other: ("video" in other) != ("video" in name)):
        grid = said[other]
        if grid.ndim == 2 and grid.shape[1] in (2, 3) and int(grid.prod(1).sum()) == len(value):
            return grid if grid.shape[1] == 3 else torch.cat([torch.ones_like(grid[:, :1]), grid], 1)
    return None


def special_ids(model: nn.Module) -> dict[str, set[int]]:
    """Return the token ids that a model's configuration names.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Returns
    -------
    dict of set of int
        "image", "video", "audio": the placeholders of their tokens. "special": these and all other ids that are named.
    """
    ids: dict[str, set[int]] = {"image": set(), "video": set(), "audio": set(), "special": set()}

    def collect(config: Mapping[str, Any]) -> None:
        for name, value in config.items():
            if isinstance(value, Mapping):
                collect(value)
            elif re.search(r"token_(id|index)$", str(name)) or name == "<image>":
                numbers = {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
                ids["special"] |= numbers
                if kind := re.fullmatch(r"<?(image|video|audio)(>|_token_(id|index))", str(name)):
                    ids[kind[1]] |= numbers

    config = getattr(model, "config", {})
    collect(config.to_dict() if hasattr(config, "to_dict") else config)
    return ids


def equal_inputs(one: Any, other: Any) -> bool:
    """Return whether two inputs are the same; what is no tensor is taken to be."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return all(map(equal_inputs, one, other))
    if not isinstance(one, Tensor):
        return True
    same = isinstance(other, Tensor) and one.shape == other.shape
    return same and torch.equal(one.nan_to_num(), other.nan_to_num())


def check_kind_of_inputs(name: str, given: Any) -> None:
    """Raise TypeError where a user's `inputs` returns no keyword arguments, or arrays that no module reads."""
    if not isinstance(given, Mapping):
        raise TypeError(f"inputs of {name} returns a {type(given).__name__}: expected a dict of keyword arguments")
    if arrays := [key for key, value in given.items() if isinstance(value, np.ndarray)]:
        raise TypeError(
            f"inputs of {name} gives {arrays[0]!r} as an array of NumPy: expected a tensor (torch.as_tensor)"
        )


def check_answers(name: str, ask: Ask, stimuli: Sequence[Stimulus], inputs: Inputs, absent: Sequence[str]) -> None:
    """Raise ValueError where a user's `inputs` is no function of the stimuli, or shows more than it is asked to show.

    Parameters
    ----------
    name : str
        What the model is called.
    ask : callable
        Returns the inputs of one kind of pass over some stimuli.
    stimuli, inputs
        Some stimuli, and what `ask` returned for them.
    absent : sequence of str
        The modalities that this kind of pass does not show.

    Raises
    ------
    ValueError
        Inputs that differ when they are asked for again, or when an absent modality is another.
    """
    if different := _differing(inputs, ask(stimuli)):
        raise ValueError(
            f"inputs of {name} gives another {different!r} when it is asked again for the same stimuli: switch "
            "augmentation off, and seed what is random by the stimulus's id"
        )
    for modality in [each for each in absent if each in ANOTHER]:
        try:
            given = ask(list(map(ANOTHER[modality], stimuli)))
        except Exception:  # it may know the stimuli alone, as a table of captions does
            continue
        if different := _differing(inputs, given):
            raise ValueError(
                f"inputs of {name} shows the {modality} in a pass without it, for another {modality} changes "
                f"{different!r}: show what modalities names, and nothing or a blank of the rest (for both, joint=True)"
            )


def _differing(one: Inputs, other: Inputs) -> str | None:
    return next((name for name, value in one.items() if not equal_inputs(value, other.get(name))), None)


def own_data_differ(modality: str, one: Inputs, other: Inputs, kinds: Mapping[str, str]) -> bool:
    """Return whether two calls that show one modality differ in its inputs, or in any where none is named so."""
    data = data_inputs(one, kinds)
    names = data.get(modality) or [name for kind, group in data.items() if kind != "time" for name in group]
    return any(not equal_inputs(one[name], other.get(name)) for name in names)


def padding_of(name: str, mask: Any) -> Tensor | None:
    """Return which tokens a mask over (batch, token) leaves out; None where an input is no such mask."""
    keeps = name.endswith(("attention_mask", "hidden_states_mask"))
    if not isinstance(mask, Tensor) or mask.ndim > 2 or not (keeps or name.endswith("key_padding_mask")):
        return None
    return ~mask.bool() if keeps else mask.bool()  # torch's own masks mark what to leave out


def change_inputs(
    inputs: Inputs,
    rows: Mapping[str, Rows],
    names: Sequence[str],
    samples: Tensor,
    special: set[int],
    seed: int = 0,
    own: Mapping[str, Any] | None = None,
) -> Inputs:
    """Give some inputs other values, at some samples.

    Floating point values get noise of their own size; images of zeros beside others and silence behind sounds, which
    fill up a batch, stay as they are.
    Ids become other words of the batch, except special ids and those that the attention mask leaves out.

    Parameters
    ----------
    inputs : mapping
        The keyword arguments of one call.
    rows : mapping of str to Rows
        Where the samples stand in each input (probes/subjects/sample_rows.py).
    names : sequence of str
        The inputs to change.
    samples : torch.Tensor
        (sample,), bool: the samples to change.
    special : set of int
        Ids that stay as they are.
    seed : int
        Seed of the noise.
    own : mapping of str to torch.Tensor or list of torch.Tensor, optional
        By input, the tokens to change, also where their ids are special (`caption_tokens.CaptionTokens`). Inputs that
        are not in it change in whole.

    Returns
    -------
    mapping
        The inputs with the changed ones in their places.
    """
    after = dict(inputs)
    for name in names:
        value, only = inputs[name], (own or {}).get(name)
        if name not in rows:  # one number for the whole call
            after[name] = _other(value, samples.any(), None, special, seed)
            continue
        axis, counts, _, filled = rows[name]
        chosen = samples.repeat_interleave(counts)
        if isinstance(value, list | tuple):
            given = zip(value, chosen, only or [None] * len(value), strict=True)
            after[name] = [_other(v, c.expand(v.shape), None, set(), seed, o) for v, c, o in given]
        else:
            chosen = chosen.to(value.device).view([-1 if place == axis else 1 for place in range(value.ndim)])
            chosen = chosen if filled is None else chosen & filled
            after[name] = _other(value, chosen, inputs.get("attention_mask"), special, seed, only)
    return after


def _other(value: Tensor, chosen: Tensor, mask: Any, special: set[int], seed: int, own: Tensor | None = None) -> Tensor:
    if own is not None:
        own = own.to(value.device).view(*own.shape, *[1] * (value.ndim - own.ndim))
        chosen = chosen & own
    if value.is_floating_point():
        if value.ndim > 4:  # (sample, image, ...) or (image, tile, ...), of which some may fill up the batch
            shown = (value != 0).flatten(2).any(2)
            shown = shown | ~shown.any(1, keepdim=True)  # zeros alone are data, such as a blank latent
            chosen = chosen & shown.view(*value.shape[:2], *[1] * (value.ndim - 2))
        return torch.where(chosen, value + noise_like(value, seed), value)
    words = ~torch.isin(value, torch.tensor(sorted(special), device=value.device, dtype=value.dtype))
    if isinstance(mask, Tensor) and mask.shape == value.shape:
        words &= mask.bool()
    words = words if own is None else words | own
    ids = value[words].unique()
    if len(ids) == 1:
        ids = torch.cat([ids, (ids - 1).abs()])
    if not len(ids):
        return value
    following = ids[(torch.searchsorted(ids, value.clamp(max=int(ids.max()))) + 1) % len(ids)]
    return torch.where(words & chosen, following, value)


def noise_like(value: Tensor, seed: int = 0) -> Tensor:
    """Draw Gaussian noise as large as some values.

    Parameters
    ----------
    value : torch.Tensor
        Floating point values.
    seed : int
        Seed of the noise. Equal seeds give equal noise.

    Returns
    -------
    torch.Tensor
        Noise of the shape, dtype and device of `value`, with its standard deviation, or with the size of a single
        value, and at least 0.01.
    """
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)).to(value)
    return noise * (value.float().std() if value.numel() > 1 else value.float().abs().mean()).clamp_min(1e-2).to(value)
