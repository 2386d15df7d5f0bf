"""Read and check the two sides of a comparison, and convert them to one dtype and device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import unknown
from ..comparison_options import check_comparison
from ..features.layer_features import LayerFeatures
from ..features.plain_arrays import as_tensor, check_finite
from ..metrics import METRICS
from ..metrics.metric import Array
from ..single_contexts import single_context

Layers = list[Tensor]  # (sample, dim) each
Stack = LayerFeatures | Tensor | Array | Sequence[Tensor | Array]


@single_context
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32 inside the block, without autocast, TF32 or gradients.

    What a training script has set is restored afterwards.

    Yields
    ------
    None
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def read_pair(x: Tensor | Array, y: Tensor | Array, metric: str, k: int) -> tuple[Tensor, Tensor]:
    """Convert two (sample, dim) arrays to tensors of one dtype on one device, and check them.

    Parameters
    ----------
    x, y : Tensor or Array
        Features (sample, dim) of the same samples.
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.

    Returns
    -------
    tuple of Tensor
        x and y.

    Raises
    ------
    ValueError
        A wrong shape, a value that is not finite, or what `check_samples` and `check_dims` refuse.
    TypeError
        Something that is not an array of real numbers.
    """
    pair = [as_tensor(side, name) for side, name in ((x, "x"), (y, "y"))]
    for array, name in zip(pair, "xy", strict=True):
        if array.ndim != 2:
            raise ValueError(
                f"{name} must be (sample, dim), got shape {tuple(array.shape)}; for stacks there is similarity_map"
            )
        check_finite([array], [name])
    check_samples(metric, k, len(pair[0]), len(pair[1]))
    check_dims(metric, pair[:1], pair[1:])
    (one,), (other,) = to_common_dtype(pair[:1], pair[1:])
    return one, other


def to_common_dtype(xs: Layers, ys: Layers, device: str | torch.device | None = None) -> tuple[Layers, Layers]:
    """Convert two stacks to one dtype and to one device.

    Parameters
    ----------
    xs, ys : list of Tensor
        Layers (sample, dim).
    device : str or torch.device, optional
        Where to put them; by default where the first layer of x is.

    Returns
    -------
    tuple of lists of Tensor
        xs and ys, in `common_dtype`.
    """
    dtype = common_dtype((*xs, *ys))
    device = device or xs[0].device
    return [x.to(device, dtype) for x in xs], [y.to(device, dtype) for y in ys]


def common_dtype(layers: Iterable[Tensor]) -> torch.dtype:
    """Return float64 if one of the layers is in float64, float32 if none is."""
    return torch.float64 if any(layer.dtype == torch.float64 for layer in layers) else torch.float32


def read_stack(stack: Stack, name: str, whole: bool = True) -> tuple[Layers, list[Any], list[float], dict[str, Any]]:
    """Read the layers of a stack with their names, depths and a description, and check that they are finite.

    Parameters
    ----------
    stack : LayerFeatures, Tensor, Array or sequence of layers
        (layer, sample, dim), or a sequence of (sample, dim) layers.
    name : str
        What messages call it.
    whole : bool
        Whether all values are read, to see that they are finite, and half precision becomes float32.

    Returns
    -------
    layers : list of Tensor
        (sample, dim) each.
    names : list
        Names of layers; 0 to L - 1 for plain stacks.
    depths : list of float
        Relative depths; plain layers are taken for blocks.
    description : dict
        subject, modality, task, pass and timestep of LayerFeatures; empty for plain stacks.

    Raises
    ------
    ValueError
        A timestep sweep, a wrong shape, or a value that is not finite.
    TypeError
        Something that is not an array of real numbers.
    """
    if isinstance(stack, Mapping):
        raise TypeError(f"{name} holds {' and '.join(map(str, stack))}: pass one, as features[{next(iter(stack))!r}]")
    if isinstance(stack, LayerFeatures):
        what = f"{stack.modality} features of {stack.subject!r}"
        if stack.swept:
            swept = ", ".join(f"{t:g}" for t in stack.timesteps)
            raise ValueError(f"the {what} hold a sweep over timesteps {swept}: select one with .at(t)")
        layers, names, depths = open_layers(stack, not whole), list(stack.layers), list(stack.depths)
        description = stack.origin
        name = what
    else:
        layers = _layers(stack, name, not whole)
        names = list(range(len(layers)))
        depths, description = [(index + 1) / len(layers) for index in names], {}
    if whole:
        check_finite(layers, [f"layer {layer!r} of {name}" for layer in names])
    return layers, names, depths, description


def swept_times(x: object, y: object) -> tuple[float, ...]:
    """Return the timesteps that x or y was swept over, () where neither was.

    Parameters
    ----------
    x, y : object
        Two sides of a comparison.

    Returns
    -------
    tuple of float
        The timesteps.

    Raises
    ------
    ValueError
        Both were swept, over different timesteps.
    """
    swept = [side.timesteps for side in (x, y) if isinstance(side, LayerFeatures) and side.swept]
    if len(set(swept)) > 1:
        raise ValueError(f"x was swept over timesteps {swept[0]}, y over {swept[1]}: select one of each with .at(t)")
    return swept[0] if swept else ()


def at_time(x: Any, y: Any, time: float) -> tuple[Any, Any]:
    """Return both sides of a comparison at one timestep, of those that were swept."""
    one, other = (side.at(time) if isinstance(side, LayerFeatures) and side.swept else side for side in (x, y))
    return one, other


def open_layers(features: LayerFeatures, half: bool = False) -> Layers:
    """Read every layer by itself, in its own width and at least float32.

    Parameters
    ----------
    features : LayerFeatures
        Features with one vector per sample.
    half : bool
        Whether half precision stays as it is.

    Returns
    -------
    list of Tensor
        (sample, dim) each, or (timestep, sample, dim) for a timestep sweep.

    Raises
    ------
    ValueError
        Features that keep several vectors of each sample.
    """
    kind = features.pooling.split(" ")[0]
    if kind not in ("mean", "first", "last"):
        remedy = "pass their values through match_patches" if kind.startswith("grid:") else "pool them"
        raise ValueError(
            f"the {features.modality} features of {features.subject!r} keep several vectors of each sample (pooling "
            f"{features.pooling!r}): {remedy} first"
        )
    return [as_tensor(features.layer(name), f"layer {name!r}", half) for name in features.layers]


def _layers(stack: Tensor | Array | Sequence[Tensor | Array], name: str, half: bool) -> Layers:
    """Read the layers (sample, dim) of a plain stack."""
    if isinstance(stack, list | tuple):
        layers = [as_tensor(layer, f"layer {index} of {name}", half) for index, layer in enumerate(stack)]
        shapes = {tuple(layer.shape) for layer in layers}
        if any(len(shape) != 2 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
            found = ", ".join(map(str, sorted(shapes))) or "none"
            raise ValueError(f"{name} must be layers (sample, dim) of as many samples each, got shapes {found}")
        return layers
    values = as_tensor(stack, name, half)  # type: ignore[arg-type]
    if values.ndim != 3 or not len(values):
        raise ValueError(f"{name} must be (layer, sample, dim), got shape {tuple(values.shape)}")
    return list(values)


def check_metric(metric: str) -> None:
    """Raise ValueError where the metric is unknown."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise unknown("metric", metric, METRICS)


