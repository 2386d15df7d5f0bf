"""Vision transformers and dual encoders as subjects."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import AutoModel

from ..probes.capture import EMBEDDINGS, capture
from ..probes.stimuli import Stimulus
from ..probes.subjects import Shown
from . import loading
from .language import TextExpert


@dataclass
class VisionExpert:
    """A vision transformer; its image tokens are the patches, in reading order; class and register tokens are special.

    Which tokens are patches is not taken from names: those are the patches that move at the entrance of the first
    block when every pixel does. Models that merge patches on the way (Swin, PVT) have no such tokens and are refused.
    """

    name: str
    model: Any
    processor: Any
    blocks: tuple[str, ...]
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("image",)
    timed_tasks: tuple[str, ...] = ()
    patches: dict[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False)  # by the shape of the pixels

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> Shown:
        device = self.model.device
        given = self.processor([s.image for s in stimuli], return_tensors="pt").to(device)
        takes = inspect.signature(self.model.forward).parameters
        inputs = {name: value for name, value in given.items() if name in takes}
        shape = tuple(inputs["pixel_values"].shape[1:])
        if shape not in self.patches:
            self.patches[shape] = self._find_patches(inputs)
        mask = self.patches[shape].expand(len(stimuli), -1)
        return Shown(lambda: self.model(**inputs), {"image": mask}, special={"image": ~mask})

    def _find_patches(self, inputs: dict[str, Tensor]) -> Tensor:
        """A mask (token,) of the tokens that answer to pixels, of one image's shape."""
        one = {name: value[:1] for name, value in inputs.items()}
        states = []
        for pixels in (torch.zeros_like(one["pixel_values"]), torch.ones_like(one["pixel_values"])):
            with torch.no_grad(), capture(self.model, [EMBEDDINGS, *self.blocks]) as taps:
                self.model(**(one | {"pixel_values": pixels}))
            states.append(taps)
        shapes = [tuple(state.shape) for state in states[0].values()]
        if len(set(shapes)) > 1 or len(shapes[0]) != 3:
            raise ValueError(
                f"the blocks of {self.name} hold states {shapes[0]} to {shapes[-1]}: expected (batch, token, dim) with "
                "the same patches in every block. Wrap such a model in your own Subject (probes/subjects.py)"
            )
        return (states[0][EMBEDDINGS] != states[1][EMBEDDINGS]).any(-1)[0].cpu()


@dataclass
class DualExpert:
    """A dual encoder (CLIP, SigLIP): two subjects, `.vision` and `.text`, of one checkpoint.

    Its two stacks share no block, may differ in depth and never see each other, so one subject would have to pair
    blocks that have nothing in common but their number. Extract each, and compare the two by relative depth.

    >>> expert = open_expert("openai/clip-vit-base-patch32")
    >>> image, text = extract(expert.vision, stimuli)["image"], extract(expert.text, stimuli)["text"]
    """

    name: str
    vision: VisionExpert
    text: TextExpert

    def __getattr__(self, attribute: str) -> NoReturn:
        raise AttributeError(
            f"a dual encoder is two subjects and has no {attribute!r} itself: give its .vision or its .text to extract"
        )


def open_vision(label: str, source: str, config: Any, random_weights: bool) -> VisionExpert:
    """Open a vision transformer."""
    model = loading.model(AutoModel, source, config, random_weights)
    return VisionExpert(label, model, loading.plain_image_processor(source), loading.longest_stack(model))


def open_dual(label: str, source: str, config: Any, random_weights: bool) -> DualExpert:
    """Open a dual encoder. Raises ValueError where its two towers cannot be told apart."""
    model = loading.model(AutoModel, source, config, random_weights)
    vision, text = (
        getattr(model, "vision_model", getattr(model, "image_model", None)),
        getattr(model, "text_model", None),
    )
    if vision is None or text is None:
        raise ValueError(
            f"expert {label!r} ({type(model).__name__}) has no vision_model and text_model: "
            "wrap its towers in your own Subjects (probes/subjects.py)"
        )
    # SigLIP was trained on texts of one length, its padding in plain sight
    width = text.config.max_position_embeddings if config.model_type.startswith("siglip") else None
    processor, tokenizer = loading.plain_image_processor(source), loading.tokenizer(source)
    return DualExpert(
        label,
        VisionExpert(f"{label} vision", vision, processor, loading.longest_stack(vision)),
        TextExpert(f"{label} text", text, tokenizer, loading.longest_stack(text), width=width),
    )
