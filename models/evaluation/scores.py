"""Score what a generator draws, read back by the scene checker, and what a model answers about scenes."""

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

from ...probes.arguments import check_arguments, checked
from ..experts.vision_language import LlavaExpert
from ..generation.sampling import check_sampling, draws, generate, no_generator
from ..scenes import checker
from ..scenes.composing import examples
from ..scenes.dialogues import check_questions, likeliest_answers
from ..scenes.questions import compose_question
from ..scenes.rendering import render_scene
from ..scenes.scene import PARTS, SKILLS
from .evaluation_options import EvaluationOptions


class Drawn(NamedTuple):
    """One generated image with its caption and the verdict of the scene checker.

    Attributes
    ----------
    image : PIL.Image.Image
        The image.
    skill : str
        Skill that the caption tests.
    caption : str
        The caption.
    correct : bool
        Whether the checker found what the caption says.
    """

    image: Image.Image
    skill: str
    caption: str
    correct: bool


def evaluate(model: Any, part: str = "test", each: int = 40, seed: int = 0, **sampling: Any) -> pd.DataFrame:
    """Score a model on one part of the scenes.

    A generator (an expert, a fused or a unified model) is scored by the scene checker on captions of every skill. A
    model that answers questions (a vision-language expert, or a model with `answer(images, questions)`) is scored on
    questions of every skill. A model that does both is scored on both.

    Parameters
    ----------
    model : object
        The model.
    part : str
        "test" for new scenes, "new" for new combinations, or another part. "one object" has no captions in "new".
    each : int
        Number of captions or questions of every skill.
    seed : int
        Seed of captions, questions and noise.
    **sampling
        Options of `generate`.

    Returns
    -------
    pandas.DataFrame
        One row per skill and a last one, "all", their mean, with the columns skill, score, low, high (95 %,
        Wilson 1927), samples. Questions also have `majority` and `question_only`, the accuracy of the most common
        answer to the skill and to the question, as counted in training. For a model that does both, the column `task`
        comes first, and the rows of generation before those of understanding.

    Raises
    ------
    ValueError
        For an unknown part, or if there is nothing to score.
    TypeError
        For a model that neither draws nor answers.

    See Also
    --------
    report : Adds dense captions, the distance of images and costs, and names each table.
    generate : Draws images of captions of your own, without a score.

    Examples
    --------
    >>> evaluate(dit, each=1, steps=2)["skill"].iloc[-1]
    'all'
    """
    check_arguments(EvaluationOptions, {"part": part, "each": each, "seed": seed})
    check_sampling(**sampling)
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
    """Return the skills that a part has captions of.

    Parameters
    ----------
    part : str
        Part of the scenes.
    each : int
        Number of captions or questions of every skill.

    Returns
    -------
    tuple of str
        The skills, in the order of `SKILLS`.

    Raises
    ------
    ValueError
        For an unknown part, or if there is nothing to score.
    """
    check_arguments(EvaluationOptions, {"part": part, "each": each})
    return tuple(s for s in SKILLS if part != "new" or s != "one object")


def answers(model: object) -> bool:
    """Return whether a model answers questions about images.

    Parameters
    ----------
    model : object
        Any model.

    Returns
    -------
    bool
        True for a vision-language expert, and for a model with a method `answer`.
    """
    return isinstance(model, LlavaExpert) or callable(getattr(model, "answer", None))


def draw_scenes(model: Any, part: str = "test", each: int = 40, seed: int = 0, **sampling: Any) -> list[Drawn]:
    """Draw captions of every skill and check the images.

    Parameters
    ----------
    model : object
        A generator: an expert, a fused or a unified model.
    part : str
        Part of the scenes.
    each : int
        Number of captions of every skill.
    seed : int
        Seed of captions and noise: both are the same for the same seed.
    **sampling
        Options of `generate`.

    Returns
    -------
    list of Drawn
        The images with their captions and verdicts.

    Raises
    ------
    ValueError
        For an unknown part, or if there is nothing to draw.

    See Also
    --------
    evaluate : Scores many such images, without keeping them.
    generate : Draws captions of your own, which the scene checker cannot read.

    Examples
    --------
    >>> drawn = draw_scenes(open_expert("scenes-dit"), each=1, steps=2)
    """
    check_arguments(EvaluationOptions, {"part": part, "each": each, "seed": seed})
    check_sampling(**sampling)
    if not draws(model):
        raise no_generator(model)
    wanted = list(examples(part, skills_of(part, each), each, seed))
    ids = [f"{part} {seed} {number}" for number in range(len(wanted))]
    images = generate(model, [e.caption for e in wanted], ids, **sampling)
    return [
        Drawn(image, e.skill, e.caption, checker.matches_caption(image, e.skill, e.caption))
        for image, e in zip(images, wanted, strict=True)
    ]


def scene_score(drawn: Sequence[Drawn]) -> pd.DataFrame:
    """Return the share of correct images.

    Parameters
    ----------
    drawn : sequence of Drawn
        Images with their verdicts.

    Returns
    -------
    pandas.DataFrame
        One row per skill and a last one, "all", the mean of the skills (as in GenEval): skill, score, low, high
        (95 %, Wilson), samples.
    """
    checked("drawn", drawn, Sequence[Drawn], remedy="draw_scenes returns them")
    return _by_skill(pd.DataFrame({"skill": [d.skill for d in drawn], "score": [float(d.correct) for d in drawn]}))


@torch.inference_mode()
def question_accuracy(model: Any, part: str = "test", each: int = 200, seed: int = 0) -> pd.DataFrame:
    """Return the share of questions that are answered right, beside two baselines that see no image.

    Parameters
    ----------
    model : object
        A vision-language expert, or a model with `answer(images, questions)`.
    part : str
        Part of the scenes.
    each : int
        Number of questions of every skill.
    seed : int
        Seed of the questions.

    Returns
    -------
    pandas.DataFrame
        One row per skill and a last one, "all", their mean: skill, score, low, high (95 %, Wilson), majority,
        question_only, samples. The baselines give the most common answer of the skill (`majority`) and of the question
        (`question_only`), as counted in training.
    """
    check_arguments(EvaluationOptions, {"part": part, "each": each, "seed": seed})
    if not answers(model):
        raise TypeError(
            f"a {type(model).__name__} answers no questions: expected a vision-language expert, or a model with "
            "answer(images, questions)"
        )
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
    """Answer a question about each image with one word, the likeliest next token.

    Parameters
    ----------
    expert : LlavaExpert
        A vision-language expert.
    images : sequence of PIL.Image.Image
        The images.
    questions : sequence of str
        A question about each image.

    Returns
    -------
    list of str
        The answers.
    """
    if not isinstance(expert, LlavaExpert):
        raise TypeError(f"a {type(expert).__name__} answers no questions: expected a vision-language expert")
    check_questions(images, questions)
    device = expert.model.device
    pixels = expert.processor(list(images), return_tensors="pt").pixel_values.to(device)

    def read(ids: Tensor, mask: Tensor) -> Tensor:
        return expert.model(input_ids=ids.to(device), attention_mask=mask.to(device), pixel_values=pixels).logits

    return likeliest_answers(expert.tokenizer, questions, read)


def _blind(each: int, seed: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the commonest training answer to every skill and to every question."""
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
    """Return the means by skill in the order of `SKILLS`, then "all"."""
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
