"""Change one input of a model at a time: what an input is by its name, and other values of the same kind for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# What an input is, by its name; the first pattern that fits. None: it goes with another input and is never changed.
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
    """The names of the inputs that hold data, by kind; `kinds` says it for those whose names do not tell."""
    data: dict[str, list[str]] = {}
    for name, value in inputs.items():
        first = value[0] if isinstance(value, list | tuple) and value else value
        if not isinstance(first, Tensor):
            continue
        named = next((kind for pattern, kind in KINDS if re.search(pattern, name)), "unknown")
        if name == "input_ids" and first.ndim > 2:
            named = "image"  # a map of codes
        kind = kinds.get(name, named)
        if kind == "unknown" and first.ndim > (2 if first.is_floating_point() else 1):
            raise ValueError(
                f"cannot tell by its name whether the input {name!r} is image or text: say so, "
                f"as kinds={{{name!r}: 'image'}}"
            )
        if kind not in (None, "unknown"):
            data.setdefault(kind, []).append(name)
    if not data:
        told = ", ".join(inputs) or "no inputs"
        raise ValueError(f"none of {told} is image or text by its name: say which, as kinds={{'x': 'image'}}")
    return data


def count_samples(inputs: Inputs) -> int:
    """How many samples there are, by the first axis of the ids, or of the first tensor; ids of one axis are one."""
    ids = inputs.get("input_ids")
    if isinstance(ids, Tensor):
        return len(ids) if ids.ndim > 1 else 1
    tensors = [value for value in inputs.values() if isinstance(value, Tensor) and value.ndim]
    if not tensors:
        raise ValueError("no tensor among the inputs: pass what model(**inputs) takes")
    return len(tensors[0])


def special_ids(model: nn.Module) -> dict[str, set[int]]:
    """The ids that a model's configuration names: {"image": placeholders, "special": these and all others}."""
    ids: dict[str, set[int]] = {"image": set(), "special": set()}

    def collect(config: Mapping[str, Any]) -> None:
        for name, value in config.items():
            if isinstance(value, Mapping):
                collect(value)
            elif re.search(r"token_(id|index)$", str(name)) or name == "<image>":
                found = {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
                ids["special"] |= found
                if re.fullmatch(r"<image>|image_token_(id|index)", str(name)):
                    ids["image"] |= found

    config = getattr(model, "config", {})
    collect(config.to_dict() if hasattr(config, "to_dict") else config)
    return ids


def change_inputs(inputs: Inputs, names: Sequence[str], samples: Tensor, special: set[int], seed: int = 0) -> Inputs:
    """The inputs with other values in the named ones, at the samples where `samples` (sample,) holds.

    Raises ValueError for an input that cannot be shared out among the samples.

    Floating point values get noise of their own size, ids become other words of the batch, but not special ones and
    not where the attention mask leaves them out.
    """
    after = dict(inputs)
    for name in names:
        value = inputs[name]
        if isinstance(value, list | tuple):  # one tensor for each sample
            after[name] = [
                _other(v, samples[i].expand(v.shape), None, set(), seed) if i < len(samples) else v
                for i, v in enumerate(value)
            ]
        else:
            axis, rows = sample_rows(value, inputs, len(samples))
            chosen = samples.repeat_interleave(rows).to(value.device)
            chosen = chosen.view([-1 if at == axis else 1 for at in range(value.ndim)])
            after[name] = _other(value, chosen, inputs.get("attention_mask"), special, seed)
    return after


def sample_rows(value: Tensor, inputs: Inputs, samples: int) -> tuple[int, Tensor]:
    """The axis of an input along which its samples stand, and how many rows of it each has, (sample,).

    Samples stand along the first axis, one row each, or as many as patches where they are packed; along another where
    only that has as many rows as there are samples.
    """
    grid = inputs.get("image_grid_thw")
    if isinstance(grid, Tensor) and len(grid) == samples and int(grid.prod(1).sum()) == len(value):
        return 0, grid.prod(1).cpu()
    one = torch.ones(samples, dtype=torch.int64)
    if len(value) == samples:
        return 0, one
    behind = [at for at, size in enumerate(value.shape) if size == samples and 0 < at < max(2, value.ndim - 1)]
    if samples > 1 and len(behind) == 1 and not (value.ndim == 2 and value.is_floating_point()):
        return behind[0], one
    if len(value) % samples:
        raise ValueError(
            f"an input of shape {tuple(value.shape)} cannot be shared out among {samples} samples: "
            "give each as many rows"
        )
    return 0, one * (len(value) // samples)


def _other(value: Tensor, chosen: Tensor, mask: Any, special: set[int], seed: int) -> Tensor:
    if value.is_floating_point():
        return torch.where(chosen, value + noise_like(value, seed), value)
    words = ~torch.isin(value, torch.tensor(sorted(special), device=value.device, dtype=value.dtype))
    if isinstance(mask, Tensor) and mask.shape == value.shape:
        words &= mask.bool()
    there = value[words].unique()
    if len(there) == 1:
        there = torch.cat([there, (there - 1).abs()])
    if not len(there):
        return value
    following = there[(torch.searchsorted(there, value.clamp(max=int(there.max()))) + 1) % len(there)]
    return torch.where(words & chosen, following, value)


def noise_like(value: Tensor, seed: int = 0) -> Tensor:
    """Gaussian noise as large as the values, the same for a seed."""
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)).to(value)
    return noise * (value.float().std() if value.numel() > 1 else value.float().abs().mean()).clamp_min(1e-2).to(value)
