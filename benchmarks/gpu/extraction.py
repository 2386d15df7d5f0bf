"""Compare `extract` with the bare passes of the same model over the same batches, and autocast with float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...probes.extraction.extracting import extract
from ...probes.stimuli.stimulus_set import Stimuli
from ..fusion import take_turns
from ..support.inputs import clock
from .random_models import long_texts, text_expert
from .rows import Row
from .sizes import Setting

OVERHEAD = 1.03
AUTOCAST = 3e-2  # of the largest value of a layer: the rounding of bfloat16


def largest_difference(values: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of features (..., sample, dim), over the largest value of their layer."""
    values, wanted = values.double().cpu(), wanted.double().cpu()
    return float(((values - wanted).abs().amax((-1, -2)) / wanted.abs().amax((-1, -2))).max())


@torch.inference_mode()
def bare(expert: Any, texts: Stimuli, batch: int) -> None:
    """Show a language model the texts in the batches of `extract`, without its head, and keep nothing."""
    head, expert.model = expert.model, expert.model.base_model
    try:
        for start in range(0, len(texts), batch):
            expert.show(list(texts[start : start + batch]), ("text",), "understanding", None).run()
    finally:
        expert.model = head


def measure(setting: Setting) -> Iterator[Row]:
    """Measure what features of a language model cost, and what autocast changes.

    Parameters
    ----------
    setting : Setting
        Sizes and device.

    Yields
    ------
    Row
        Differences and times.
    """
    sizes, device = setting.sizes, setting.device
    options = {"batch_size": sizes.batch, "device": device}
    # Sorted as `extract` sorts them, so that both have the same batches.
    texts = long_texts(sizes.texts, sizes.joined)
    texts = Stimuli(sorted(texts, key=lambda s: len(s.text)), texts.name)
    expert = text_expert(sizes.text, device, torch.float32)
    few = texts[: 2 * sizes.batch]
    exact = extract(expert, few, **options)["text"].values
    rough = extract(expert, few, precision="bf16", **options)["text"].values
    note = "over the largest value of a layer, float32 weights"
    yield Row("autocast to bfloat16, difference", largest_difference(rough, exact), "", at_most=AUTOCAST, note=note)
    contestants = {
        "float32": lambda: extract(expert, few, **options),
        "autocast": lambda: extract(expert, few, precision="bf16", **options),
    }
    seconds = take_turns(contestants, sizes.rounds, clock(device))
    yield Row("autocast to bfloat16, times as fast as float32", seconds["float32"] / seconds["autocast"])

    expert.model.to(torch.bfloat16)
    now = clock(device)
    bare(expert, few, sizes.batch)
    began = now()
    extract(expert, texts, **options)
    first = now() - began
    contestants = {
        "bare": lambda: bare(expert, texts, sizes.batch),
        "extract": lambda: extract(expert, texts, **options),
    }
    seconds = take_turns(contestants, sizes.rounds, now)
    parameters = sum(p.numel() for p in expert.model.parameters())
    note = f"{len(texts)} texts, batches of {sizes.batch}, {parameters / 1e9:.2g} billion weights in bfloat16"
    yield Row("bare passes without head", seconds["bare"], "s", note=note)
    yield Row("extract", seconds["extract"], "s", note="mean of every layer")
    yield Row("extract over bare passes", seconds["extract"] / seconds["bare"], "", at_most=OVERHEAD)
    yield Row("first extract, on top of bare passes", first - seconds["bare"], "s", note="hashes all weights once")
