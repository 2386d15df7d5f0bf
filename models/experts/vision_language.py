"""Vision-language models as subjects: image tokens among the tokens of a language model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...probes.notebook_views import SubjectView
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.picture_grids import Place, find_grids
from ...probes.subjects.sample_rows import divide_inputs
from ...probes.subjects.subject import ForwardPass
from .front_tokens import front_ids
from .image_tokens import check_image_inputs, image_features, needs
from .token_rows import Part, check_words, cut_parts, join_parts

# Tokens that stand before and after an image, as configs and tokenizers of the families name them.
FRAMES = (
    ("vision_start_token_id", "vision_end_token_id"),
    ("boi_token_id", "eoi_token_id"),
    ("image_start_token_id", "image_end_token_id"),
    ("start_image_token_id", "end_image_token_id"),
    ("fake_image_token_id", "fake_image_token_id"),
)


@dataclass
class VlmExpert(SubjectView):
    """A vision-language model; blocks are its language model's, image tokens what its own vision path puts there.

    Text alone is the caption after one token in front (models/experts/front_tokens.py); image alone is the image tokens
    after it, in their frame where the family has one (start and end of vision); together, the image comes first. The
    token in front and the frame are special. An image is one view of itself: families that cut it into rows and columns
    (Idefics3, SmolVLM) are asked not to, for what they write between the tiles only their own chat format knows.

    Attributes
    ----------
    name : str
        What the expert is called.
    model : PreTrainedModel
        The model.
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    processor : BaseImageProcessor
        The model's own.
    blocks : tuple of str
        Paths of the language model's blocks in depth order.
    tasks, modalities, timed_tasks : tuple of str
        What can be probed, as every `Subject` says.
    front : str or None
        The token in front of image and text, "" for none; None is the tokenizer's begin token.
    lengths : dict
        How many tokens an image becomes, by its size: measured when an image of this size is first shown.
    """

    name: str
    model: Any
    tokenizer: Any
    processor: Any
    blocks: tuple[str, ...]
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("image", "text")
    timed_tasks: tuple[str, ...] = ()
    front: str | None = None
    lengths: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    # Measured when the expert is opened: no setting that a store would compare.
    _typical_norms: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    @property
    def typical_norms(self) -> dict[str, float]:
        """The median norm of words at each layer, by the layer's path, as far as it was measured."""
        return self._typical_norms

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one pass that shows these modalities of the stimuli.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            What is shown.
        modalities : tuple of str
            "image", "text" or both.
        task, timestep
            Not used: there is one of each.

        Returns
        -------
        ForwardPass

        Raises
        ------
        ValueError
            If a text becomes no token, or the image processor makes less than the model asks for.
        """
        images = [s.image for s in stimuli] if "image" in modalities else []
        parts, inputs = self.image_parts(images) if images else ([[]] * len(stimuli), {})
        texts = self.text_parts([s.text if "text" in modalities else "" for s in stimuli])
        begin = self.begin_part(modalities)
        rows, cut = cut_parts([[begin, *image, text] for image, text in zip(parts, texts, strict=True)], self.longest)
        ids, mask, places = self.join(rows)
        given = {"input_ids": ids, "attention_mask": mask, **inputs, **self.token_types(ids)}
        given = {
            name: value for name, value in given.items() if name in inspect.signature(self.model.forward).parameters
        }
        shown = self.forward_pass(given, modalities, places, lambda: self.patch_grids(images, given, places["image"]))
        return shown._replace(cut=cut, limit=self.longest)

    def forward_pass(
        self,
        inputs: dict[str, Any],
        modalities: tuple[str, ...],
        places: dict[str, Tensor],
        grids: Callable[[], Sequence[Any]],
    ) -> ForwardPass:
        """Prepare one pass over inputs that are ready.

        Parameters
        ----------
        inputs : dict
            Whatever of them the model does not take is left out.
        modalities : tuple of str
            Whose tokens are reported.
        places : dict
            Masks (batch, token) of each kind of token, "image", "image special" and so on.
        grids : callable
            It returns rows and columns of each image's tokens, where a grid of them is asked for.

        Returns
        -------
        ForwardPass
        """
        model, nowhere = self.model, torch.zeros_like(next(iter(places.values())))
        if "pixel_values" not in inputs and needs(model.forward, "pixel_values"):
            model = model.get_decoder()  # BLIP-2 takes no text without an image
        accepted = inspect.signature(model.forward).parameters
        given = {name: value for name, value in inputs.items() if name in accepted}
        return ForwardPass(
            lambda: model(**given, use_cache=False),
            {m: places.get(m, nowhere) for m in modalities},
            special={m: places.get(f"{m} special", nowhere) for m in modalities},
            grids={"image": grids},
        )

    @property
    def longest(self) -> int | None:
        """The number of positions that the language model has; captions are cut there. None where it says none."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def begin_part(self, modalities: tuple[str, ...]) -> Part:
        """Return the token in front, counted with the text where there is one.

        Parameters
        ----------
        modalities : tuple of str
            What is shown.

        Returns
        -------
        Part
        """
        return ("text special" if "text" in modalities else "image special", front_ids(self.tokenizer, self.front))

    def text_parts(self, texts: Sequence[str]) -> list[Part]:
        """Return texts as they are, without special tokens.

        Parameters
        ----------
        texts : sequence of str
            One for each row; may be empty.

        Returns
        -------
        list of Part

        Raises
        ------
        ValueError
            If a text becomes no token.
        """
        ids = self.tokenizer(list(texts), add_special_tokens=False).input_ids
        check_words([len(row) for row in ids], texts)
        return [("text", row) for row in ids]

    def image_parts(self, images: Sequence[Image.Image]) -> tuple[list[list[Part]], dict[str, Tensor]]:
        """Return the tokens that stand for images to read: placeholders in their frame.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            One for each row.

        Returns
        -------
        parts : list of list of Part
            For each image.
        inputs : dict
            What the model fills the placeholders from.
        """
        frame: tuple[list[int], list[int]] = ([], [])
        for names in reversed(FRAMES):
            start, end = (self.special_token(name) for name in names)
            if start is not None and end is not None:
                frame = [start], [end]
        fill = self.model.config.image_token_id
        parts: list[list[Part]] = [
            [("image special", frame[0]), ("image", [fill] * self.count_tokens(image)), ("image special", frame[1])]
            for image in images
        ]
        return parts, self.pixels(images)

    def join(self, rows: Sequence[Sequence[Part]]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Join rows of parts to padded ids.

        Parameters
        ----------
        rows : sequence of sequence of Part
            One row for each stimulus.

        Returns
        -------
        ids, mask : Tensor
            (batch, token), on the model's device.
        places : dict
            Of each kind of token, a bool mask (batch, token).

        See Also
        --------
        bridgework.models.experts.token_rows.join_parts : Does it.
        """
        return join_parts(rows, self.tokenizer.pad_token_id, self.model.device)

    def special_token(self, name: str) -> int | None:
        """Return the id of a special token that the config or the tokenizer names.

        Parameters
        ----------
        name : str
            As config or tokenizer call it.

        Returns
        -------
        int or None
        """
        named = getattr(self.model.config, name, None)
        return named if named is not None else getattr(self.tokenizer, name, None)

    def token_types(self, ids: Tensor) -> dict[str, Tensor]:
        """Return which tokens are image, for the models that ask: Qwen's positions and Gemma's masks follow from it.

        Parameters
        ----------
        ids : Tensor
            (batch, token).

        Returns
        -------
        dict
            Two names for it, each (batch, token).
        """
        image = torch.eq(ids, self.model.config.image_token_id).int()
        prefix = self.model.config.model_type.startswith("paligemma")  # there 0 is the prompt, image and text alike
        return {"mm_token_type_ids": image, "token_type_ids": torch.zeros_like(ids) if prefix else image}

    def pixels(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return what the processor makes of images, one view each, in the model's precision.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            Of any sizes.

        Returns
        -------
        dict
            "pixel_values" and what else the family has.
        """
        whole = {"do_image_splitting": False} if hasattr(self.processor, "do_image_splitting") else {}
        processed = self.processor([[image] for image in images], return_tensors="pt", **whole)
        return dict(processed.to(self.model.device, self.model.dtype))

    def count_tokens(self, image: Image.Image) -> int:
        """Return how many tokens the model's own vision path makes of an image.

        Parameters
        ----------
        image : PIL.Image.Image
            Its size alone matters, so each size is measured once.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If the image processor makes less than the model asks for.
        """
        if image.size not in self.lengths:
            inputs = self.pixels([image])
            check_image_inputs(self.name, self.model, self.processor, inputs)
            accepted = inspect.signature(call := image_features(self.model)).parameters
            with torch.no_grad():
                features = call(**{n: value for n, value in inputs.items() if n in accepted})
            states = getattr(features, "pooler_output", features)
            states = states if isinstance(states, list | tuple) else [states]
            self.lengths[image.size] = sum(state.reshape(-1, state.shape[-1]).shape[0] for state in states)
        return self.lengths[image.size]

    def patch_grids(self, images: Sequence[Image.Image], inputs: dict[str, Any], mask: Tensor) -> Sequence[Any]:
        """Return rows and columns of each image's tokens; raise a ValueError for queries, tiles and the like.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            One for each row.
        inputs : dict
            What the model is given.
        mask : Tensor
            (batch, token), the image tokens.

        Returns
        -------
        sequence
            As `ForwardPass.grids` describes.
        """
        accepted = inspect.signature(self.model.forward).parameters
        inputs = {name: value for name, value in inputs.items() if name in accepted}
        rows = divide_inputs(self.model, inputs, {"image": ["pixel_values"]}, len(images))["pixel_values"]
        return find_grids(Place(self.model, self.blocks[0], positions=mask), inputs, "pixel_values", rows)


class LlavaExpert(VlmExpert):
    """A LLaVA, the family of our own understanding expert: the one that a fused model reads through its bridges."""
