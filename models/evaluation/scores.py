"""Scores: what a generator draws, read back by the scene checker, and what a model answers about scenes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor

from ..experts.vision_language import LlavaExpert
from ..generation.sampling import draws, generate
from ..scenes import checker
from ..scenes.composing import examples
from ..scenes.dialogues import likeliest_answers
from ..scenes.questions import compose_question
from ..scenes.rendering import render_scene
from ..scenes.scene import PARTS, SKILLS, check_part


class Drawn(NamedTuple):
    """One generated image with what was asked and whether the checker found it."""

    image: Image.Image
    skill: str
    caption: str
    correct: bool


def evaluate(model: Any, part: str = "test", each: int = 40, seed: int = 0, **sampling: Any) -> pd.DataFrame:
    """Score a model on one part of the scenes: "test" for new scenes, "new" for new combinations.

    A generator (an expert, a fused or a unified model) is scored by the scene checker on `each` captions of every
    skill; what answers questions (a vision-language expert, or a model with `answer(images, questions)`) on `each`
    questions of every skill; a model that does both on both. "one object" has no captions in "new".

    Returns one row per skill and a last one, "all", their mean: skill, score, low, high (95 %, Wilson), samples. For
    questions also `majority` and `question_only`, the accuracy of the most common answer of the skill and of the
    question, as counted in training. Of a model that does both, the column `task` comes first, generation's rows before
    understanding's.

    Raises ValueError for an unknown part or nothing to score, TypeError for a model that does neither.
    """
    skills_of(part, each)
    tables = {}
    if draws(model):
        tables["generation"] = scene_score(draw_scenes(model, part, each, seed, **sampling))
    if answers(model):
        tables["understanding"] = question_accuracy(model, part, each, seed)
    if not tables:
        raise TypeError(
            f"expected a generator or a model that answers questions to evaluate, got {type(model).__name__}"
        )
    if len(tables) == 1:
        return next(iter(tables.values()))
    return pd.concat(tables, names=["task", None]).reset_index("task").reset_index(drop=True)


def skills_of(part: str, each: int) -> tuple[str, ...]:
    """The skills that a part has captions of. Raises ValueError for an unknown part or nothing to score."""
    check_part(part, each)
    return tuple(s for s in SKILLS if part != "new" or s != "one object")


def answers(model: object) -> bool:
    """Whether a model answers questions about images."""
    return isinstance(model, LlavaExpert) or callable(getattr(model, "answer", None))


def draw_scenes(model: Any, part: str = "test", each: int = 40, seed: int = 0, **sampling: Any) -> list[Drawn]:
    """Draw and check `each` captions of every skill; the same captions and noise for the same seed."""
    wanted = list(examples(part, skills_of(part, each), each, seed))
    ids = [f"{part} {seed} {number}" for number in range(len(wanted))]
    images = generate(model, [e.caption for e in wanted], ids, **sampling)
    return [
        Drawn(image, e.skill, e.caption, checker.matches_caption(image, e.skill, e.caption))
        for image, e in zip(images, wanted, strict=True)
    ]


def scene_score(drawn: Sequence[Drawn]) -> pd.DataFrame:
    """The share of correct images, by skill and in all (the mean of the skills, as GenEval has it)."""
    return _by_skill(pd.DataFrame({"skill": [d.skill for d in drawn], "score": [float(d.correct) for d in drawn]}))


@torch.inference_mode()
def question_accuracy(model: Any, part: str = "test", each: int = 200, seed: int = 0) -> pd.DataFrame:
    """The share of questions answered right, beside two baselines that see no image."""
    reply = getattr(model, "answer", None) or partial(answer, model)
    rng = np.random.default_rng((seed, PARTS.index(part), 1))
    asked = [compose_question(rng, skill, part) for skill in SKILLS for _ in range(each)]
    correct = []
    for start in range(0, len(asked), 64):
        batch = asked[start : start + 64]
        images = [render_scene(question.scene, rng) for question in batch]
        replies = reply(images, [question.question for question in batch])
        correct += [a == question.answer for a, question in zip(replies, batch, strict=True)]
    majority, question_only = _blind(each, seed)
    return _by_skill(
        pd.DataFrame(
            {
                "skill": [q.skill for q in asked],
                "score": np.array(correct, float),
                "majority": [float(majority[q.skill] == q.answer) for q in asked],
                "question_only": [float(question_only.get(q.question, majority[q.skill]) == q.answer) for q in asked],
            }
        )
    )


def answer(expert: LlavaExpert, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
    """The one-word answer to a question about each image: the likeliest next token."""
    device = expert.model.device
    pixels = expert.processor(list(images), return_tensors="pt").pixel_values.to(device)

    def read(ids: Tensor, mask: Tensor) -> Tensor:
        return expert.model(input_ids=ids.to(device), attention_mask=mask.to(device), pixel_values=pixels).logits

    return likeliest_answers(expert.tokenizer, questions, read)


def _blind(each: int, seed: int) -> tuple[dict[str, str], dict[str, str]]:
    """The commonest training answer to every skill and to every question."""
    rng = np.random.default_rng((seed, 2))
    by_skill: dict[str, Counter[str]] = defaultdict(Counter)
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for skill in SKILLS:
        for _ in range(5 * each):
            question = compose_question(rng, skill, "train")
            by_skill[skill][question.answer] += 1
            by_question[question.question][question.answer] += 1
    return tuple({key: c.most_common(1)[0][0] for key, c in counts.items()} for counts in (by_skill, by_question))  # type: ignore[return-value]


def _by_skill(rows: pd.DataFrame) -> pd.DataFrame:
    """Means by skill in the order of SKILLS, then "all"."""
    means = rows.groupby("skill", sort=False).mean()
    means.loc["all"] = means.mean()
    counts = rows.groupby("skill", sort=False).size()
    counts["all"] = len(rows)
    table = means.reset_index().assign(samples=counts.to_numpy())
    intervals = [
        binomtest(round(score * n), n).proportion_ci(method="wilson")
        for score, n in zip(table.score, table.samples, strict=True)
    ]
    table.insert(2, "low", [i.low for i in intervals])
    table.insert(3, "high", [i.high for i in intervals])
    return table
