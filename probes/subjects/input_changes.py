"""Change one input of a model at a time: find its kind by its name, and give it other values of that kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# The kind of an input by its name; the first pattern that fits counts. None: it goes with another input, and is never
# changed.
KINDS: tuple[tuple[str, str | None], ...] = (
    (r"^(decoder_)?input_ids$|^inputs_embeds$", "text"),
    (r"mask|_ids$|grid|size|shape|index|length|position|rotary|pooled|label|meta|style|guidance|type", None),
    (r"timestep|^t$|^time$|sigma", "time"),
    (r"audio|^input_features$|^input_values$", "audio"),
    (r"pixel|image|img|vision|visual|latent|^sample$|^hidden_states$", "image"),
    (r"text|txt|prompt|caption|^encoder_hidden_states", "text"),
)

Inputs = Mapping[str, Any]


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
        The names of the inputs of each kind ("image", "text", "audio", "time").

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


def count_samples(inputs: Inputs) -> int:
    """Count the samples of a batch of inputs.

    Parameters
    ----------
    inputs : mapping
        The keyword arguments of one call.

    Returns
    -------
    int
        The length of the first axis of `input_ids`, or of the first tensor. Ids with one axis are one sample.

    Raises
    ------
    ValueError
        No input is a tensor.
    """
    ids = inputs.get("input_ids")
    if isinstance(ids, Tensor):
        return len(ids) if ids.ndim > 1 else 1
    tensors = [value for value in inputs.values() if isinstance(value, Tensor) and value.ndim]
    if not tensors:
        raise ValueError("no tensor among the inputs: pass what model(**inputs) takes")
    return len(tensors[0])


def special_ids(model: nn.Module) -> dict[str, set[int]]:
    """Return the token ids that a model's configuration names.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Returns
    -------
    dict of set of int
        "image": the placeholders of image tokens. "special": these and all other ids that are named.
    """
    ids: dict[str, set[int]] = {"image": set(), "special": set()}

    def collect(config: Mapping[str, Any]) -> None:
        for name, value in config.items():
            if isinstance(value, Mapping):
                collect(value)
            elif re.search(r"token_(id|index)$", str(name)) or name == "<image>":
                numbers = {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
                ids["special"] |= numbers
                if re.fullmatch(r"<image>|image_token_(id|index)", str(name)):
                    ids["image"] |= numbers

    config = getattr(model, "config", {})
    collect(config.to_dict() if hasattr(config, "to_dict") else config)
    return ids


def change_inputs(inputs: Inputs, names: Sequence[str], samples: Tensor, special: set[int], seed: int = 0) -> Inputs:
    """Give some inputs other values, at some samples.

    Floating point values get noise of their own size. Ids become other words of the batch, except special ids and those
    that the attention mask leaves out.

    Parameters
    ----------
    inputs : mapping
        The keyword arguments of one call.
    names : sequence of str
        The inputs to change.
    samples : torch.Tensor
        (sample,), bool: the samples to change.
    special : set of int
        Ids that stay as they are.
    seed : int
        Seed of the noise.

    Returns
    -------
    mapping
        The inputs with the changed ones in their places.

    Raises
    ------
    ValueError
        An input cannot be divided among the samples.
    """
    after = dict(inputs)
    for name in names:
        value = inputs[name]
        if isinstance(value, list | tuple):  # one tensor per sample
            after[name] = [
                _other(v, samples[i].expand(v.shape), None, set(), seed) if i < len(samples) else v
                for i, v in enumerate(value)
            ]
        else:
            axis, rows = sample_rows(value, inputs, len(samples))
            chosen = samples.repeat_interleave(rows).to(value.device)
            chosen = chosen.view([-1 if place == axis else 1 for place in range(value.ndim)])
            after[name] = _other(value, chosen, inputs.get("attention_mask"), special, seed)
    return after


def sample_rows(value: Tensor, inputs: Inputs, samples: int) -> tuple[int, Tensor]:
    """Find the axis of an input along which its samples stand, and the number of rows of each.

    Samples stand along the first axis, with one row each, or with one row per patch where they are packed. They stand
    along another axis where only that has as many rows as there are samples.

    Parameters
    ----------
    value : torch.Tensor
        The input.
    inputs : mapping
        All inputs of the call.
    samples : int
        The number of samples.

    Returns
    -------
    axis : int
        The axis.
    rows : torch.Tensor
        (sample,), the number of rows of each sample.

    Raises
    ------
    ValueError
        The input cannot be divided among the samples.
    """
    grid = inputs.get("image_grid_thw")
    if isinstance(grid, Tensor) and len(grid) == samples and int(grid.prod(1).sum()) == len(value):
        return 0, grid.prod(1).cpu()
    one = torch.ones(samples, dtype=torch.int64)
    if len(value) == samples:
        return 0, one
    others = [axis for axis, size in enumerate(value.shape) if size == samples and 0 < axis < max(2, value.ndim - 1)]
    if samples > 1 and len(others) == 1 and not (value.ndim == 2 and value.is_floating_point()):
        return others[0], one
    if len(value) % samples:
        raise ValueError(
            f"an input of shape {tuple(value.shape)} cannot be divided among {samples} samples: give each as many rows"
        )
    return 0, one * (len(value) // samples)


def _other(value: Tensor, chosen: Tensor, mask: Any, special: set[int], seed: int) -> Tensor:
    if value.is_floating_point():
        return torch.where(chosen, value + noise_like(value, seed), value)
    words = ~torch.isin(value, torch.tensor(sorted(special), device=value.device, dtype=value.dtype))
    if isinstance(mask, Tensor) and mask.shape == value.shape:
        words &= mask.bool()
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
