"""Compute the flow-matching loss that generators are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimulus


def targets_and_noise(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """What the model draws of a batch, times and noise: the images, or their latents with as much of the noise."""
    image, time, noise = (batch[name].to(model.device) for name in ("image", "time", "noise"))
    if not hasattr(model, "latents"):
        return image, time, noise
    image = model.latents(image)
    return image, time, noise.flatten(1)[:, : image[0].numel()].view_as(image)


def noisy_images(stimuli: Sequence[Stimulus], shown: bool, timestep: float | None, side: int) -> tuple[Tensor, Tensor]:
    """Images (batch, channel, row, column) at `timestep`, or pure noise where none is shown, and the times (batch,).

    The noise is a function of each stimulus's id, and another one where no image is shown: passes that share noise
    would be alike for that alone.
    """
    time = 1.0 if timestep is None or not shown else timestep
    image = to_pixels([s.image for s in stimuli], side)
    ids = [s.id if shown else f"{s.id} without its image" for s in stimuli]
    noisy = time * noise_for(ids, tuple(image.shape[1:])) + (1 - time) * image
    return noisy, torch.full((len(stimuli),), time)


MIN_TIME = 0.05  # velocity is an error divided by time: below this time the division is held


def velocity_loss(predicted: Tensor, image: Tensor, time: Tensor) -> Tensor:
    """Mean squared error of the velocity, from that of the predicted clean image."""
    return ((predicted - image) / time.clamp(min=MIN_TIME)[:, None, None, None]).square().mean()
