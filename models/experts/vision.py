"""Vision transformers and dual encoders as subjects."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import AutoModel

from ...probes.hooks.capturing import EMBEDDINGS, capture
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass
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
    ) -> ForwardPass:
        given = self.processor([s.image for s in stimuli], return_tensors="pt").to(self.model.device)
        takes = inspect.signature(self.model.forward).parameters
        inputs = {name: value for name, value in given.items() if name in takes}
        shape = tuple(inputs["pixel_values"].shape[1:])
        if shape not in self.patches:
            self.patches[shape] = self._find_patches({name: value[:1] for name, value in inputs.items()})
        patches = self.patches[shape].expand(len(stimuli), -1)
        mask, there = patches, given.get("pixel_attention_mask")
        if there is not None and there.shape == mask.shape:  # SigLIP 2 pads images to one number of patches
            mask = mask & there.cpu().bool()
        return ForwardPass(lambda: self.model(**inputs), {"image": mask}, special={"image": ~patches})

    def _find_patches(self, one: dict[str, Tensor]) -> Tensor:
        """A mask (token,) of the tokens that answer to pixels, of one image's shape."""
        plain, again, moved = (self._states(one, shift) for shift in (0.0, 0.0, 1.0))
        states = [*plain.values(), *again.values()]
        shapes = [tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__ for state in states]
        if len(set(shapes)) > 1 or len(shapes[0]) != 3:
            raise ValueError(
                f"the blocks of {self.name} hold states {shapes[0]} to {shapes[len(plain) - 1]}: expected (batch, "
                "token, dim) with the same patches in every block. Wrap such a model in your own Subject "
                "(probes/subjects/subject.py)"
            )
        if not torch.equal(plain[EMBEDDINGS], again[EMBEDDINGS]):
            raise ValueError(
                f"{self.name} shows its blocks something else each time it sees an image, such as a random part: "
                "wrap it in your own Subject (probes/subjects/subject.py) that fixes what is drawn"
            )
        return (plain[EMBEDDINGS] != moved[EMBEDDINGS]).any(-1)[0].cpu()

    def _states(self, inputs: dict[str, Tensor], shift: float) -> dict[str, Any]:
        """Every block's state, each pixel shifted. Raises ValueError where the model does not run on images."""
        shifted = inputs | {"pixel_values": inputs["pixel_values"] + shift}
        try:
            with torch.no_grad(), capture(self.model, [EMBEDDINGS, *self.blocks]) as taps:
                self.model(**shifted)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.name} does not run on what its image processor makes, {tuple(shifted['pixel_values'].shape)}: "
                f"{str(error).splitlines()[0]}. Wrap it in your own Subject (probes/subjects/subject.py)"
            ) from error
        return taps


@dataclass
class DualExpert:
    """A dual encoder (CLIP, SigLIP): two subjects, `.vision` and `.text`, of one checkpoint.

    Its two stacks share no block, may differ in depth and never see each other, so one subject would have to pair
    blocks that have nothing in common but their number. Extract each, and compare the two by relative depth.

    >>> expert = open_expert("openai/clip-vit-large-patch14")
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
    vision = getattr(model, "vision_model", getattr(model, "image_model", None))  # FLAVA has an image model
    text = getattr(model, "text_model", None)
    if vision is None or text is None:
        raise ValueError(
            f"expert {label!r} ({type(model).__name__}) has no vision_model and text_model: "
            "wrap its towers in your own Subjects (probes/subjects/subject.py)"
        )
    # SigLIP was trained on texts of one length, its padding in plain sight
    width = text.config.max_position_embeddings if config.model_type.startswith("siglip") else None
    processor, tokenizer = loading.plain_image_processor(source), loading.tokenizer(source)
    return DualExpert(
        label,
        VisionExpert(f"{label} vision", vision, processor, loading.longest_stack(vision)),
        TextExpert(f"{label} text", text, tokenizer, loading.longest_stack(text), width=width),
    )
