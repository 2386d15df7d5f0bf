"""Draw the batches that the shipped experts are trained on: scenes, emoji and questions."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.sources import load_stimuli
from ...probes.stimuli.stimulus_set import Stimuli, dealt_by_texts
from ..generation.flow import TIME_SPREAD
from ..scenes.composing import compose
from ..scenes.dialogues import IMAGE, IMAGE_TOKENS, question_prompt, tokenize_rows
from ..scenes.questions import ask_about, compose_question
from ..scenes.read_captions import KINDS, compose_read
from ..scenes.rendering import render_scene
from ..scenes.scene import HELD_OUT, SIZE, SKILLS, part_of


@cache
def emoji_part(part: str) -> Stimuli:
    """Return the bundled emoji whose name falls into a part of the data, by the same hash of the text as the scenes.

    Parameters
    ----------
    part : str
        "train", "evidence", "validation", "test", ...: a part of the scenes.

    Returns
    -------
    Stimuli
        The emoji. Names that are held-out combinations of the scenes are left out.
    """
    held = {" ".join(words) for _, *words in HELD_OUT}  # "yellow square" is an emoji too
    chosen = [s for s in load_stimuli("noto") if part_of(s.text) == part and s.text.lower() not in held]
    return dealt_by_texts(Stimuli(chosen, name=f"noto-{part}"))


# Chances of emoji, full captions and the six skills, without emoji and with them. Two things take longest to learn, and
# emoji make most of the gradient.
_CHANCES = ([0, 0.22, *[0.13] * 6], [0.04, 0.22, 0.08, 0.15, 0.1, 0.08, 0.18, 0.15])


def dit_batch(
    step: int,
    seed: int,
    emoji: Stimuli | None = None,
    size: int = 32,
    time_shift: float = 0.4,
    part: str = "train",
    caption_dropout: float = 0.15,
) -> dict[str, Any]:
    """Draw the images, captions, times and noise of one batch of scenes.

    Parameters
    ----------
    step : int
        Number of the batch. The batch is a function of seed and step alone.
    seed : int
        Seed of the run.
    emoji : Stimuli, optional
        Emoji that are mixed into the scenes.
    size : int
        Number of images in the batch.
    time_shift : float
        Mean of the normal distribution whose sigmoid the times are. Bridges train at noisier times than the expert
        did: there the caption decides what is drawn.
    part : str
        Part of the scenes.
    caption_dropout : float
        Share of captions that are replaced by the empty one, for classifier-free guidance.

    Returns
    -------
    dict
        image and noise (batch, 3, row, column), images in -1..1; caption, a list; time (batch,), 1 being noise.
    """
    rng = np.random.default_rng((seed, step))
    images, captions = [], []
    for kind in rng.choice(["emoji", "full", *SKILLS], size, p=_CHANCES[emoji is not None]):
        if emoji and kind == "emoji":
            image, caption, _ = emoji[int(rng.integers(len(emoji)))]
        else:
            scene, _, caption = compose(rng, str(kind), part)
            image = render_scene(scene, rng)
        images.append(image)
        captions.append("" if rng.random() < caption_dropout else caption)
    time = torch.from_numpy(1 / (1 + np.exp(-rng.normal(time_shift, TIME_SPREAD, size)))).float()
    noise = torch.from_numpy(rng.standard_normal((size, 3, SIZE, SIZE), dtype=np.float32))
    return {"image": to_pixels(images, SIZE), "caption": captions, "time": time, "noise": noise}


# Chances of questions about an image, full captions, questions about a caption, and names of emoji. Looking a shape up
# is learnt from captions, in text alone, and then carries over to images; seeing is learnt from full captions.
_ROW_CHANCES = {"ask": 0.45, "describe": 0.22, "read": 0.3, "name": 0.03}
# scenes-reader has learnt these. It learns captions that must be read: questions about them, and saying them plainly.
_READING_CHANCES = {"ask": 0.22, "describe": 0.1, "read": 0.1, "name": 0.02, "ask reading": 0.26, "restate": 0.3}
TURNS = 6  # questions about one image in a row of training


def vlm_batch(
    step: int,
    seed: int,
    emoji: Stimuli,
    tokenizer: PreTrainedTokenizerFast,
    size: int = 32,
    must_be_read: bool = False,
) -> dict[str, Tensor]:
    """Draw the rows of one batch that a vision-language model learns to answer.

    A row is an image with questions, an image with its caption, an emoji with its name, or a caption with questions
    (without an image). Captions that must be read come with questions, or with the canonical caption of their scene.

    Parameters
    ----------
    step : int
        Number of the batch. The batch is a function of seed and step alone.
    seed : int
        Seed of the run.
    emoji : Stimuli
        Emoji that are named.
    tokenizer : PreTrainedTokenizerFast
        Tokenizer of the model.
    size : int
        Number of rows.
    must_be_read : bool
        Whether captions of models/scenes/read_captions.py are among the rows.

    Returns
    -------
    dict of str to torch.Tensor
        What `tokenize_rows` returns, and pixel_values (image, 3, row, column) in -1..1 of the rows with an image, if
        there are any.
    """
    rng = np.random.default_rng((seed, step))
    images, rows = [], []
    chances = _READING_CHANCES if must_be_read else _ROW_CHANCES
    for kind in rng.choice(list(chances), size, p=list(chances.values())):
        if kind == "name":
            image, answer, _ = emoji[int(rng.integers(len(emoji)))]
            rows.append([(IMAGE * IMAGE_TOKENS + "name :", answer)])
        elif kind in ("restate", "ask reading"):
            read = compose_read(rng, str(rng.choice(list(KINDS))), "train")
            if kind == "restate":
                rows.append([(f"{read.caption} : describe :", read.canonical)])
            else:
                (question, answer), *more = ask_about(rng, read.scene, TURNS)
                rows.append([(question_prompt(question, read.caption), answer), *more])
        elif kind == "describe":
            scene, _, caption = compose(rng, "full", "train")
            image = render_scene(scene, rng)
            rows.append([(IMAGE * IMAGE_TOKENS + "describe :", caption)])
        else:
            scene, _, question, answer = compose_question(rng, str(rng.choice(SKILLS)), "train")
            image = render_scene(scene, rng)
            first = question_prompt(question, scene.caption if kind == "read" else None)
            rows.append([(first, answer), *ask_about(rng, scene, TURNS - 1, (question, answer))])
        if kind in ("ask", "describe", "name"):
            images.append(image)
    pixels = {"pixel_values": to_pixels(images, SIZE)} if images else {}
    return {**tokenize_rows(tokenizer, rows), **pixels}
