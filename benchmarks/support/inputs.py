"""Draw the features of speed benchmarks, and measure the rate of the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

SIGNAL = 64  # dims of what all layers have in common


def use_all_cores() -> int:
    """Let torch and NumPy's BLAS use every core that this process may run on, whatever the environment says."""
    return use_cores(None)


def use_cores(cores: int | None) -> int:
    """Let torch and NumPy's BLAS use as many cores as are given, all that this process may run on if None."""
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threadpool_limits(cores)
    torch.set_num_threads(cores)
    return cores


def machine(device: str = "cpu") -> str:
    """Describe the machine that a result was measured on, "cpu" or "cuda"."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    gpu = "" if torch.cuda.is_available() else ", no GPU"
    cores = torch.get_num_threads()
    return f"{cores} core{'s' if cores > 1 else ''} {platform.machine().replace('_', '-')}{gpu}"


def spectrum(dims: int, device: str = "cpu") -> Tensor:
    """Return standard deviations (dims,) that fall as a power law, i^-1/2, with a sum of squares of `dims`."""
    falling = torch.arange(1, dims + 1, device=device).float().rsqrt()
    return falling * (dims / (falling**2).sum()).sqrt()


def strength(layer: int, layers: int) -> float:
    """Return the common share of a layer's variance, which rises from .05 to .6 in the middle and falls again."""
    return 0.05 + 0.55 * (1 - abs(2 * layer / max(layers - 1, 1) - 1))


def common_signal(samples: int, seed: int, device: str = "cpu") -> Tensor:
    """Draw what all layers of both sides share (sample, 64), float32, its spectrum a power law."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(samples, SIGNAL, generator=generator, device=device) * spectrum(SIGNAL, device)


def layer_features(signal: Tensor, dims: int, share: float, seed: int, part: int = 0) -> Tensor:
    """Draw one layer: the signal at a share of the variance, and noise of the layer alone.

    Both are mixed at random over the dims, so no feature is special, and both spectra fall as a power law.

    Parameters
    ----------
    signal : Tensor
        The common signal (sample, 64).
    dims : int
        Dims of the layer.
    share : float
        The signal's share of the variance, 0 to 1.
    seed : int
        Seed of the layer.
    part : int
        Which part of the layer's samples: parts that are drawn at different times differ in `part` alone.

    Returns
    -------
    Tensor
        (sample, dims), float32.
    """
    device = signal.device

    def normal(rows: int, seed: int) -> Tensor:
        generator = torch.Generator(device).manual_seed(seed)
        return torch.randn(rows, dims, generator=generator, device=device)

    own = normal(len(signal), seed + 10**9 * (1 + part)) * spectrum(dims, str(device))
    mixed = own @ normal(dims, seed) / dims**0.5
    return mixed.mul_((1 - share) ** 0.5).add_(signal @ normal(SIGNAL, seed + 500), alpha=(share / SIGNAL) ** 0.5)


def stack(layers: int, samples: int, dims: int, side: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Draw all layers of one side; sides 0 and 1 share their signal and nothing else.

    Parameters
    ----------
    layers, samples, dims : int
        Size of the side.
    side : int
        0 or 1.
    seed : int
        Seed of both sides.
    device : str
        Where to draw.

    Returns
    -------
    Tensor
        (layer, sample, dim), float32.
    """
    signal = common_signal(samples, seed, device)
    features = torch.empty(layers, samples, dims, device=device)
    for layer in range(layers):
        own = seed + 1000 * (2 * layer + side + 1)
        features[layer] = layer_features(signal, dims, strength(layer, layers), own)
    return features


def mm_rate(size: int = 4096, device: str = "cpu", seconds: float = 2.0, dtype: torch.dtype = torch.float32) -> float:
    """Measure the rate of torch.mm on square matrices.

    Parameters
    ----------
    size : int
        Rows of the matrices.
    device : str
        Where to multiply.
    seconds : float
        How long to repeat; the best time counts.
    dtype : torch.dtype
        Of the matrices.

    Returns
    -------
    float
        Floating-point operations a second.
    """
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    out = torch.empty(size, size, device=device, dtype=dtype)
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds or best == float("inf"):
        wait(device)
        before = time.perf_counter()
        torch.mm(a, b, out=out)
        wait(device)
        best = min(best, time.perf_counter() - before)
    return 2 * size**3 / best


def wait(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def clock(device: str) -> Callable[[], float]:
    """Return a clock that waits for the device before it is read, in seconds."""

    def now() -> float:
        wait(device)
        return time.perf_counter()

    return now
