"""Measure the loss on held-out images, with their own captions or with others': the same batches for every model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...probes.hooks.model_state import evaluating
from ...probes.stimuli.stimulus_set import Stimuli
from ...probes.subjects.subject import modules_of
from ..generation.flow import flow_loss
from ..generation.sampling import as_generator, draws_tokens
from .batches import batch_source

SEED = 2**31  # no training run has this seed


@torch.no_grad()
def validation_loss(
    model: Any, batches: int = 8, data: Stimuli | None = None, *, shuffled: bool = False, batch_size: int = 32
) -> list[float]:
    """Return the loss of drawing each batch of the validation part.

    Parameters
    ----------
    model : FusedModel, UnifiedModel, UnifiedTokens or DitExpert
        The model. It is scored in evaluation mode and comes back in the mode that it was in.
    batches : int
        Number of batches.
    data : Stimuli, optional
        Images with captions; None stands for scenes.
    shuffled : bool
        Whether every image gets another image's caption instead of its own.
    batch_size : int
        Number of images in a batch.

    Returns
    -------
    list of float
        One loss per batch: the velocity loss of a generator that denoises, so that layouts can be compared; nats per
        code of a model that draws image tokens.

    Raises
    ------
    ValueError
        If the data have no validation part.

    Notes
    -----
    Images, noise and times are the same every time, and no caption is left out: the losses of two models, or of two
    ways to caption, are paired by batch.
    """
    draw = batch_source(as_generator(model).pixels, data, SEED, batch_size, shuffled, part="validation")
    parts = (model,) if isinstance(model, nn.Module) else modules_of(model).values()
    with evaluating(*parts):
        return [float(_drawing_loss(model, draw(number)).double()) for number in range(batches)]


def _drawing_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    return model.drawing_loss(batch) if draws_tokens(model) else flow_loss(model, batch)
