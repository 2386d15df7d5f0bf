"""Measure, without training, how far the loss of a generator would fall if its blocks could read a text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...probes.arguments import SEEDS, checked
from ...probes.evidence.descent import BlockGradients, check_samples, explained_map
from ...probes.hooks.model_state import evaluating, frozen
from ...probes.metrics.metric import Array
from ...probes.similarity.inputs import Stack, read_stack
from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimuli
from ..fusion.expert_passes import expert_tower, noise_pass
from ..generation.flow import TIME_SPREAD, add_noise, velocity_loss
from ..generation.sampling import Generator, as_generator
from ..towers.tower import Tower
from ..towers.visiting import visiting
from ..training.batches import BRIDGE_TIME_SHIFT

DRAWS = 4
_PARTS = ("predict", "encode", "size", "model", "blocks", "name")


def descent_map(
    understanding: Stack,
    generation: Any,
    stimuli: Stimuli,
    *,
    groups: Sequence[Any] | Array | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Measure how far the generator's loss would fall, to first order, if each block were given each text layer.

    Nothing is trained. The frozen generator draws the stimuli with the null caption, as a fused model's does, and one
    backward pass gives the negative gradient of its loss at the image tokens behind each block. What a linear read of
    the text could do there is the part of the gradient that cross-validated ridge regression explains::

        D(u, g) = R^2(G_g | u) * E |G_g - E G_g|^2,    G_g = gradient * size of the block's states

    Parameters
    ----------
    understanding : LayerFeatures or stack
        The text states of the understanding expert on the stimuli, as `similarity_map` takes them.
    generation : Any
        The generation expert of a fused model: a `DitExpert`, a `LatentGenerator`, or an expert of your own with their
        `predict`, `encode`, `size`, `model` and `blocks`.
    stimuli : Stimuli
        The images with their captions, in the order of the features.
    groups : sequence, optional
        A label for each stimulus: stimuli of one group, such as captions of one scene, are held out together.
    draws : int
        How many noises and times the gradient of each stimulus is averaged over. More draws leave less noise to
        explain; the cost grows with them.
    seed : int
        The seed of noise and times, beside the id of each stimulus.
    batch_size : int
        Stimuli at once.

    Returns
    -------
    DataFrame
        A table like a layer map, (understanding layer, generation block), for the rule "descent"; 0 is nothing.
        `attrs`, plain JSON, are those of `similarity_map` with the metric "descent"; draws; for each block sizes, the
        root mean square norm of its image tokens, and gradients, E |G_g - E G_g|^2, by which a column is divided for
        R^2; cost, the seconds that gradients and regressions took.

    Raises
    ------
    ValueError
        If the features are of other stimuli than these, if there are fewer than 10, if draws or batch_size are below 1,
        if the generator draws other images than three colours, or if a gradient is missing, not finite, or the same for
        all stimuli.
    TypeError
        If the generation expert has no loss to descend: one that draws image tokens, or none that draws; if the stimuli
        are no `Stimuli`.

    See Also
    --------
    bridgework.probes.choose_bridges : Chooses bridges from the table by the rule "descent".
    bridgework.models.evaluation.block_gradients : Makes the gradients alone, for several understanding experts.

    Notes
    -----
    The read is one vector for each stimulus, added to all of its image tokens: the gradient by it is exactly the sum
    of the gradients of the tokens. A bridge that attends may give each token another vector, and can only gain more.
    R^2 is out of fold (5 folds, penalties as in `complementarity_map`), floored at 0. What a constant read would gain
    is left out.

    The gradient is measured in units of the block's size, because a read can move a block by a share of its states.
    Without that, a gradient is larger wherever states are smaller, and scaling the states of a block, undone behind it,
    would change the map. A step of the read along its gradient, in these units, lowers the loss by the step times D to
    first order; under one budget for the squared steps of all bridges a plan gains by the sum of D over its pairs.

    Times are drawn as bridges are trained, one from each of `draws` equal parts of their distribution. Noise and times
    are functions of seed and id: the order of the stimuli and the batch size do not matter.

    Examples
    --------
    >>> heat = descent_map(seen["text"], open_expert("scenes-dit"), stimuli)
    >>> plan = choose_bridges(heat, rule="descent", bridges=4)
    >>> heat.to_parquet("descent.parquet")        # bridgework choose ... --rule descent --evidence descent.parquet
    """
    began = time.perf_counter()
    _checked(generation, stimuli, draws, batch_size, seed)
    layers = read_stack(understanding, "understanding")[0]
    check_samples(understanding, len(layers[0]), _unmeasured(generation, stimuli, draws), groups)
    gradients = block_gradients(generation, stimuli, draws=draws, seed=seed, batch_size=batch_size)
    heat = explained_map(understanding, gradients, groups)
    heat.attrs["cost"] = {"seconds": round(time.perf_counter() - began, 1)}
    return heat


