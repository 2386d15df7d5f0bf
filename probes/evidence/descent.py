"""Measure how much of the gradient of a generator's loss each understanding layer explains, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from ..features.caption_groups import known_groups
from ..metrics.metric import Array
from ..metrics.probe import FOLDS, folds, numbered
from ..similarity.inputs import Stack, check_same_stimuli, read_stack
from .ridge import fit_ridges, fold_products

METRIC = "descent"


class BlockGradients(NamedTuple):
    """What a generator's loss would gain if a vector were added to all image tokens of a stimulus behind a block.

    Attributes
    ----------
    values : Tensor
        The negative gradient of each stimulus's loss by that vector, (block, sample, dim): the sum over its tokens.
    sizes : tuple of float
        The root mean square norm of the image tokens behind each block.
    subject : str
        The name of the generator.
    samples : tuple of str
        The id of each stimulus, in order.
    digests : mapping of str to str
        What the stimulus of an id shows, as `LayerFeatures.digests`.
    draws : int
        How many noises and times the gradient of a stimulus is the mean of.
    seconds : float
        What they took.
    """

    values: Tensor
    sizes: tuple[float, ...]
    subject: str
    samples: tuple[str, ...]
    digests: dict[str, str]
    draws: int
    seconds: float


def explained_map(
    understanding: Stack, gradients: BlockGradients, groups: Sequence[Any] | Array | None = None
) -> pd.DataFrame:
    """Measure how much of the gradient at each generation block each understanding layer explains.

    Parameters
    ----------
    understanding : LayerFeatures or stack
        The text states of an understanding expert, as `similarity_map` takes them, of the stimuli of the gradients.
    gradients : BlockGradients
        The gradients, as `bridgework.models.evaluation.block_gradients` makes them. They hold for any understanding
        expert.
    groups : sequence, optional
        A label for each sample: samples of one group, such as captions of one scene, are held out together. By
        default the captions of an image, where features know them.

    Returns
    -------
    DataFrame
        What `bridgework.models.descent_map` returns.

    Raises
    ------
    ValueError, TypeError
        As `similarity_map` does for the features; also if there are fewer than 10 samples, if the gradients are of
        other stimuli, or if a block has the same gradient for all of them.

    See Also
    --------
    bridgework.models.descent_map : Makes the gradients as well, and says what the map means.

    Examples
    --------
    >>> gradients = block_gradients(dit, stimuli)
    >>> maps = {name: explained_map(seen["text"], gradients) for name, seen in experts.items()}
    """
    began, groups = perf_counter(), known_groups(groups, understanding)
    us, names, depths, origin = read_stack(understanding, "understanding")
    labels = check_samples(understanding, len(us[0]), gradients, groups)
    order = np.argsort(np.array(gradients.samples))  # folds must not depend on the order of the stimuli
    blocks = [_centred(block) for block in gradients.values.double().cpu().numpy()[:, order] * _column(gradients.sizes)]
    for number, block in enumerate(blocks):
        if not block.any():
            raise ValueError(
                f"the gradient at block {number} of {gradients.subject!r} is the same for all stimuli: there is "
                "nothing to explain; is its output trained?"
            )
    layers = [layer.double().cpu().numpy()[order] for layer in us]
    errors, deviations = np.zeros((len(layers), len(blocks))), np.zeros(len(blocks))
    for train, test in tqdm(folds(len(order), labels), total=FOLDS, desc=METRIC, leave=False):
        means = [block[train].mean(0) for block in blocks]
        targets = [(block[train] - mean, block[test] - mean) for block, mean in zip(blocks, means, strict=True)]
        deviations += [float((asked**2).sum()) for _, asked in targets]
        for row, layer in enumerate(layers):
            errors[row] += [fit.held_out for fit in fit_ridges(fold_products(layer, train, test), targets)]
    count = len(blocks)
    heat = pd.DataFrame(
        (deviations - errors).clip(min=0) / len(order),
        index=pd.Index(names, name="understanding layer"),
        columns=pd.Index([str(number) for number in range(count)], name="generation layer"),
    )
    seconds = gradients.seconds + perf_counter() - began
    heat.attrs = {"metric": METRIC, "k": None, "samples": len(order), "chance": 0.0, "x_depths": depths}
    heat.attrs |= {"y_depths": [(number + 1) / count for number in range(count)], "x": origin}
    heat.attrs["y"] = {"subject": gradients.subject, "modality": "image", "task": "generation", "pass": "separate"}
    heat.attrs |= {"draws": gradients.draws, "sizes": list(gradients.sizes)}
    heat.attrs |= {"gradients": (deviations / len(order)).tolist(), "cost": {"seconds": round(seconds, 1)}}
    return heat


def check_samples(
    understanding: Stack, samples: int, gradients: BlockGradients, groups: Sequence[Any] | Array | None = None
) -> Array | None:
    """Check that features and gradients are of the same stimuli, and number the groups of these in order of their ids.

    Parameters
    ----------
    understanding : LayerFeatures or stack
        The features.
    samples : int
        How many samples they have.
    gradients : BlockGradients
        The gradients, whose values are not read.
    groups : sequence, optional
        A label for each sample.

    Returns
    -------
    array or None
        The number of each sample's group, (sample,), samples being in order of their ids; None without groups.

    Raises
    ------
    ValueError
        The first sample that differs; too few samples; or groups that do not fit.
    """
    check_same_stimuli(understanding, gradients)
    if samples != len(gradients.samples):
        raise ValueError(
            f"the understanding features have {samples} samples, the generator is shown {len(gradients.samples)} "
            "stimuli: they must be the same, in the same order"
        )
    if samples < 2 * FOLDS:
        raise ValueError(f"descent needs {2 * FOLDS} samples or more, got {samples}: use more stimuli")
    if groups is None:
        return None
    numbers = numbered(groups, samples)[np.argsort(np.array(gradients.samples))]
    return numbered(numbers, samples)  # anew, because folds depend on the numbers


def _column(sizes: Sequence[float]) -> Array:
    return np.array(sizes)[:, None, None]


def _centred(block: Array) -> Array:
    """Return a block's gradients (sample, dim) less their mean, in at most as many dims as samples.

    Turning them all alike changes no squared error, and a generator is wider than there are stimuli.
    """
    block = block - block.mean(0)
    return block if block.shape[1] <= len(block) else np.asarray(np.linalg.qr(block.T, mode="r")).T
