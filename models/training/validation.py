"""What drawing held-out images costs a model, with their captions or with others': the same batches for every model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...probes.hooks.model_state import evaluating
from ...probes.stimuli.stimulus_set import Stimuli
from ..generation.flow import flow_loss
from ..generation.sampling import as_generator, draws_tokens
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
    draw = batch_source(as_generator(model).pixels, data, SEED, batch_size, shuffled, part="validation")
    with evaluating(model):
        return [float(_drawing_loss(model, draw(number)).double()) for number in range(batches)]


def _drawing_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    return model.drawing_loss(batch) if draws_tokens(model) else flow_loss(model, batch)
