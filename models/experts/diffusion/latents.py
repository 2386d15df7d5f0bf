"""Turn images into the latents that a diffusers pipeline denoises, noisy at a time between image and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ....probes.private_names import patchify_latents, unpatchify_latents
from ....probes.stimuli.controls import noise_for
from ....probes.stimuli.images import to_pixels
from ....probes.stimuli.stimulus_set import Stimulus
from .conventions import NoiseLevel

_MEASURE = 256  # pixels a side: a multiple of what any autoencoder and patching in use compress


def noisy_latents(
    pipe: Any, stimuli: Sequence[Stimulus], shown: bool, level: NoiseLevel, shape: tuple[int, ...], stride: int
) -> Tensor:
    """Return the stimuli's images as noisy latents, or pure noise where no image is shown.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Whose autoencoder is used.
    stimuli : sequence of Stimulus
        Whose images are resized to what the latents stand for.
    shown : bool
        Whether the images are shown.
    level : NoiseLevel
        How noisy.
    shape : tuple of int
        Of the latents, (batch, ...).
    stride : int
        How many pixels a side one latent covers.

    Returns
    -------
    Tensor
        Of this shape, float32, on the CPU.

    Raises
    ------
    ValueError
        If the autoencoder makes latents of another shape.

    Notes
    -----
    The noise is a function of each stimulus's id, and another one where no image is shown: passes that share noise
    would be alike for that alone.
    """
    noise = noise_for([s.id if shown else f"{s.id} without its image" for s in stimuli], shape[1:])
    if not shown:
        return noise
    rows, columns = stride * shape[-2], stride * shape[-1]
    clean = clean_latents(pipe, to_pixels([s.image for s in stimuli], rows, columns)).float().cpu()
    if clean.dim() == 4 and noise.dim() == 5:
        clean = clean[:, :, None]  # a video model on an autoencoder of pictures (Latte)
    if clean.dim() == 5 and noise.dim() == 4:
        clean = clean[:, :, 0]  # a picture model on an autoencoder of videos (Krea 2)
    if clean.shape != noise.shape and clean.dim() == 5:
        clean = clean.transpose(1, 2)  # (batch, frame, channel, row, column)
    if clean.shape != noise.shape:
        raise ValueError(
            f"{type(pipe).__name__} starts from latents {shape}, its autoencoder gives {tuple(clean.shape)} for a "
            "still image: wrap this pipeline in your own Subject (probes/subjects/subject.py)"
        )
    return level.signal * clean + level.noise * noise


def clean_latents(pipe: Any, images: Tensor) -> Tensor:
    """Return the autoencoder's mode for images, in the units that the denoiser knows.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Whose autoencoder is used.
    images : Tensor
        (batch, channel, row, column) in -1..1.

    Returns
    -------
    Tensor
        Latents (batch, channel, row, column), of a video's autoencoder (batch, channel, 1, row, column).

    Raises
    ------
    ValueError
        If the autoencoder does not encode a picture as it is set.

    Notes
    -----
    latent = (mode - shift) * scale, and (mode - mean) / std * scale where the autoencoder has a mean and a std for each
    channel: the inverse of what pipelines do before they decode.
    """
    vae = pipe.vae
    images = images.to(vae.device, vae.dtype)
    try:
        with torch.no_grad():
            coded = vae.encode(images[:, :, None] if _codes_videos(vae) else images)
    except NotImplementedError as error:
        raise ValueError(
            f"{type(vae).__name__} of {type(pipe).__name__} does not encode a picture as it is set: {error} Switch on "
            "what it asks for (pipe.vae.enable_tiling()), or wrap the pipeline in your own Subject"
        ) from error
    latents = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latent
    latents = patchify_latents(pipe, latents)  # Flux 2 standardises patches of latents
    mean, std = _units(vae, latents)
    return (latents - mean) / std


def decode_latents(pipe: Any, latents: Tensor) -> Tensor:
    """Return the images of latents, the inverse of `clean_latents`.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Whose autoencoder is used.
    latents : Tensor
        As `clean_latents` returns them; the frame axis of a video's may be left out.

    Returns
    -------
    Tensor
        (batch, channel, row, column) in about -1..1.
    """
    vae = pipe.vae
    latents = latents.to(vae.device, vae.dtype)
    if latents.dim() == 4 and _codes_videos(vae):
        latents = latents[:, :, None]
    mean, std = _units(vae, latents)
    latents = latents * std + mean
    latents = unpatchify_latents(pipe, latents)
    with torch.no_grad():
        images = vae.decode(latents).sample
    return images[:, :, 0] if images.dim() == 5 else images


def measure_latents(pipe: Any) -> tuple[int, int]:
    """Measure the latents of a pipeline's autoencoder, on an empty image.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Whose autoencoder is used.

    Returns
    -------
    stride : int
        Pixels a side that one latent covers.
    channels : int
        Of a latent.
    """
    latents = clean_latents(pipe, torch.zeros(1, 3, _MEASURE, _MEASURE))
    return _MEASURE // latents.shape[-1], latents.shape[1]


def _codes_videos(vae: Any) -> bool:
    return any(isinstance(part, nn.Conv3d) for part in vae.encoder.modules())


def _units(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return what turns the autoencoder's own latents into the denoiser's: subtract the first, divide by the second."""
    norm, axes = getattr(vae, "bn", None), (1, -1, *[1] * (latents.dim() - 2))
    if norm is not None:
        mean, std = norm.running_mean, torch.sqrt(norm.running_var + vae.config.batch_norm_eps)
    else:
        mean, std = (_statistic(vae, name) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        mean, std = latents.new_zeros(1), latents.new_ones(1)
    mean, std = mean.view(axes).to(latents), std.view(axes).to(latents)
    shift, scale = vae.config.get("shift_factor"), vae.config.get("scaling_factor")
    return mean + std * (shift or 0.0), std / (1.0 if scale is None else scale)


def _statistic(vae: Any, name: str) -> Tensor | None:
    value = vae.config.get(name)
    value = dict(vae.named_buffers(recurse=False)).get(name) if value is None else value
    return None if value is None else torch.as_tensor(value)
