"""Measure how a pipeline counts time, mixes image with noise, and what its denoiser returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .oracle_loop import TARGETS, Latents, Moment, run_loop

_FINE = 1000  # steps of a schedule that is read off
_LAST = 1 - 1e-5  # the latest time where a sigma is t / (1 - t)
_SIGMAS: dict[str, Callable[[Tensor], Tensor]] = {
    "t": lambda time: time,
    "1 - t": lambda time: 1 - time,
    "t / (1 - t)": lambda time: time.clamp(max=_LAST) / (1 - time.clamp(max=_LAST)),
}


class NoiseLevel(NamedTuple):
    """Hold how noisy latents are at a time: noisy = signal * clean + noise * Gaussian.

    Attributes
    ----------
    timestep : float
        The time in the scheduler's own units.
    signal, noise : float
        The weights of clean latents and of the Gaussian noise.
    sigma : float
        The scheduler's own measure of noise.
    """

    timestep: float
    signal: float
    noise: float
    sigma: float


@dataclass(frozen=True, eq=False)
class Convention:
    """Say how a pipeline counts time, mixes image with noise, and what its denoiser returns.

    Attributes
    ----------
    target : str
        What the denoiser returns: "noise", "v" (signal * noise - level * image), "noise - image", "image - noise" or
        "image".
    kept : Tensor or None
        For a variance-preserving schedule the square of the signal at each timestep; None for flow matching.
    start, slope : float
        Of flow matching: timestep = start + slope * sigma.
    sigma : str
        Of flow matching, by the time t: "t", "1 - t" or "t / (1 - t)".
    table : (Tensor, Tensor) or None
        Of flow matching: sigmas, rising, and their timesteps, where these are in no proportion to the sigmas.
    whole : bool
        Whether the scheduler cuts timesteps to whole numbers.
    dtype : torch.dtype
        Of its timesteps.

    Notes
    -----
    Flow matching [1]_ [2]_: signal 1 - t, noise t. Variance preserving [3]_: signal sqrt(a), noise sqrt(1 - a) with
    a = kept[n], n = round(t * T) - 1, whatever the sampler: samplers of one schedule differ in their steps, not in what
    the denoiser sees.

    References
    ----------
    .. [1] Lipman et al. 2023, Flow Matching for Generative Modeling, arXiv 2210.02747.
    .. [2] Esser et al. 2024, Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, arXiv 2403.03206.
    .. [3] Ho et al. 2020, Denoising Diffusion Probabilistic Models, arXiv 2006.11239.
    """

    target: str
    kept: Tensor | None = None
    start: float = 0.0
    slope: float = 1000.0
    sigma: str = "t"
    table: tuple[Tensor, Tensor] | None = None
    whole: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def flow(self) -> bool:
        """Whether this is flow matching."""
        return self.kept is None

    def level(self, time: float) -> NoiseLevel:
        """Return how noisy latents are at a time, and how the scheduler writes this time.

        Parameters
        ----------
        time : float
            0 is the clean image, 1 is noise.

        Returns
        -------
        NoiseLevel
        """
        if self.kept is not None:
            step = max(round(time * len(self.kept)) - 1, 0)
            kept = float(self.kept[step])
            return NoiseLevel(step, kept**0.5, (1 - kept) ** 0.5, ((1 - kept) / max(kept, 1e-12)) ** 0.5)
        sigma = float(_SIGMAS[self.sigma](torch.tensor(time, dtype=torch.float64)))
        return NoiseLevel(float(self.counted(torch.tensor(time))), 1 - time, time, sigma)

    def counted(self, time: Tensor) -> Tensor:
        """Return times of flow matching in the scheduler's units.

        Parameters
        ----------
        time : Tensor
            0 is the clean image, 1 is noise.

        Returns
        -------
        Tensor
            In the same shape, float64.
        """
        sigma = _SIGMAS[self.sigma](time.double())
        timestep = self.start + self.slope * sigma
        if self.table is not None:
            sigmas, timesteps = (column.to(time.device) for column in self.table)
            after = torch.bucketize(sigma, sigmas).clamp(1, len(sigmas) - 1)
            share = (sigma - sigmas[after - 1]) / (sigmas[after] - sigmas[after - 1])
            timestep = torch.lerp(timesteps[after - 1], timesteps[after], share)
        return (timestep + 2e-4).floor() if self.whole else timestep

    def timestep(self, time: float, device: torch.device) -> Tensor:
        """Return a time as the scheduler's loop would hand it on.

        Parameters
        ----------
        time : float
            0 is the clean image, 1 is noise.
        device : torch.device
            Where the pipeline computes.

        Returns
        -------
        Tensor
            (1,).
        """
        return torch.tensor([self.level(time).timestep], device=device).to(self.dtype)

    def time(self, moment: Moment) -> float:
        """Return the time of a moment of the pipeline's own loop.

        Parameters
        ----------
        moment : Moment
            As `run_loop` returns it.

        Returns
        -------
        float
            0 is the clean image, 1 is noise.
        """
        if self.kept is not None:
            return (float(moment.timestep) + 1) / len(self.kept)
        sigma = moment.sigma
        if sigma is None:
            return moment.noise
        return {"t": sigma, "1 - t": 1 - sigma, "t / (1 - t)": sigma / (1 + sigma)}[self.sigma]


def begin_loop(pipe: Any, denoiser: nn.Module, **chosen: Any) -> tuple[Moment, Latents]:
    """Return the first call that a pipeline's own loop makes of its denoiser, for the empty prompt and pure noise.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Not changed.
    denoiser : torch.nn.Module
        The pipeline's.
    **chosen : Any
        More of the pipeline's own arguments.

    Returns
    -------
    Moment
    Latents

    Raises
    ------
    ValueError
        If the pipeline itself refuses to run.
    """
    try:
        loop = run_loop(pipe, denoiser, (0.0, 1.0), None, None, lambda moment: True, **chosen)
    except RuntimeError:
        raise
    except Exception as error:  # whatever a pipeline raises: its words say what it lacks
        raise ValueError(
            f"{type(pipe).__name__} with {type(pipe.scheduler).__name__} does not draw a picture from a prompt alone "
            f"in a few steps, it stops with {type(error).__name__} ({str(error).partition(chr(10))[0]}): wrap it in "
            "your own Subject (probes/subjects/subject.py)"
        ) from error
    return loop.moments[0], loop.latents


def measure_convention(
    pipe: Any, denoiser: nn.Module, first: Moment, latents: Latents, output: Any, **chosen: Any
) -> tuple[Convention, list[Moment], Tensor]:
    """Find the convention under which a denoiser that knows image and noise is consistent with the pipeline's own loop.

    Parameters
    ----------
    pipe : diffusers.DiffusionPipeline
        Not changed.
    denoiser : torch.nn.Module
        The pipeline's.
    first : Moment
        As `begin_loop` returns it.
    latents : Latents
        As `begin_loop` returns it.
    output : Any
        What the denoiser returned for the arguments of `first`.
    **chosen : Any
        More of the pipeline's own arguments.

    Returns
    -------
    convention : Convention
    moments : list of Moment
        The loop that agrees with it.
    drawn : Tensor
        What the pipeline received as its initial latents in this loop.

    Raises
    ------
    ValueError
        If there is none: the schedule is neither flow matching nor variance preserving.

    Notes
    -----
    The loop runs with an oracle in the denoiser's place. If its latents are on the path of the schedule at every call,
    signal + noise = 1 for flow matching and signal^2 + noise^2 = 1 at the scheduler's timesteps for variance
    preserving ones, then the oracle's answers are what the pipeline takes the denoiser's for.
    """
    rounding = 1e-3 if next(denoiser.parameters()).dtype == torch.float32 else 4e-2
    kept = getattr(pipe.scheduler, "alphas_cumprod", None)
    rounds = any(pipe.scheduler.config.get(f"use_{name}_sigmas") for name in ("karras", "exponential", "beta", "lu"))
    guesses = [(flow, target) for flow in (True, False) for target in TARGETS if flow or kept is not None]
    for flow, target in sorted(guesses, key=lambda guess: guess != _likely(pipe.scheduler)):
        if flow or kept is None:
            level = _first_level(first, latents.gain)
            begin = (1 - level) / latents.gain, level / latents.gain
        else:
            step = min(max(round(float(first.timestep)), 0), len(kept) - 1)
            begin = float(kept[step]) ** 0.5 / latents.gain, float(1 - kept[step]) ** 0.5 / latents.gain

        def fits(moment: Moment, flow: bool = flow) -> bool:
            return _on_path(moment, None if flow else kept, rounding, rounds)

        try:
            loop = run_loop(pipe, denoiser, begin, target, output, fits, **chosen)
        except (ValueError, ZeroDivisionError):
            continue  # a sampler that refuses such answers
        moments, drawn = loop.moments, loop.drawn
        if len(moments) > 1 and all(fits(moment) for moment in moments):
            dtype = first.timestep.dtype
            if not flow and kept is not None:
                return Convention(target, kept.double().cpu(), dtype=dtype), moments, drawn
            steps = pipe.scheduler.config.get("num_train_timesteps") or 1
            if found := _flow_units(moments, target, steps, rounding):
                return found, moments, drawn
            if found := _tabulated(pipe, denoiser, moments, target, **chosen):
                return found, moments, drawn
    raise ValueError(
        f"the scheduler {type(pipe.scheduler).__name__} is neither flow matching nor variance preserving in the loop "
        f"of {type(pipe).__name__}: how much noise it adds at a time is not known here. Give the pipeline one of these "
        "kinds, with the settings it was trained with"
    )


def _likely(scheduler: Any) -> tuple[bool, str]:
    """Return what a scheduler's settings say: where the search begins."""
    kind = scheduler.config.get("prediction_type")
    if kind == "flow_prediction" or scheduler.config.get("use_flow_sigmas") or not hasattr(scheduler, "alphas_cumprod"):
        return True, "image - noise" if scheduler.config.get("invert_sigmas") else "noise - image"
    return False, {"epsilon": "noise", "v_prediction": "v", "sample": "image"}.get(str(kind), "noise")


