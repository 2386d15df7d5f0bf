"""Make the batches that the shipped experts are trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.sources import load_stimuli
from ...probes.stimuli.stimulus_set import Stimuli
from ..scenes.composing import compose
from ..scenes.dialogues import IMAGE, IMAGE_TOKENS, question_prompt, tokenize_rows
from ..scenes.questions import ask_about, compose_question
from ..scenes.rendering import render_scene
from ..scenes.scene import HELD_OUT, SIZE, SKILLS, part_of


def emoji_part(part: str) -> Stimuli:
    """The bundled emoji whose name falls into `part`, by the same hash of the text as the scenes."""
    held = {" ".join(words) for _, *words in HELD_OUT}  # "yellow square" is an emoji too
    chosen = [s for s in load_stimuli("noto") if part_of(s.text) == part and s.text.lower() not in held]
    return Stimuli(chosen, name=f"noto-{part}")


# Of emoji, full captions and the six skills: two things take longest to learn, and emoji make most of the gradient.
_DRAWN = ([0, 0.22, *[0.13] * 6], [0.04, 0.22, 0.08, 0.15, 0.1, 0.08, 0.18, 0.15])


def dit_batch(
    step: int,
    seed: int,
    emoji: Stimuli | None = None,
    size: int = 32,
    time_shift: float = 0.4,
    part: str = "train",
    caption_dropout: float = 0.15,
) -> dict[str, Any]:
    """Images, their captions (15 % dropped), times and noise: a function of seed and step alone.

    Times are the sigmoid of a normal around `time_shift`. Bridges train at noisier times than the expert did: there the
    caption decides what is drawn.
    """
    rng = np.random.default_rng((seed, step))
    images, captions = [], []
    for kind in rng.choice(["emoji", "full", *SKILLS], size, p=_DRAWN[emoji is not None]):
        if emoji and kind == "emoji":
            image, caption, _ = emoji[int(rng.integers(len(emoji)))]
        else:
            scene, _, caption = compose(rng, str(kind), part)
            image = render_scene(scene, rng)
        images.append(image)
        captions.append("" if rng.random() < caption_dropout else caption)
    time = torch.from_numpy(1 / (1 + np.exp(-rng.normal(time_shift, 1.2, size)))).float()
    noise = torch.from_numpy(rng.standard_normal((size, 3, SIZE, SIZE), dtype=np.float32))
    return {"image": to_pixels(images, SIZE), "caption": captions, "time": time, "noise": noise}


# Of questions, full captions, captions read, emoji named. Looking a shape up is learnt from captions read, in text
# alone, and then moves over to images; seeing is learnt from full captions.
_SHARES = (0.45, 0.22, 0.3, 0.03)
TURNS = 6  # questions asked of one image in a row of training


def vlm_batch(
    step: int, seed: int, emoji: Stimuli, tokenizer: PreTrainedTokenizerFast, size: int = 32
) -> dict[str, Tensor]:
    """Rows of image and questions, image and caption, image and name, or caption and questions (no image)."""
    rng = np.random.default_rng((seed, step))
    images, rows = [], []
    for kind in rng.choice(["ask", "describe", "read", "name"], size, p=_SHARES):
        if kind == "name":
            image, answer, _ = emoji[int(rng.integers(len(emoji)))]
            rows.append([(IMAGE * IMAGE_TOKENS + "name :", answer)])
        elif kind == "describe":
            scene, _, caption = compose(rng, "full", "train")
            image = render_scene(scene, rng)
            rows.append([(IMAGE * IMAGE_TOKENS + "describe :", caption)])
        else:
            scene, _, question, answer = compose_question(rng, str(rng.choice(SKILLS)), "train")
            image = render_scene(scene, rng)
            first = question_prompt(question, scene.caption if kind == "read" else None)
            rows.append([(first, answer), *ask_about(rng, scene, TURNS - 1, (question, answer))])
        if kind != "read":
            images.append(image)
    pixels = {"pixel_values": to_pixels(images, SIZE)} if images else {}
    return {**tokenize_rows(tokenizer, rows), **pixels}
