"""Run a pipeline's own loop with an oracle in the denoiser's place, which knows image and noise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .pipeline_runs import Noise, Recorded, run_pipeline
from .recorded_call import check_run

STEPS = 4
TARGETS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    # What a denoiser may be trained to return, of the noise, for an image that is 1 everywhere.
    "noise": lambda noise, signal, level: noise,
    "v": lambda noise, signal, level: signal * noise - level,
    "noise - image": lambda noise, signal, level: noise - 1,
    "image - noise": lambda noise, signal, level: 1 - noise,
    "image": lambda noise, signal, level: torch.ones_like(noise),
}


class Moment(NamedTuple):
    """Hold one call of the denoiser in the loop.

    Attributes
    ----------
    arguments : dict
        What the denoiser was given.
    timestep : Tensor
        A scalar, the scheduler's.
    sigma : float or None
        The scheduler's; None where it has none.
    signal, noise : float
        How much of the image and of the noise the latents held: noisy = signal * image + noise * Gaussian.
    fresh : bool
        Whether the sampler had drawn further noise.
    """

    arguments: dict[str, Any]
    timestep: Tensor
    sigma: float | None
    signal: float
    noise: float
    fresh: bool


class Latents(NamedTuple):
    """Say where the denoiser's arguments hold the latents.

    Attributes
    ----------
    name : str
        The argument.
    places : Tensor
        Positions of the latents in the argument's numbers, flattened.
    gain : float
        What the pipeline had multiplied the drawn noise by.
    count : int
        How many numbers the argument holds.
    """

    name: str
    places: Tensor
    gain: float
    count: int


class Loop(NamedTuple):
    """Hold what a pipeline's own loop did.

    Attributes
    ----------
    moments : list of Moment
        Calls of the denoiser, at most `STEPS`.
    latents : Latents
        Where the first call held the latents.
    drawn : Tensor
        What the pipeline received as its initial latents.
    scheduler : diffusers.SchedulerMixin
        With the timesteps and sigmas that the pipeline set.
    """

    moments: list[Moment]
    latents: Latents
    drawn: Tensor
    scheduler: Any


def run_loop(
    pipe: Any,
    denoiser: nn.Module,
    begin: tuple[float, float],
    target: str | None,
    output: Any,
    fits: Callable[[Moment], bool],
    steps: int = STEPS,
    **chosen: Any,
) -> Loop:
    """Run a pipeline's loop for the empty prompt, with an oracle that answers for an image of 1 everywhere.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Not changed.
    denoiser : torch.nn.Module
        The pipeline's; it does not run.
    begin : (float, float)
        How much of the image and of the noise the first latents hold, before the pipeline scales them.
    target : str or None
        What the oracle returns, a key of `TARGETS`. None: the loop ends at the first call.
    output : Any
        What the denoiser returned for the loop's first arguments; answers have this form.
    fits : callable
        `fits(moment)` is asked at each call but the first; the loop ends where it says no.
    steps : int
        How many the pipeline is asked for.
    **chosen : Any
        More of the pipeline's own arguments.

    Returns
    -------
    Loop

    Raises
    ------
    RuntimeError
        If the pipeline cannot be run, or changes its latents otherwise than by scaling and moving them.

    Notes
    -----
    Where an image is 1 everywhere and noise has mean 0 and standard deviation 1, the mean and the standard deviation of
    noisy latents are the two weights, however they are packed. Noise that a sampler draws between steps is made
    orthogonal to the noise that is there, so that this holds exactly.
    """
    scheduler, moments, found = _unclipped(pipe.scheduler), [], []
    state: dict[str, Any] = {"fresh": False}

    def draw(shape: tuple[int, ...]) -> Tensor:
        state["drawn"] = begin[0] + begin[1] * unit_noise(shape)
        return state["drawn"]

    def again(shape: tuple[int, ...]) -> Tensor:
        state["fresh"] = True
        there = state["noise"] if torch.Size(shape).numel() == state["noise"].numel() else None
        return unit_noise(shape, seed=1 + len(moments), apart_from=there)

    def answer(arguments: dict[str, Any]) -> Any:
        if not found:
            if not noise.drawn:
                raise Recorded
            found.append(find_latents(arguments, state["drawn"], type(pipe).__name__))
            noise.again = again
        latents = flat(arguments[found[0].name])[found[0].places]
        signal, level = float(latents.mean()), float(latents.std(correction=0))
        place, sigmas = len(moments), getattr(scheduler, "sigmas", None)
        sigma = None if sigmas is None or len(sigmas) <= place else float(sigmas[place])
        moments.append(
            Moment(arguments, torch.as_tensor(scheduler.timesteps[place]), sigma, signal, level, state["fresh"])
        )
        if target is None or len(moments) == STEPS or (place and not fits(moments[-1])):
            raise Recorded
        state["noise"] = (latents - signal) / level
        return filled(output, TARGETS[target](state["noise"], signal, level), arguments[found[0].name])

    noise = Noise(draw)
    run_pipeline(pipe, denoiser, [""], noise, scheduler, answer, steps, **chosen)
    check_run(pipe, denoiser, moments if noise.drawn else [True], noise)
    return Loop(moments, found[0], state["drawn"], scheduler)


def find_latents(arguments: dict[str, Any], drawn: Tensor, kind: str) -> Latents:
    """Find where a denoiser's arguments hold the latents that a pipeline drew.

    Parameters
    ----------
    arguments : dict
        The denoiser's.
    drawn : Tensor
        What the pipeline received.
    kind : str
        The pipeline's class.

    Returns
    -------
    Latents

    Raises
    ------
    RuntimeError
        If no argument holds these numbers, each once.
    """
    wanted = drawn.double().cpu().flatten()
    for name, value in arguments.items():
        numbers = flat(value)
        if len(numbers) == len(wanted):
            gain = float(numbers.norm() / wanted.norm())
            rounding = 1e-4 if _first(value).dtype == torch.float32 else 2e-2
            scaled = gain * wanted.sort().values
            if gain and torch.allclose(numbers.sort().values, scaled, atol=rounding * float(scaled.abs().max())):
                return Latents(name, torch.arange(len(numbers)), gain, len(numbers))
        elif len(numbers) > len(wanted):
            places = torch.isin(numbers, drawn.to(_first(value).dtype).double().cpu()).nonzero()[:, 0]
            if len(places) == len(wanted):
                return Latents(name, places, 1.0, len(numbers))
            if len(places) == 2 * len(wanted):
                raise RuntimeError(f"{kind}: one prompt became a batch of two: guidance is on")
    raise RuntimeError(
        f"{kind} changes its latents before it denoises them: what it would show of an image is not known here. Wrap "
        "it in your own Subject (probes/subjects/subject.py)"
    )


def flat(value: Any) -> Tensor:
    """Return all floating-point numbers of a denoiser's argument in order, in float64 on the CPU.

    Parameters
    ----------
    value : Any
        Tensors, in lists or mappings or alone.

    Returns
    -------
    Tensor
        (number,).
    """
    parts = [leaf.detach().double().cpu().flatten() for leaf in _leaves(value)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def filled(output: Any, numbers: Tensor, latents: Any) -> Any:
    """Return a denoiser's output with other numbers in its first tensor, or its first list of tensors.

    Parameters
    ----------
    output : Any
        What the denoiser returned.
    numbers : Tensor
        (number,), in the order of its latents.
    latents : Any
        The argument that held the latents.

    Returns
    -------
    Any
        Where the output has twice as many channels as the latents, those behind are the least variance that a sampler
        knows (-1).
    """
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(output, Tensor) and hasattr(output, "sample"):
        changed = copy.copy(output)
        changed.sample = changed["sample"] = _shaped(output.sample, numbers, latents)
        return changed
    if isinstance(output, Tensor) or (isinstance(output, list) and isinstance(first, Tensor)):
        return _shaped(output, numbers, latents)
    return type(output)([_shaped(first, numbers, latents), *output[1:]])


def unit_noise(shape: Sequence[int], seed: int = 0, apart_from: Tensor | None = None) -> Tensor:
    """Return noise with mean 0 and standard deviation 1 exactly, orthogonal to other noise.

    Parameters
    ----------
    shape : sequence of int
        Of what is returned.
    seed : int
        Of the noise.
    apart_from : Tensor, optional
        (number,), with mean 0: what the noise is orthogonal to.

    Returns
    -------
    Tensor
        float64.
    """
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).flatten()
    noise = noise - noise.mean()
    if apart_from is not None:
        noise = noise - apart_from * (noise @ apart_from) / (apart_from @ apart_from)
    return (noise / noise.std(correction=0)).view(tuple(shape))


def _shaped(template: Any, numbers: Tensor, latents: Any) -> Any:
    if not isinstance(template, Tensor):
        counts = [leaf.numel() for leaf in template]
        return type(template)(
            [_shaped(leaf, part, latents) for leaf, part in zip(template, numbers.split(counts), strict=True)]
        )
    if template.numel() == numbers.numel():
        return numbers.view(template.shape).to(template)
    shape = list(_first(latents).shape)
    doubled = [axis for axis, count in enumerate(template.shape) if len(shape) > axis and count == 2 * shape[axis]]
    if template.numel() != 2 * numbers.numel() or len(doubled) != 1:
        raise RuntimeError(
            f"the denoiser returns {tuple(template.shape)} for latents {tuple(shape)}: which part is its prediction is "
            "not known here"
        )
    answer = numbers.view(shape).to(template)
    return torch.cat([answer, -torch.ones_like(answer)], doubled[0])


def _unclipped(scheduler: Any) -> Any:
    """Copy a scheduler without what belongs to sampling alone and is not linear."""
    copied = copy.deepcopy(scheduler)
    off: dict[str, Any] = {name: False for name in ("clip_sample", "thresholding") if copied.config.get(name)}
    if copied.config.get("variance_type") == "fixed_large":
        off["variance_type"] = "fixed_small"  # whose noise is that of the schedule
    copied.register_to_config(**off)
    return copied


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)


def _first(value: Any) -> Tensor:
    return next(_leaves(value))