def _first_level(first: Moment, gain: float) -> float:
    """Return the noise that the scheduler ascribes to the first latents, which the pipeline takes for pure noise."""
    sigma = first.sigma or 1.0
    near = [level for level in (sigma, 1 - sigma, sigma / (1 + sigma)) if abs(level - gain) < 2e-2]
    return min(near, key=lambda level: abs(level - gain), default=gain)


def _on_path(moment: Moment, kept: Tensor | None, rounding: float, rounds: bool) -> bool:
    """Return whether latents are as noisy as the schedule says; `rounds`: whether timesteps are rounded from sigmas."""
    if kept is None:
        return abs(moment.signal + moment.noise - 1) < rounding and 0 < moment.noise < 1 + rounding
    timestep = float(moment.timestep)
    before, after = math.floor(timestep) - rounds, math.ceil(timestep) + rounds
    least, most = (float(kept[min(max(step, 0), len(kept) - 1)]) ** 0.5 for step in (after, before))
    on_circle = abs(moment.signal**2 + moment.noise**2 - 1) < rounding
    return on_circle and least - rounding < moment.signal < most + rounding


def _flow_units(moments: list[Moment], target: str, steps: int, rounding: float) -> Convention | None:
    """Return in which units the scheduler counts, or None where the loop's timesteps follow no rule that is known."""
    times = torch.tensor([moment.noise for moment in moments], dtype=torch.float64)
    timesteps = torch.stack([moment.timestep.double().cpu() for moment in moments])
    sigmas = [moment.sigma for moment in moments]
    for name, sigma in _SIGMAS.items():
        wanted = sigma(times)
        given = wanted if None in sigmas else torch.tensor(sigmas, dtype=torch.float64)
        if not torch.allclose(given, wanted, rtol=10 * rounding, atol=rounding):
            continue
        for start, slope in ((0.0, float(steps)), (0.0, 1.0), (float(steps), -float(steps))):
            counted = start + slope * given
            if torch.allclose(timesteps, counted, rtol=rounding, atol=rounding * abs(slope)):
                dtype = moments[0].timestep.dtype
                return Convention(target, None, start, slope, name, whole=not dtype.is_floating_point, dtype=dtype)
    return None


