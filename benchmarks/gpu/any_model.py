"""Compare `AnyModel` with the described expert of the same model, and with plain hooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...models.scenes.composing import scene_stimuli
from ...probes.extraction.extracting import extract
from ...probes.stimuli.stimulus_set import Stimuli
from ...probes.subjects.any_model import AnyModel
from ..fusion import take_turns
from ..support.inputs import clock
from .extraction import largest_difference
from .random_models import denoiser, undescribed, vision_expert
from .rows import Row
from .sizes import Setting

TOLL = 1.05
SAME, HALF = 1e-5, 1e-2  # of the largest value of a layer, in float32 and in bfloat16
TIME = 0.5


def measure(setting: Setting) -> Iterator[Row]:
    """Measure what it costs that nobody described a model, and whether its states are the right ones.

    Parameters
    ----------
    setting : Setting
        Sizes and device.

    Yields
    ------
    Row
        Differences and times of a vision transformer and of a denoiser.
    """
    sizes, device = setting.sizes, setting.device
    now, options = clock(device), {"batch_size": sizes.picture_batch, "device": device}
    pictures = scene_stimuli("evidence", sizes.pictures)
    # Sorted as `extract` sorts them, so that all have the same batches.
    pictures = Stimuli(sorted(pictures, key=lambda s: len(s.text)), pictures.name)
    described = vision_expert(sizes.vision, device)
    unknown = undescribed(described)
    wanted = extract(described, pictures, **options)["image"].values
    began = now()
    found = extract(unknown, pictures, **options)["image"].values
    first = now() - began
    note = f"{len(pictures)} pictures, batches of {sizes.picture_batch}"
    yield Row("vision transformer, difference from its expert", largest_difference(found, wanted), "", SAME, note=note)
    contestants = {
        "described": lambda: extract(described, pictures, **options),
        "AnyModel": lambda: extract(unknown, pictures, **options),
    }
    seconds = take_turns(contestants, sizes.rounds, now)
    ratio = seconds["AnyModel"] / seconds["described"]
    yield Row("vision transformer, over its expert", ratio, "", TOLL, note="the layout is remembered")
    note = "the layout is searched for"
    yield Row("vision transformer, first extract over its expert", first / seconds["described"], note=note)

    drawing = denoiser(sizes.denoiser, device)
    pictures = pictures[: sizes.noisy_pictures]
    timed: dict[str, Any] = {**options, "timesteps": (TIME,)}
    found = extract(drawing, pictures, **timed)["image"].values
    apart = largest_difference(found[-1], hooked(drawing, pictures, sizes.picture_batch))
    yield Row("denoiser, difference of the last block from a hook", apart, "", HALF, note=f"t = {TIME}")
    contestants = {
        "plain": lambda: hooked(drawing, pictures, sizes.picture_batch),
        "extract": lambda: extract(drawing, pictures, **timed),
    }
    seconds = take_turns(contestants, sizes.rounds, now)
    note = "passes with a hook of torch on the last block alone"
    yield Row("denoiser, extract over plain passes", seconds["extract"] / seconds["plain"], "", TOLL, note=note)


@torch.inference_mode()
def hooked(drawing: AnyModel, pictures: Stimuli, batch: int) -> Tensor:
    """Return the mean over the tokens of the last block's states (sample, dim), read by a hook of torch."""
    kept: list[Tensor] = []
    block = drawing.model.get_submodule(drawing.blocks[-1])
    handle = block.register_forward_hook(lambda module, args, output: kept.append(output.float().mean(1)))
    try:
        for start in range(0, len(pictures), batch):
            some = [pictures[number] for number in range(start, min(start + batch, len(pictures)))]
            drawing.model(**drawing.inputs(some, ("image",), "generation", TIME))
    finally:
        handle.remove()
    return torch.cat(kept)