def check_samples(metric: str, k: int, x_samples: int, y_samples: int, alone: bool = True) -> None:
    """Raise ValueError where a metric cannot measure so many samples.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.
    x_samples, y_samples : int
        Samples of both sides.
    alone : bool
        Whether these are all samples. If not, they are one batch of many, and only their equality is checked.

    Raises
    ------
    ValueError
        An unknown metric, different numbers of samples, too few samples, or a k that is not from 1 to samples - 1.
    TypeError
        A k that is no whole number.
    """
    check_metric(metric)
    if METRICS[metric].neighbours:
        check_comparison(k=k)
    if x_samples != y_samples:
        raise ValueError(f"x has {x_samples} samples, y has {y_samples}: both must be extracted from the same stimuli")
    if not alone:
        return
    if x_samples < METRICS[metric].least:
        raise ValueError(f"{metric} needs at least {METRICS[metric].least} samples, got {x_samples}: use more stimuli")
    least = METRICS[metric].least_k
    if METRICS[metric].neighbours and not least <= k < x_samples:
        remedy = "use a smaller k or more stimuli" if k != 1 else f"{metric} is not defined for one neighbour"
        raise ValueError(f"k must be an integer from {least} to samples - 1 = {x_samples - 1}, got {k}: {remedy}")


def check_dims(metric: str, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
    """Raise ValueError where the metric needs the same dims on both sides and they differ.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    xs, ys : sequence of Tensor
        Layers (sample, dim).

    Raises
    ------
    ValueError
        The dims.
    """
    dims = {layer.shape[1] for layer in (*xs, *ys)}
    if METRICS[metric].same_dims and len(dims) > 1:
        raise ValueError(
            f"{metric} compares x and y dim by dim, but their dims differ ({', '.join(map(str, sorted(dims)))}): use "
            "it on embeddings of one space, or a metric that takes any dims, such as cka"
        )


def check_same_stimuli(x: Any, y: Any) -> None:
    """Raise ValueError where two LayerFeatures list different sample ids, or show different things under one id.

    Different numbers of samples are left to `check_samples`. A stimulus may have another image or another text on the
    other side, as controls have, but not both.

    Parameters
    ----------
    x, y : Any
        Two sides of a comparison: LayerFeatures, or what has their subject, samples and digests as well. What has no
        ids, such as an array, passes.

    Raises
    ------
    ValueError
        The first sample that differs.
    """
    if not all(hasattr(side, "digests") for side in (x, y)):
        return
    for sample, (ours, theirs) in enumerate(zip(x.samples, y.samples, strict=False)):
        if ours != theirs:
            raise ValueError(
                f"the features are of different stimuli: sample {sample} is {ours!r} in {x.subject!r} but {theirs!r} "
                f"in {y.subject!r}; extract both from the same stimuli, in the same order"
            )
    for sample in x.samples if x.digests and y.digests else ():
        ours, theirs = (side.digests.get(sample, "").split() for side in (x, y))
        if ours and theirs and not any(one == other for one, other in zip(ours, theirs, strict=True)):
            raise ValueError(
                f"the features are of different stimuli: {sample!r} has another image and another text in "
                f"{x.subject!r} than in {y.subject!r} (a dataset's ids are row numbers); extract both from the same "
                "stimuli, in the same order"
            )
