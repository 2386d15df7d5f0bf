"""Record the denoiser call that a diffusers pipeline would make for a prompt, noisy latents and a timestep."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .pipeline_runs import Draw, Noise, Recorded, encoders_read, run_pipeline
from .prompt_words import EncoderCall, tagged, tensors, words_among


class Call(NamedTuple):
    """Hold what a denoiser was called with, and what the text encoders read before it.

    Attributes
    ----------
    arguments : dict
        By the names of the denoiser's `forward`.
    read : list of EncoderCall
        The calls of text encoders in order.
    """

    arguments: dict[str, Any]
    read: list[EncoderCall]


def record_call(
    pipe: Any, denoiser: nn.Module, prompts: Sequence[str], draw: Draw, scheduler: Any, **chosen: Any
) -> Call:
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
    calls: list[dict[str, Any]] = []

    def answer(arguments: dict[str, Any]) -> Any:
        calls.append(arguments)
        raise Recorded

    noise = Noise(draw)
    with encoders_read(pipe) as read:
        run_pipeline(pipe, denoiser, prompts, noise, scheduler, answer, **chosen)
    check_run(pipe, denoiser, calls, noise)
    return Call(calls[0], read)


def trace_words(
    pipe: Any, denoiser: nn.Module, prompts: Sequence[str], call: Call, table: Tensor, scheduler: Any, **chosen: Any
) -> Tensor:
    """Follow each token that the text encoders read to where the denoiser is given its states.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Not changed.
    denoiser : torch.nn.Module
        The pipeline's.
    prompts : sequence of str
        Those of `call`.
    call : Call
        As `record_call` returns it.
    table : Tensor
        Which tokens are words (`word_table`).
    scheduler : diffusers.SchedulerMixin
        As for `record_call`.
    **chosen : Any
        More of the pipeline's own arguments.

    Returns
    -------
    Tensor
        Mask (batch, token) of words among the denoiser's text tokens.

    Raises
    ------
    ValueError
        If the pipeline computes with the encoders' states, so that they cannot be followed.

    Notes
    -----
    The pipeline runs again, with encoders that do not compute: the states of each token are its number.
    """
    numbers = torch.zeros(1)
    exact = all(leaf.dtype == torch.float32 for leaf in tensors([each.output for each in call.read]))
    for digit in [None] if exact else [1, 0]:
        outputs = iter(tagged(call.read, digit))
        fakes = {each.encoder: lambda *args, outputs=outputs, **kwargs: next(outputs) for each in call.read}
        calls: list[dict[str, Any]] = []

        def answer(arguments: dict[str, Any], calls: list[dict[str, Any]] = calls) -> Any:
            calls.append(arguments)
            raise Recorded

        run_pipeline(pipe, denoiser, prompts, Noise(torch.zeros), scheduler, answer, encoders=fakes, **chosen)
        numbers = 256 * numbers + calls[0]["encoder_hidden_states"].float().cpu()
    words = words_among(numbers, table)
    if words is None:
        raise ValueError(
            f"{type(pipe).__name__} computes with the states of its text encoders before its denoiser is given them: "
            "which of those are the caption's words is not known. Show it images alone, or wrap it in your own Subject "
            "(probes/subjects/subject.py)"
        )
    return words


def check_run(pipe: Any, denoiser: nn.Module, calls: Sequence[Any], noise: Noise) -> None:
    """Refuse a pipeline that did not call its denoiser, or did not draw its latents once.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        That has run.
    denoiser : torch.nn.Module
        The pipeline's.
    calls : sequence
        One item for each call of the denoiser.
    noise : Noise
        That the pipeline ran with.

    Raises
    ------
    RuntimeError
        Which of the two.
    """
    what = f"{type(pipe).__name__} with {type(denoiser).__name__}"
    if not calls:
        raise RuntimeError(f"{what}: the pipeline ran without calling it: is another denoiser meant for this timestep?")
    if noise.drawn != 1:
        raise RuntimeError(
            f"{what}: the pipeline drew Gaussian latents {noise.drawn} times before it called it, expected once: wrap "
            "it in your own Subject (probes/subjects/subject.py)"
        )


def frozen_scheduler(scheduler: Any, timestep: Tensor, sigma: float) -> Any:
    """Copy a scheduler so that it stands at one timestep and scales nothing.

    Parameters
    ----------
    scheduler : diffusers.SchedulerMixin
        Not changed.
    timestep : Tensor
        (1,), in the scheduler's own units, on the device that the pipeline runs on.
    sigma : float
        The sigma that goes with it.

    Returns
    -------
    diffusers.SchedulerMixin
        A pipeline's loop over its `timesteps` calls the denoiser at this timestep, on the latents as they are.
    """

    @functools.wraps(type(scheduler).set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        self.timesteps = timestep.clone()
        self.sigmas = torch.tensor([sigma, 0.0])
        self.num_inference_steps = 1

    def scale_model_input(self: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return sample

    members = {"set_timesteps": set_timesteps, "scale_model_input": scale_model_input, "init_noise_sigma": 1.0}
    still = copy.copy(scheduler)
    still.__class__ = type(type(scheduler).__name__, (type(scheduler),), members)
    still.init_noise_sigma = 1.0
    return still
