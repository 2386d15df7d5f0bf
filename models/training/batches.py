"""Batches of any paired images and texts, for the flow-matching loss: a function of seed and step alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimuli, Stimulus
from ..scenes.dialogues import IMAGE
from ..scenes.scene import SIZE, part_of
from .scene_batches import dit_batch, emoji_part, vlm_batch

CAPTION_DROPOUT = 0.15  # share of captions left out, for classifier-free guidance
BRIDGE_TIME_SHIFT = 1.1  # bridges train at noisier times than experts do: there the caption decides what is drawn


def batch_source(
    size: Sequence[int],
    data: Stimuli | None,
    seed: int,
    rows: int,
    shuffled: bool,
    part: str = "train",
    tokenizer: Any = None,
) -> Callable[[int], dict[str, Any]]:
    """Batches by number, of a part of the scenes or, by the hash of the caption, of `data`.

    No caption is left out of a part but "train". `shuffled` moves every caption on to the next image.

    Args:
        size: (channel, row, column) of the images that the generator makes.
        rows: pairs in a batch.
        tokenizer: of scenes-vlm, where the model learns to answer as well: a batch of scenes then has "questions",
            dialogues of `small.vlm_batch`, a quarter as many as pairs, and "image_token", the id in an image's place.

    Raises:
        TypeError: data that are not Stimuli, which are checked to have a caption each.
        ValueError: a generator of other images than scenes, or of images that are not square; data without such a part;
            shuffled batches of one.
    """
    if data is not None and not isinstance(data, Stimuli):
        raise TypeError(f"data are a {type(data).__name__}: open images with their captions by load_stimuli")
    channels, side, columns = size
    if channels != 3 or side != columns or (data is None and side != SIZE):
        wanted = f"(3, {SIZE}, {SIZE}), as scenes have" if data is None else "(3, side, side)"
        raise ValueError(f"the generator makes images of {tuple(size)}, expected {wanted}: take other data or experts")
    if shuffled and rows < 2:
        raise ValueError(f"{rows} caption cannot be another image's: batches of 2 or more are shuffled")
    dropout = CAPTION_DROPOUT if part == "train" else 0.0
    subset = stimuli_of_part(data, part) if data is not None else None
    emoji = emoji_part("train") if tokenizer and data is None else None

    def draw(number: int) -> dict[str, Any]:
        if subset is None:
            batch = dit_batch(number, seed, size=rows, time_shift=BRIDGE_TIME_SHIFT, part=part, caption_dropout=dropout)
        else:
            batch = stimuli_batch(number, seed, subset, rows, side, BRIDGE_TIME_SHIFT, dropout)
        if emoji:
            batch["questions"] = vlm_batch(number, seed, emoji, tokenizer, max(1, rows // 4))
            batch["image_token"] = tokenizer.convert_tokens_to_ids(IMAGE)
        captions = batch["caption"]
        return batch | {"caption": captions[1:] + captions[:1]} if shuffled else batch

    return draw


def stimuli_of_part(stimuli: Stimuli, part: str) -> Sequence[Stimulus]:
    """The stimuli whose text falls into a part ("train", "validation", ...), by the same hash as the scenes.

    Raises ValueError where there are none.
    """
    chosen = [number for number, text in enumerate(stimuli.texts) if part_of(text) == part]
    if not chosen:
        raise ValueError(
            f"none of the {len(stimuli)} captions of {stimuli.name!r} falls into the part {part!r}: give more pairs"
        )
    return Subset(stimuli, chosen)  # type: ignore[return-value]


def process_share(batch: dict[str, Any], process: int, processes: int) -> dict[str, Any]:
    """One process's rows of a batch, equally many for each: the mean of all their losses is the loss of the batch.

    That holds of means over rows; a mean over words weighs each process alike, whatever the lengths of its captions.

    Raises ValueError for a batch that cannot be dealt out evenly.
    """
    if processes == 1:
        return batch
    dealt = {name: _deal(batch[name], process, processes) for name in ("image", "caption", "time", "noise")}
    if questions := batch.get("questions"):
        ids = questions["input_ids"]
        shown = (ids == batch["image_token"]).any(1)  # rows without an image have none among the pixels
        mine = _deal(torch.arange(len(ids)), process, processes)
        places = (shown.cumsum(0) - 1)[mine][shown[mine]]
        taken = {name: places if name == "pixel_values" else mine for name in questions}
        dealt["questions"] = {name: value[taken[name]] for name, value in questions.items() if len(taken[name])}
    return dealt


def _deal(rows: Any, process: int, processes: int) -> Any:
    if len(rows) % processes:
        raise ValueError(
            f"{len(rows)} rows cannot be dealt evenly to {processes} processes: choose a batch size that is a multiple "
            f"of {4 * processes}"
        )
    return rows[process::processes]


def stimuli_batch(
    step: int,
    seed: int,
    stimuli: Sequence[Stimulus],
    size: int = 32,
    side: int = 32,
    time_shift: float = 0.4,
    caption_dropout: float = CAPTION_DROPOUT,
) -> dict[str, Any]:
    """Images, their captions (some left out, `caption_dropout`), times and noise of batch number `step`.

    Times are the sigmoid of a normal around `time_shift`, as in `small.dit_batch`, which draws scenes instead. Every
    epoch is a permutation of its own.

    Returns image, noise (batch, 3, side, side) in -1..1, caption (a list), time (batch,).
    """
    rng = np.random.default_rng((seed, step))
    chosen = [stimuli[_at(step * size + row, len(stimuli), seed)] for row in range(size)]
    captions = ["" if rng.random() < caption_dropout else s.text for s in chosen]
    time = torch.from_numpy(1 / (1 + np.exp(-rng.normal(time_shift, 1.2, size)))).float()
    noise = torch.from_numpy(rng.standard_normal((size, 3, side, side), dtype=np.float32))
    return {"image": to_pixels([s.image for s in chosen], side), "caption": captions, "time": time, "noise": noise}


def _at(number: int, count: int, seed: int) -> int:
    """Where in the stimuli the sample `number` of an endless walk over shuffled epochs lies."""
    epoch, place = divmod(number, count)
    return int(np.random.default_rng((seed, epoch, count)).permutation(count)[place])
