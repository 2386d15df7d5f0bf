"""What drawing held-out images costs a model, with their captions or with others': the same batches for every model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...probes.hooks.model_state import evaluating
from ...probes.stimuli.stimulus_set import Stimuli
from ..generation.flow import targets_and_noise, velocity_loss
from .batches import batch_source

SEED = 2**31  # no training run has it


@torch.no_grad()
def validation_loss(
    model: Any, batches: int = 8, data: Stimuli | None = None, *, shuffled: bool = False, batch_size: int = 32
) -> list[float]:
    """What drawing each of so many batches of the validation part costs, with `shuffled` captions or their own.

    The velocity loss of any generator that denoises, so that layouts can be compared; nats a code of one that draws
    image tokens. The same images, noise and times every time, and no caption left out: losses of two models, or of two
    ways to caption, are paired by batch.

    Raises ValueError where the data have no validation part.
    """
    draw = batch_source(getattr(model, "pixels", model.size), data, SEED, batch_size, shuffled, part="validation")
    with evaluating(model):
        return [float(_drawing_loss(model, draw(number)).double()) for number in range(batches)]


def _drawing_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    if not hasattr(model, "predict"):
        return model.drawing_loss(batch)
    image, time, noise = targets_and_noise(model, batch)
    mix = time[:, None, None, None]
    predicted = model.predict(mix * noise + (1 - mix) * image, model.condition(batch["caption"]), time)
    return velocity_loss(predicted, image, time)
