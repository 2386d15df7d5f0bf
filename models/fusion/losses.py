"""Compute what a fused model is trained on: drawing, semantic tokens, captions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ...probes.hooks.block_outputs import named_inputs
from ..generation.flow import denoising_loss, targets_and_noise
from ..scenes.dialogues import IGNORE, answer_loss, split_labels
from ..towers.attention_masks import one_image, text_after
from .expert_passes import text_pass
from .semantic_tokens import vision_features

SEMANTIC_WEIGHT = 0.5  # of the semantic loss, beside the velocity loss


def fused_loss(fused: Any, batch: dict[str, Any]) -> Tensor:
    """Return the training loss of a batch: the sum of the terms that the plan and the trained parts ask for.

    The terms are the velocity loss of the bridged generator; with semantic tokens, half of their loss; both ways, the
    loss of the captions, which are read through the bridges off the clean image; and, where the understanding expert is
    trained and the batch has questions, the loss of their answers.

    Parameters
    ----------
    fused : FusedModel
        The model that is trained.
    batch : dict
        image, caption, time and noise, as models/training/scene_batches.py and models/training/batches.py make them,
        and "questions" where there are some.

    Returns
    -------
    Tensor
        One number.
    """
    image, time, noise = targets_and_noise(fused, batch)
    states: list[Tensor] = []
    with nullcontext() if fused.semantic is None else fused.at_text_end(states.append):
        loss = denoising_loss(fused, batch["caption"], image, time, noise)
    if fused.semantic is not None:
        features = vision_features(fused.experts[0], batch["image"])
        loss = loss + SEMANTIC_WEIGHT * fused.semantic.loss(states[0], features)
    if fused.plan.both_ways:
        loss = loss + fused.caption_loss(batch["caption"], image)
    if fused.trained_experts != "bridges" and "questions" in batch:
        loss = loss + question_loss(fused, batch["questions"])
    return loss


def question_loss(fused: Any, questions: dict[str, Tensor]) -> Tensor:
    """Return the mean cross-entropy (nats a token) of the answers that the understanding tower gives by itself.

    Parameters
    ----------
    fused : FusedModel
        The model that is trained.
    questions : dict of Tensor
        The rows of a batch of dialogues, with their labels.
    """
    inputs, labels = split_labels(questions, fused.device)
    return answer_loss(fused.understanding(**inputs).logits.float(), labels)


def caption_loss(fused: Any, captions: Sequence[str], image: Tensor) -> Tensor:
    """Return the cross-entropy of captions whose image the understanding tower reads off the generation tower alone.

    Both towers run in lockstep: the generation tower on the clean image, the understanding tower on the caption after
    it.

    Parameters
    ----------
    fused : FusedModel
        The model that is trained.
    captions : sequence of str
        One caption for each image. Empty ones cost nothing.
    image : Tensor
        Clean images or latents, (batch, channel, row, column).

    Returns
    -------
    Tensor
        Nats a token.

    Raises
    ------
    ValueError
        The plan runs one way.
    """
    run, mask = text_pass(fused.experts[0], captions)
    mask = mask.to(fused.device)
    expert, time = fused.experts[1], image.new_zeros(len(image))
    places = text_after(mask, 1), one_image(len(image), 0, False, fused.device)
    ids: list[Tensor] = []
    handle = fused.understanding.register_forward_pre_hook(
        lambda module, args, kwargs: ids.append(named_inputs(module, args, kwargs)["input_ids"]), with_kwargs=True
    )
    try:
        read, _ = fused.together(run, lambda: expert.predict(image, fused.own_text(len(image)), time), places)
    finally:
        handle.remove()
    labels = ids[0].masked_fill(~mask, IGNORE)[:, 1:]
    lost = F.cross_entropy(read.logits[:, :-1].transpose(1, 2).float(), labels, ignore_index=IGNORE, reduction="sum")
    return lost / (labels != IGNORE).sum().clamp(min=1)  # all captions of a batch may be left out
