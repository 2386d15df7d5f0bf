"""Time a large debiased CKA map as a share of the card's matrix rate, and compare maps with those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ...probes.similarity.scoring import similarity_map
from ..fusion import take_turns
from ..support.floors import gram_flops, gram_map
from ..support.inputs import clock, mm_rate, stack
from .rows import Row
from .sizes import Setting

SHARE = 0.7  # of the rate of torch.mm in float32
DIFFERENCE = 1e-4
ROWS = 1_024  # of all Grams at a time in the floor
METRICS = ("mutual_knn", "cknna", "procrustes", "svcca", "rsa")  # beside cka
# How torch multiplies: name, dtype, precision of float32.
PRODUCTS = (
    ("float32, TF32 off", torch.float32, "highest"),
    ("float32, TF32 on", torch.float32, "high"),
    ("bfloat16", torch.bfloat16, "highest"),
)


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Set how float32 matrices are multiplied, "highest" without TF32 or "high" with it, and restore it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def matrix_rate(setting: Setting, product: str) -> float:
    """Measure the rate of torch.mm.

    Parameters
    ----------
    setting : Setting
        Sizes and device.
    product : str
        A name of `PRODUCTS`.

    Returns
    -------
    float
        Floating-point operations a second.
    """
    _, dtype, precision = next(each for each in PRODUCTS if each[0] == product)
    with float32_products(precision):
        return mm_rate(setting.sizes.matrix, setting.device, setting.sizes.matrix_seconds, dtype)


def measure(setting: Setting) -> Iterator[Row]:
    """Time the map and compare it with the CPU's.

    Parameters
    ----------
    setting : Setting
        Sizes and device.

    Yields
    ------
    Row
        The rates of torch.mm; the seconds of the map and of its floor, each as a share of the rate; differences.
    """
    sizes, device = setting.sizes, setting.device
    rates = {}
    for product, _, _ in PRODUCTS:
        rates[product] = matrix_rate(setting, product)
        yield Row(f"rate of torch.mm, {product}", rates[product] / 1e12, "TFLOP/s", note=f"{sizes.matrix} rows")
    x, y = (stack(sizes.layers, sizes.samples, sizes.dims, side, device=device) for side in (0, 1))
    contestants = {
        "cka map": lambda: similarity_map(x, y, "cka", memory=sizes.memory),
        "floor, Grams and their inner products": lambda: floor(x, y),
    }
    flops = gram_flops(sizes.layers, sizes.layers, sizes.samples, (sizes.dims, sizes.dims))
    said = f"{sizes.layers} x {sizes.layers} layers, {sizes.samples} samples, {sizes.dims} dims"
    for who, seconds in take_turns(contestants, sizes.map_rounds, clock(device)).items():
        yield Row(who, seconds, "s", note=said)
        share = flops / seconds / rates[PRODUCTS[0][0]]
        aim = SHARE if who == "cka map" else None
        note = "of torch.mm in float32, TF32 off; whole Grams are counted, though symmetry saves half of them"
        yield Row(f"share of the matrix rate, {who}", share, "", at_least=aim, note=note)
    seconds = take_turns({"": lambda: similarity_map(x, y, "mutual_knn")}, 1, clock(device))[""]
    yield Row("mutual_knn map", seconds, "s", note=said)
    some = sorted({0, *np.linspace(0, sizes.layers - 1, sizes.compared, dtype=int).tolist()})
    for metric in ("cka", *METRICS):
        samples = sizes.samples if metric == "cka" else sizes.compared_samples
        first, second = x[some, :samples], y[some, :samples]
        on_card = similarity_map(first, second, metric).to_numpy()
        on_cpu = similarity_map(first.cpu(), second.cpu(), metric).to_numpy()
        apart = float(np.abs(on_card - on_cpu).max())
        note = f"{len(some)} x {len(some)} layers, {samples} samples"
        yield Row(f"difference from the CPU, {metric}", apart, "", at_most=DIFFERENCE, note=note)


def floor(x: torch.Tensor, y: torch.Tensor) -> None:
    """Compute the matrix products of the map in float32, without TF32."""
    with float32_products("highest"):
        gram_map(x, y, rows=ROWS)
