"""Vision-language models as subjects: any that transformers opens as image and text to text."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_MAPPING, AutoModelForImageTextToText

from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass
from . import loading
from .token_rows import Part, check_words, lay

# Tokens that stand before and after an image, as configs and tokenizers of the families name them.
FRAMES = (
    ("vision_start_token_id", "vision_end_token_id"),
    ("boi_token_id", "eoi_token_id"),
    ("image_start_token_id", "image_end_token_id"),
    ("start_image_token_id", "end_image_token_id"),
    ("fake_image_token_id", "fake_image_token_id"),
)


@dataclass
class VlmExpert:
    """A vision-language model; blocks are its language model's, image tokens what its own vision path puts there.

    Text alone is the caption after the begin-of-sequence token; image alone is the image tokens after it, in their
    frame where the family has one (start and end of vision); together, the image comes first. The begin-of-sequence
    token and the frame are special. An image is one view of itself: families that cut it into rows and columns
    (Idefics3, SmolVLM) are asked not to, for what they write between the tiles only their own chat format knows.
    """

    name: str
    model: Any
    tokenizer: Any
    processor: Any
    blocks: tuple[str, ...]
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("image", "text")
    timed_tasks: tuple[str, ...] = ()
    lengths: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)  # image tokens, by an image's size

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        images = [s.image for s in stimuli] if "image" in modalities else []
        parts, inputs = self.see(images) if images else ([[]] * len(stimuli), {})
        texts = self.write([s.text if "text" in modalities else "" for s in stimuli])
        begin = self.begin(modalities)
        ids, mask, where = self.lay([[begin, *image, text] for image, text in zip(parts, texts, strict=True)])
        return self.shown({"input_ids": ids, "attention_mask": mask, **inputs, **self.kinds(ids)}, modalities, where)

    def shown(self, inputs: dict[str, Any], modalities: tuple[str, ...], where: dict[str, Tensor]) -> ForwardPass:
        """One pass over these inputs, and the tokens of each modality."""
        model, nowhere = self.model, torch.zeros_like(next(iter(where.values())))
        if "pixel_values" not in inputs and _needs(model.forward, "pixel_values"):
            model = model.get_decoder()  # BLIP-2 takes no text without an image
        takes = inspect.signature(model.forward).parameters
        given = {name: value for name, value in inputs.items() if name in takes}
        return ForwardPass(
            lambda: model(**given, use_cache=False),
            {m: where.get(m, nowhere) for m in modalities},
            special={m: where.get(f"{m} special", nowhere) for m in modalities},
        )

    def begin(self, modalities: tuple[str, ...]) -> Part:
        """The begin-of-sequence token; the text's own where there is one."""
        return ("text special" if "text" in modalities else "image special", [self.tokenizer.bos_token_id])

    def write(self, texts: Sequence[str]) -> list[Part]:
        """Texts as they are, without special tokens."""
        ids = self.tokenizer(list(texts), add_special_tokens=False).input_ids
        check_words([len(row) for row in ids], texts)
        return [("text", row) for row in ids]

    def see(self, images: Sequence[Image.Image]) -> tuple[list[list[Part]], dict[str, Tensor]]:
        """What stands for each image among the tokens, and the inputs that fill it: placeholders in their frame."""
        frame: tuple[list[int], list[int]] = ([], [])
        for names in reversed(FRAMES):
            start, end = (self.token(name) for name in names)
            if start is not None and end is not None:
                frame = [start], [end]
        fill = self.model.config.image_token_id
        parts: list[list[Part]] = [
            [("image special", frame[0]), ("image", [fill] * self.count(image)), ("image special", frame[1])]
            for image in images
        ]
        return parts, self.pixels(images)

    def lay(self, rows: Sequence[Sequence[Part]]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Rows of parts as padded ids, their mask and where each kind stands (models/experts/token_rows.py)."""
        return lay(rows, self.tokenizer.pad_token_id, self.model.device)

    def token(self, name: str) -> int | None:
        """The id of a special token by its name in the config or the tokenizer, or None."""
        named = getattr(self.model.config, name, None)
        return named if named is not None else getattr(self.tokenizer, name, None)

    def kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Which tokens are image, for the models that ask: Qwen's positions and Gemma's masks follow from it."""
        image = torch.eq(ids, self.model.config.image_token_id).int()
        prefix = self.model.config.model_type.startswith("paligemma")  # there 0 is the prompt, image and text alike
        return {"mm_token_type_ids": image, "token_type_ids": torch.zeros_like(ids) if prefix else image}

    def pixels(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """What the processor makes of images, one view each, in the model's precision."""
        whole = {"do_image_splitting": False} if hasattr(self.processor, "do_image_splitting") else {}
        made = self.processor([[image] for image in images], return_tensors="pt", **whole)
        return dict(made.to(self.model.device, self.model.dtype))

    def count(self, image: Image.Image) -> int:
        """How many tokens the model's own vision path makes of an image: a matter of the image's size alone."""
        if image.size not in self.lengths:
            holder = self.model if hasattr(self.model, "get_image_features") else self.model.model
            inputs = self.pixels([image])
            takes = inspect.signature(holder.get_image_features).parameters
            asked = [name for name in takes if _needs(holder.get_image_features, name) and name not in inputs]
            if asked:
                raise ValueError(
                    f"the image processor of {self.name} makes no {asked[0]!r}, which its model asks for: expected the "
                    "family's own image processor"
                )
            with torch.no_grad():
                made = holder.get_image_features(**{name: value for name, value in inputs.items() if name in takes})
            states = getattr(made, "pooler_output", made)
            states = states if isinstance(states, list | tuple) else [states]
            self.lengths[image.size] = sum(state.reshape(-1, state.shape[-1]).shape[0] for state in states)
        return self.lengths[image.size]


class LlavaExpert(VlmExpert):
    """A LLaVA, the family of our own understanding expert: the one that a fused model reads through its bridges."""


def open_vlm(label: str, source: str, config: Any, random_weights: bool) -> VlmExpert:
    """Open a vision-language model whose image tokens stand among the text's.

    Raises ValueError for one that has none, such as those that read the image by cross-attention (Mllama, BLIP).
    """
    auto = AutoModelForImageTextToText
    kinds = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)], MODEL_MAPPING.get(type(config), None)
    reads = any(hasattr(kind, "get_image_features") for kind in kinds)
    one_stack = reads and not config.get_text_config().is_encoder_decoder
    if not one_stack or getattr(config, "image_token_id", None) is None:
        raise ValueError(
            f"expert {label!r} ({config.model_type}) has no image tokens among the tokens of a language model: "
            "wrap it in your own Subject (probes/subjects/subject.py)"
        )
    model = loading.model(auto, source, config, random_weights)
    expert = LlavaExpert if config.model_type == "llava" else VlmExpert
    tokenizer, processor = loading.tokenizer(source), loading.image_processor(source)
    return expert(label, model, tokenizer, processor, loading.language_stack(model))


def _needs(call: Any, name: str) -> bool:
    given = inspect.signature(call).parameters.get(name)
    return given is not None and given.default is given.empty and given.kind is not given.VAR_KEYWORD
