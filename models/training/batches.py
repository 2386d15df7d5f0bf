"""Draw training batches of scenes or of any images with captions: functions of seed and step alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimuli, Stimulus
from ..generation.flow import TIME_SPREAD
from ..scenes.dialogues import IMAGE
from ..scenes.scene import SIZE
from .scene_batches import dit_batch, emoji_part, vlm_batch

CAPTION_DROPOUT = 0.15  # share of captions that are left out, for classifier-free guidance
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
    """Return a function that draws batches by number, of a part of the scenes or of other data.

    Parameters
    ----------
    size : sequence of int
        (channel, row, column) of the images that the generator draws.
    data : Stimuli or None
        Images with captions, dealt to the parts by the hash of the caption. None stands for scenes.
    seed : int
        Seed of the run.
    rows : int
        Number of pairs in a batch.
    shuffled : bool
        Whether every caption moves on to the next image of the batch.
    part : str
        Part of the data. Captions are left out (`CAPTION_DROPOUT`) in "train" alone.
    tokenizer : optional
        Tokenizer of scenes-vlm, if the model learns to answer as well. A batch of scenes then has "questions",
        dialogues of `scene_batches.vlm_batch`, a quarter as many as pairs, and "image_token", the id in an image's
        place.

    Returns
    -------
    Callable[[int], dict]
        `draw(number)` returns a batch: what `stimuli_batch` returns and, with a tokenizer, the two keys above.

    Raises
    ------
    TypeError
        If the data are not Stimuli, which are checked to have a caption each.
    ValueError
        If the generator draws other images than scenes, or images that are not square; if the data have no such part;
        for shuffled batches of one.
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
    """Return the stimuli of a part of the data, as `Stimuli.part` deals them.

    Parameters
    ----------
    stimuli : Stimuli
        Images with captions.
    part : str
        "train", "evidence", "validation", "test", ...: a part of the scenes.

    Returns
    -------
    sequence of Stimulus
        The stimuli of that part, in their order.

    Raises
    ------
    ValueError
        If there are none.
    """
    chosen = [number for number, dealt in enumerate(stimuli.parts) if dealt == part]
    if not chosen:
        raise ValueError(
            f"none of the {len(stimuli)} pairs of {stimuli.name!r} falls into the part {part!r}: give more pairs"
        )
    return Subset(stimuli, chosen)  # type: ignore[return-value]


def process_share(batch: dict[str, Any], process: int, processes: int) -> dict[str, Any]:
    """Return one process's rows of a batch, as many for every process.

    Parameters
    ----------
    batch : dict
        A batch of `batch_source`.
    process : int
        Index of the process.
    processes : int
        Number of processes.

    Returns
    -------
    dict
        The rows of that process, with the keys of `batch`.

    Raises
    ------
    ValueError
        If the rows cannot be dealt out evenly.

    Notes
    -----
    The mean of the processes' losses is the loss of the batch. That holds for means over rows; a mean over words gives
    every process the same weight, whatever the lengths of its captions.
    """
    if processes == 1:
        return batch
    dealt = {name: _deal(batch[name], process, processes) for name in ("image", "caption", "time", "noise")}
    if questions := batch.get("questions"):
        ids = questions["input_ids"]
        has_image = (ids == batch["image_token"]).any(1)  # the pixels hold no image for the other rows
        own = _deal(torch.arange(len(ids)), process, processes)
        images = (has_image.cumsum(0) - 1)[own][has_image[own]]
        indices = {name: images if name == "pixel_values" else own for name in questions}
        dealt["questions"] = {name: value[indices[name]] for name, value in questions.items() if len(indices[name])}
    return dealt


def _deal(rows: Any, process: int, processes: int) -> Any:
    """Return every n-th row, from that of the process's index, n being the number of processes."""
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
    """Draw the images, captions, times and noise of one batch of any images with captions.

    Parameters
    ----------
    step : int
        Number of the batch. The batch is a function of seed and step alone; every epoch is another permutation.
    seed : int
        Seed of the run.
    stimuli : sequence of Stimulus
        Images with captions.
    size : int
        Number of images in the batch.
    side : int
        Pixels per side of an image.
    time_shift : float
        Mean of the normal distribution whose sigmoid the times are.
    caption_dropout : float
        Share of captions that are replaced by the empty one.

    Returns
    -------
    dict
        image and noise (batch, 3, side, side), images in -1..1; caption, a list; time (batch,), 1 being noise.

    See Also
    --------
    bridgework.models.training.scene_batches.dit_batch : Draws scenes instead, with times from the same distribution.
    """
    rng = np.random.default_rng((seed, step))
    chosen = [stimuli[_place(step * size + row, len(stimuli), seed)] for row in range(size)]
    captions = ["" if rng.random() < caption_dropout else s.text for s in chosen]
    time = torch.from_numpy(1 / (1 + np.exp(-rng.normal(time_shift, TIME_SPREAD, size)))).float()
    noise = torch.from_numpy(rng.standard_normal((size, 3, side, side), dtype=np.float32))
    return {"image": to_pixels([s.image for s in chosen], side), "caption": captions, "time": time, "noise": noise}


def _place(number: int, count: int, seed: int) -> int:
    """Return the index of sample `number` of an endless walk over shuffled epochs."""
    epoch, place = divmod(number, count)
    return int(np.random.default_rng((seed, epoch, count)).permutation(count)[place])