def block_gradients(
    generation: Any, stimuli: Stimuli, *, draws: int = DRAWS, seed: int = 0, batch_size: int = 32
) -> BlockGradients:
    """Measure the gradient of the generator's loss by a vector that is added to all image tokens behind each block.

    Parameters
    ----------
    generation, stimuli, draws, seed, batch_size
        As in `descent_map`.

    Returns
    -------
    BlockGradients
        Negative gradients, (block, sample, dim), and the sizes of the blocks' states.

    Raises
    ------
    ValueError, TypeError
        As `descent_map` does.

    See Also
    --------
    bridgework.probes.evidence.descent.explained_map : Makes the map of an understanding expert from them.

    Notes
    -----
    Parameters get no gradients. Their flags, and the training mode of each part, are left as they were.
    """
    began = time.perf_counter()
    generator = _checked(generation, stimuli, draws, batch_size, seed)
    tower = expert_tower(generation, noise_pass(generation), "image")
    encoder = getattr(generation, "text_encoder", None)
    parts = [part for part in (generation.model, encoder) if isinstance(part, nn.Module)]
    found, squares = [], []
    with evaluating(*parts), frozen(*parts), torch.inference_mode(False):
        with torch.no_grad():
            null = generation.encode([""])
        for start in tqdm(range(0, len(stimuli), batch_size), desc="gradients", leave=False, delay=2):
            batch = stimuli[start : start + batch_size]
            ids = [stimulus.id for stimulus in batch]
            with torch.no_grad():
                images = to_pixels([s.image for s in batch], *generator.pixels[1:]).to(generator.device)
                clean = generator.latents(images)
            passes = []
            for draw in range(draws):
                noise, times = training_noise(ids, generator.size, draw, draws, seed)
                text = null.expand(len(ids), *null.shape[1:])
                passes.append(_pass(generation, tower, text, clean, noise.to(clean), times.to(clean.device), ids))
            gradients, norms = zip(*passes, strict=True)
            found.append(torch.stack(gradients).mean(0).cpu())
            squares.append(torch.stack(norms).mean(0).cpu())
    sizes = tuple(torch.cat(squares, 1).double().mean(1).sqrt().tolist())
    seconds = time.perf_counter() - began
    return _unmeasured(generation, stimuli, draws)._replace(values=torch.cat(found, 1), sizes=sizes, seconds=seconds)


