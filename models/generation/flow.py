"""Compute the flow-matching loss that generators are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimulus
from .sampling import as_generator

TIME_SPREAD = 1.2  # training times are sigmoids of normal numbers with this standard deviation
MIN_TIME = 0.05  # the velocity is an error divided by the time: an earlier time divides by this one


def add_noise(image: Tensor, noise: Tensor, time: Tensor | float) -> Tensor:
    """Return images on the straight line to noise: `time * noise + (1 - time) * image`.

    Parameters
    ----------
    image, noise : Tensor
        (batch, channel, row, column).
    time : Tensor or float
        One for each image, (batch,), or one for all: 0 is the image, 1 is noise.

    Returns
    -------
    Tensor
        (batch, channel, row, column).
    """
    share = time[:, None, None, None] if isinstance(time, Tensor) else time
    return share * noise + (1 - share) * image


def velocity_loss(predicted: Tensor, image: Tensor, time: Tensor) -> Tensor:
    """Return the mean squared error of the velocity that follows from a predicted clean image.

    Parameters
    ----------
    predicted, image : Tensor
        The predicted and the true clean image, (batch, channel, row, column).
    time : Tensor
        (batch,), 0 is the clean image and 1 is noise.

    Returns
    -------
    Tensor
        A scalar.

    Notes
    -----
    With `z = time * noise + (1 - time) * image`, the velocity is `(z - image) / time`: its error is that of the image
    divided by the time. Times below `MIN_TIME` divide by `MIN_TIME`.
    """
    return ((predicted - image) / time.clamp(min=MIN_TIME)[:, None, None, None]).square().mean()


def targets_and_noise(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a model has to draw of a batch, with times and noise, on its device.

    Parameters
    ----------
    model : Generator
        Or any object that `as_generator` accepts.
    batch : dict
        With "image" and "noise", (batch, channel, row, column), and "time", (batch,).

    Returns
    -------
    image : Tensor
        The images, or their latents where the model draws these, (batch, channel, row, column).
    time : Tensor
        (batch,).
    noise : Tensor
        As many numbers of the batch's noise as the image has, in its shape.
    """
    model = as_generator(model)
    image, time, noise = (batch[name].to(model.device) for name in ("image", "time", "noise"))
    image = model.latents(image)
    return image, time, noise.flatten(1)[:, : image[0].numel()].view_as(image)


def denoising_loss(model: Any, captions: Sequence[str], image: Tensor, time: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity loss of drawing images, or their latents, from their captions.

    Parameters
    ----------
    model : Generator
        Or any object that `as_generator` accepts.
    captions : sequence of str
        One for each image.
    image, time, noise : Tensor
        As `targets_and_noise` returns them.

    Returns
    -------
    Tensor
        A scalar.
    """
    predicted = model.predict(add_noise(image, noise, time), model.condition(captions), time)
    return velocity_loss(predicted, image, time)


def flow_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    """Return the velocity loss of drawing a batch's images from their captions.

    Parameters
    ----------
    model : Generator
        Or any object that `as_generator` accepts.
    batch : dict
        With "image", "caption", "time" and "noise", as `stimuli_batch` in models/training/batches.py makes it.

    Returns
    -------
    Tensor
        A scalar.
    """
    return denoising_loss(model, batch["caption"], *targets_and_noise(model, batch))


def noisy_images(stimuli: Sequence[Stimulus], shown: bool, timestep: float | None, side: int) -> tuple[Tensor, Tensor]:
    """Return the stimuli's images with noise, or pure noise, for a probing pass.

    Parameters
    ----------
    stimuli : sequence of Stimulus
        Whose images are resized to `side`.
    shown : bool
        Whether the images are shown; if not, their place is taken by pure noise.
    timestep : float or None
        0 is the clean image, 1 is noise; None is noise.
    side : int
        Rows and columns in pixels.

    Returns
    -------
    noisy : Tensor
        (batch, channel, row, column).
    time : Tensor
        (batch,).

    Notes
    -----
    The noise is a function of each stimulus's id, and another one where no image is shown: passes that share noise
    would be alike for that alone.
    """
    time = 1.0 if timestep is None or not shown else timestep
    image = to_pixels([s.image for s in stimuli], side)
    ids = [s.id if shown else f"{s.id} without its image" for s in stimuli]
    return add_noise(image, noise_for(ids, tuple(image.shape[1:])), time), torch.full((len(stimuli),), time)