def _tabulated(pipe: Any, denoiser: nn.Module, moments: list[Moment], target: str, **chosen: Any) -> Convention | None:
    """Return a convention whose timesteps are read off a fine schedule of the pipeline's own (CogView4 shifts sigmas).

    None where this schedule has other timesteps than the coarse one.
    """
    fine = run_loop(pipe, denoiser, (0.0, 1.0), None, None, lambda moment: True, steps=_FINE, **chosen).scheduler
    timesteps, sigmas = (value.double().cpu().flip(0) for value in (fine.timesteps, fine.sigmas[: len(fine.timesteps)]))
    if not bool((sigmas.diff() > 0).all() and (timesteps.diff() > 0).all()):
        return None
    table = torch.cat([sigmas.new_zeros(1), sigmas]), torch.cat([sigmas.new_zeros(1), timesteps])
    convention = Convention(target, table=table, dtype=moments[0].timestep.dtype)
    off = [abs(convention.level(moment.noise).timestep - float(moment.timestep)) for moment in moments]
    return convention if max(off) < 1e-3 * float(timesteps[-1]) else None


def difference(one: Any, other: Any) -> float:
    """Return how far two arguments of a denoiser are apart.

    Parameters
    ----------
    one, other : Any
        Tensors, numbers and names, in lists or mappings or alone.

    Returns
    -------
    float
        The largest difference over the largest value of the first; infinite where they are of other forms.
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape:
            return math.inf
        if not one.numel():
            return 0.0
        apart = float((one.double() - other.double()).abs().max())
        return apart / max(float(one.double().abs().max()), 1e-12) if apart else 0.0
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return math.inf
        one, other = ([value[key] for key in sorted(value)] for value in (one, other))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=True) if len(one) == len(other) else [(0, None)]
        return max((difference(a, b) for a, b in pairs), default=0.0)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) / max(abs(one), 1e-12)
    return 0.0 if type(one) is type(other) and (not isinstance(one, str) or one == other) else math.inf