def training_noise(
    ids: Sequence[str], size: Sequence[int], draw: int, draws: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw noise and a time for each stimulus, as bridges are trained, as a function of its id.

    Parameters
    ----------
    ids : sequence of str
        Ids of the stimuli.
    size : sequence of int
        Channel, row, column of what is denoised.
    draw, draws : int
        Which of how many draws. Its time is of the equal part of the distribution with that number.
    seed : int
        Another seed draws others.

    Returns
    -------
    noise : Tensor
        (stimulus, channel, row, column).
    times : Tensor
        (stimulus,), 1 is noise.
    """
    names = [f"{name}, gradient {seed} {draw}" for name in ids]
    share = torch.special.ndtr(noise_for([f"{name}, time" for name in names], (1,))[:, 0].double())
    normal = torch.special.ndtri((draw + share) / draws)
    return noise_for(names, tuple(size)), torch.sigmoid(BRIDGE_TIME_SHIFT + TIME_SPREAD * normal).float()


def _pass(
    generation: Any, tower: Tower, text: Tensor, clean: Tensor, noise: Tensor, times: Tensor, ids: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return negative gradients (block, sample, dim) and mean squared norms of image tokens (block, sample)."""
    reads: dict[int, Tensor] = {}
    sizes: dict[int, Tensor] = {}
    blocks = range(len(tower.blocks))

    def adding(number: int) -> Callable[[Tensor], Tensor]:
        def visit(state: Tensor) -> Tensor:
            if number not in reads:  # a checkpointed block is visited again, and must read the same
                reads[number] = state.new_zeros(len(state), 1, state.shape[2], requires_grad=True)
            sizes[number] = state.detach().float().square().sum(2).mean(1)
            return state + reads[number]

        return visit

    with torch.enable_grad(), visiting(tower, {number: adding(number) for number in blocks}):
        predicted = generation.predict(add_noise(clean, noise, times), text, times)
        # the gradient of a sum of squares: half precision would lose that of a mean
        loss = velocity_loss(predicted, clean, times) * clean.numel()
        if not loss.requires_grad:
            raise ValueError(
                f"what {generation.name} predicts has no gradient: its predict runs under torch.no_grad or "
                "inference_mode, or returns nothing that comes from its blocks; take that out of predict"
            )
        gradients = torch.autograd.grad(loss, [reads[number] for number in blocks], allow_unused=True)
    rows = []
    for path, gradient in zip(tower.blocks, gradients, strict=True):
        if gradient is None:
            raise ValueError(
                f"the loss of {generation.name} does not depend on the image tokens behind block {path!r}: no read "
                "there can change what is drawn; give the expert the blocks that its output comes from"
            )
        if len(wrong := (~gradient.isfinite()).any(2).nonzero()):
            raise ValueError(
                f"the gradient of {generation.name} at block {path!r} holds NaN or infinity for the stimulus "
                f"{ids[int(wrong[0, 0])]!r}: open the expert in float32"
            )
        rows.append(gradient[:, 0].float() / -clean[0].numel())
    return torch.stack(rows), torch.stack([sizes[number] for number in blocks])


def _checked(generation: Any, stimuli: Stimuli, draws: int, batch_size: int, seed: int) -> Generator:
    """Return the expert as a generator, or raise the error that says what is missing."""
    if not isinstance(stimuli, Stimuli):
        raise TypeError(f"stimuli are a {type(stimuli).__name__}: open images with their captions by load_stimuli")
    if missing := [name for name in _PARTS if not hasattr(generation, name)]:
        raise TypeError(
            f"{type(generation).__name__} has no {missing[0]}, so there is no loss of denoising to descend: expected "
            "the generation expert of a fused model, a DitExpert or a LatentGenerator"
        )
    for name, value in (("draws", draws), ("batch_size", batch_size)):
        checked(name, value, int, least=1)
    checked("seed", seed, int, **SEEDS)
    generator = as_generator(generation)
    if generator.pixels[0] != 3:
        raise ValueError(f"{generation.name} draws images of {generator.pixels}: expected three channels")
    return generator


def _unmeasured(generation: Any, stimuli: Stimuli, draws: int) -> BlockGradients:
    """Return the gradients of stimuli before they are measured."""
    digests = dict(zip(stimuli.ids, stimuli.digests, strict=True))
    return BlockGradients(torch.empty(0), (), generation.name, stimuli.ids, digests, draws, 0.0)
