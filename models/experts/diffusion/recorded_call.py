"""Record the denoiser call that a diffusers pipeline would make for a prompt, noisy latents and a timestep."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Draw = Callable[[tuple[int, ...]], Tensor]


class Call(NamedTuple):
    """Hold what a denoiser was called with, and what the text encoders read before it.

    Attributes
    ----------
    arguments : dict
        By the names of the denoiser's `forward`.
    read : list of (Tensor, Tensor or None)
        For each call of a text encoder in order, its token ids (batch, token) and attention mask.
    """

    arguments: dict[str, Any]
    read: list[tuple[Tensor, Tensor | None]]


class _Recorded(Exception):
    """Raised in place of running the denoiser: nothing behind it is needed."""


def record_call(pipe: Any, denoiser: Any, prompts: Sequence[str], draw: Draw, scheduler: Any, **chosen: Any) -> Call:
    """Run a pipeline as its users do, up to its first call of the denoiser, without classifier-free guidance.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Not changed.
    denoiser : torch.nn.Module
        The pipeline's.
    prompts : sequence of str
        One for each sample.
    draw : callable
        `draw(shape)` returns the initial noise, in the shape that it has before packing.
    scheduler : diffusers.SchedulerMixin
        Takes the place of the pipeline's own (see `frozen_scheduler`).
    **chosen : Any
        More of the pipeline's own arguments.

    Returns
    -------
    Call

    Raises
    ------
    RuntimeError
        If the pipeline draws its latents in another way, or does not call this denoiser.

    Notes
    -----
    The pipeline prepares everything by its own code: templates, text encoders, position ids, packing of the latents,
    and the units of the timestep.
    """
    offered = inspect.signature(pipe.__call__).parameters
    options = {
        "prompt": list(prompts), "num_inference_steps": 2, "num_frames": 1, "output_type": "latent",
        "use_resolution_binning": False, **chosen,
    }  # fmt: skip
    guidance = "true_cfg_scale" if "true_cfg_scale" in offered else "guidance_scale"
    if guidance == "true_cfg_scale" or not denoiser.config.get("guidance_embeds"):
        options[guidance] = 1.0  # elsewhere guidance_scale is an input of the denoiser, which was trained on it
    runner = copy.copy(pipe)
    runner.scheduler = scheduler
    runner.set_progress_bar_config(disable=True)

    calls: list[dict[str, Any]] = []
    read: list[tuple[Tensor, Tensor | None]] = []

    def denoise(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        calls.append(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
        raise _Recorded

    def encode(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if isinstance(ids, Tensor):
            read.append((ids, kwargs.get("attention_mask")))

    encoders = [part for name, part in pipe.components.items() if name.startswith("text_encoder") and part is not None]
    handles = [part.register_forward_pre_hook(encode, with_kwargs=True) for part in encoders]
    handles.append(denoiser.register_forward_pre_hook(denoise, with_kwargs=True))
    noise = _Noise(draw)
    try:
        with noise:
            runner(**{name: value for name, value in options.items() if name in offered})
    except _Recorded:
        pass
    finally:
        for handle in handles:
            handle.remove()
    what = f"{type(pipe).__name__} with {type(denoiser).__name__}"
    if not calls:
        raise RuntimeError(f"{what}: the pipeline ran without calling it: is another denoiser meant for this timestep?")
    if noise.drawn != 1:
        raise RuntimeError(f"{what}: the pipeline drew its initial latents {noise.drawn} times, expected once")
    return Call(calls[0], read)


def frozen_scheduler(scheduler: Any, timestep: float, sigma: float, device: torch.device) -> Any:
    """Copy a scheduler so that it stands at one timestep and scales nothing.

    Parameters
    ----------
    scheduler : diffusers.SchedulerMixin
        Not changed.
    timestep : float
        In the scheduler's own units.
    sigma : float
        The noise level that goes with it.
    device : torch.device
        Where the timesteps are.

    Returns
    -------
    diffusers.SchedulerMixin
        A pipeline's loop over its `timesteps` calls the denoiser at this timestep, on the latents as they are.
    """

    @functools.wraps(type(scheduler).set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        self.timesteps = torch.tensor([timestep], device=device)
        self.sigmas = torch.tensor([sigma, 0.0])
        self.num_inference_steps = 1

    def scale_model_input(self: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return sample

    members = {"set_timesteps": set_timesteps, "scale_model_input": scale_model_input, "init_noise_sigma": 1.0}
    still = copy.copy(scheduler)
    still.__class__ = type(type(scheduler).__name__, (type(scheduler),), members)
    still.init_noise_sigma = 1.0
    return still


class _Noise(TorchFunctionMode):
    """Return `draw(shape)` where the pipeline draws Gaussian latents: the one `torch.randn` of four or more axes."""

    def __init__(self, draw: Draw):
        self.draw, self.drawn = draw, 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        shape = tuple(args[0]) if func is torch.randn and args and isinstance(args[0], tuple | list) else args
        if func is not torch.randn or len(shape) < 4:
            return func(*args, **kwargs)
        self.drawn += 1
        return self.draw(shape).to(device=kwargs.get("device"), dtype=kwargs.get("dtype"))
