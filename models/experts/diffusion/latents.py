"""Stimulus images as the latents that a diffusers pipeline denoises, noisy at a time between image and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ....probes.stimuli.controls import noise_for
from ....probes.stimuli.images import to_pixels
from ....probes.stimuli.stimulus_set import Stimulus

_MEASURE = 256  # pixels a side: a multiple of what any autoencoder and patching in use compress


class NoiseLevel(NamedTuple):
    """A time in a scheduler's own units: noisy = signal * clean + noise * Gaussian; `timestep` is what it calls it."""

    timestep: float
    signal: float
    noise: float


def moment(scheduler: Any, time: float) -> NoiseLevel:
    """The moment `time` (0 = clean image, 1 = noise) of a diffusers scheduler.

    Flow matching (Lipman et al. 2023, Esser et al. 2024): signal 1 - t, noise t. Variance preserving (Ho et al. 2020):
    signal sqrt(a), noise sqrt(1 - a) with a = alphas_cumprod[n], n = round(t * T) - 1, whatever the sampler:
    samplers of one schedule differ in their steps, not in what the denoiser sees.

    Raises ValueError for a schedule that is neither.
    """
    config, steps = scheduler.config, scheduler.config.get("num_train_timesteps")
    flow = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
    if flow or type(scheduler).__name__.startswith("FlowMatch"):
        return NoiseLevel(float(time * steps), 1 - time, time)
    if config.get("prediction_type") in ("epsilon", "v_prediction", "sample") and hasattr(scheduler, "alphas_cumprod"):
        at = max(round(time * steps) - 1, 0)
        kept = float(scheduler.alphas_cumprod[at])
        return NoiseLevel(at, kept**0.5, (1 - kept) ** 0.5)
    raise ValueError(
        f"the scheduler {type(scheduler).__name__} is neither flow matching nor variance preserving: how much noise it "
        "adds at a time is not known here. Give the pipeline one of these kinds, with the settings it was trained with"
    )


def noisy_latents(
    pipe: Any, stimuli: Sequence[Stimulus], shown: bool, now: NoiseLevel, shape: tuple[int, ...], stride: int
) -> Tensor:
    """Latents `shape` (batch, ...) at a moment, or pure noise where no image is shown; float32, on the CPU.

    `stride` is how many pixels a side one latent covers. The noise is a function of each stimulus's id, and another one
    where no image is shown: passes that share noise would be alike for that alone.
    """
    noise = noise_for([s.id if shown else f"{s.id} without its image" for s in stimuli], shape[1:])
    if not shown:
        return noise
    rows, columns = stride * shape[-2], stride * shape[-1]
    clean = clean_latents(pipe, to_pixels([s.image for s in stimuli], rows, columns)).float().cpu()
    if clean.shape != noise.shape and clean.dim() == 5:
        clean = clean.transpose(1, 2)  # (batch, frame, channel, row, column)
    if clean.shape != noise.shape:
        raise ValueError(
            f"{type(pipe).__name__} starts from latents {shape}, its autoencoder gives {tuple(clean.shape)} for a "
            "still image: wrap this pipeline in your own Subject (probes/subjects/subject.py)"
        )
    return now.signal * clean + now.noise * noise


def clean_latents(pipe: Any, images: Tensor) -> Tensor:
    """The autoencoder's mode for images (batch, channel, row, column) in -1..1, in the units that the denoiser knows.

    latent = (mode - shift) * scale, and (mode - mean) / std * scale where the autoencoder has statistics of its own:
    the inverse of what pipelines do before they decode.
    """
    vae = pipe.vae
    images = images.to(vae.device, vae.dtype)
    with torch.no_grad():
        coded = vae.encode(images[:, :, None] if _codes_videos(vae) else images)
    latents = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latent
    if hasattr(pipe, "_patchify_latents"):  # Flux 2 standardises patches of latents
        latents = pipe._patchify_latents(latents)
    mean, std = _units(vae, latents)
    return (latents - mean) / std


def decode_latents(pipe: Any, latents: Tensor) -> Tensor:
    """Images (batch, channel, row, column) in about -1..1 of latents (batch, channel, row, column) as `clean_latents`
    gives them; of a video's, the frame axis may be left out."""
    vae = pipe.vae
    latents = latents.to(vae.device, vae.dtype)
    if latents.dim() == 4 and _codes_videos(vae):
        latents = latents[:, :, None]
    mean, std = _units(vae, latents)
    latents = latents * std + mean
    if hasattr(pipe, "_unpatchify_latents"):
        latents = pipe._unpatchify_latents(latents)
    with torch.no_grad():
        images = vae.decode(latents).sample
    return images[:, :, 0] if images.dim() == 5 else images


def latent_stride(pipe: Any) -> int:
    """How many pixels a side one latent of the pipeline covers, measured on an empty image."""
    return _MEASURE // clean_latents(pipe, torch.zeros(1, 3, _MEASURE, _MEASURE)).shape[-1]


def _codes_videos(vae: Any) -> bool:
    return any(isinstance(part, nn.Conv3d) for part in vae.encoder.modules())


def _units(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """What to subtract from the autoencoder's own latents, then to divide by, for those that the denoiser knows."""
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
