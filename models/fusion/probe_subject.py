"""A fused model as a subject: probed like any expert, on both tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass, Subject
from ..experts.vision_language import LlavaExpert
from ..generation.flow import noisy_images
from .fused_model import FusedModel


@dataclass
class FusedGenerator:
    """The generation tower of a fused model, which reads text through its bridges.

    Its own text stream holds the null caption always, so the image stream stands in for it: "image" is the noisy
    image with the null caption on the bridges, "text" the caption on the bridges with pure noise, both averaged over
    the image tokens.
    """

    name: str
    fused: FusedModel
    model: torch.nn.Module
    blocks: tuple[str, ...]
    tasks: tuple[str, ...] = ("generation",)
    modalities: tuple[str, ...] = ("image", "text")
    timed_tasks: tuple[str, ...] = ("generation",)

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        if len(modalities) > 1:
            raise ValueError(
                f"{self.name} has no joint pass: image and text would be the same tokens of its image stream"
            )
        config, device = self.fused.generation.config, self.fused.device
        self.fused.to(device)  # `extract` moves the tower alone
        texts = [s.text if "text" in modalities else "" for s in stimuli]
        noisy, time = noisy_images(stimuli, "image" in modalities, timestep, config["sample_size"])
        tokens = torch.ones(len(texts), (config["sample_size"] // config["patch_size"]) ** 2, dtype=torch.bool)
        return ForwardPass(
            lambda: self.fused.predict(noisy.to(device), self.fused.condition(texts), time.to(device)),
            {modalities[0]: tokens},
            {modalities[0]: "image"},
        )


def fused_subject(fused: FusedModel, task: str) -> Subject:
    """The tower of a fused model that does a task, ready for `extract`.

    The understanding tower is the frozen expert itself: bridges run one way, so training cannot move it.

    Raises ValueError for a task other than "understanding" or "generation".
    """
    understanding, generation = fused.experts
    if task == "understanding":
        return LlavaExpert(
            "fused", understanding.model, understanding.tokenizer, understanding.processor, understanding.blocks
        )
    if task == "generation":
        return FusedGenerator("fused", fused, generation.model, generation.blocks)
    raise ValueError(f"unknown task {task!r}: expected understanding or generation")
