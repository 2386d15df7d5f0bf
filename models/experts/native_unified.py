"""Open native unified models as subjects of both tasks: Janus, Emu3 and Chameleon, as transformers has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText

from ...probes.features.patch_grids import square_patches
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass
from .front_tokens import settle_front
from .token_rows import Part, cut_parts
from .vision_language import VlmExpert
from .weight_files import loading


@dataclass
class UnifiedExpert(VlmExpert):
    """A model that reads images and draws them, token after token, in one causal stack: a subject of both tasks.

    *Understanding* shows image, then text. *Generation* shows text, then the start of an image and the stimulus image
    itself as the discrete tokens of the model's own VQ tokenizer, in reading order, entered the way the model enters
    the tokens that it has drawn. An image alone is drawn from the empty prompt. What frames an image (start, size, ends
    of lines, end) is special. The stack is causal and no chat format is added, so text alone gives the same states in
    both tasks: what differs is the image, and who has read whom in a joint pass.

    Attributes are those of `VlmExpert`.
    """

    tasks: tuple[str, ...] = ("understanding", "generation")

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one pass that shows these modalities of the stimuli, for a task.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            What is shown.
        modalities : tuple of str
            "image", "text" or both.
        task : str
            "understanding" or "generation".
        timestep
            Not used: image tokens have no noise.

        Returns
        -------
        ForwardPass

        Raises
        ------
        ValueError
            If a text becomes no token, or the tokenizer lacks a token of the family's.
        """
        if task == "understanding":
            return super().show(stimuli, modalities, task, timestep)
        images = [s.image for s in stimuli] if "image" in modalities else []
        start: list[Part] = [("start", [self.named_token("boi_token")])]  # a text alone is a prompt ready to be drawn
        parts, drawn = self.drawn_image_parts(images) if images else ([start] * len(stimuli), None)
        texts = self.text_parts([s.text if "text" in modalities else "" for s in stimuli])
        begin = self.begin_part(modalities)
        rows, cut = cut_parts([[begin, text, *image] for image, text in zip(parts, texts, strict=True)], self.longest)
        ids, mask, places = self.join(rows)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if drawn is not None:
            states = self.model.get_input_embeddings()(ids).detach()
            states[places["image"].to(states.device)] = drawn.to(states.dtype)
            inputs = {"inputs_embeds": states, "attention_mask": mask}
        shown = self.forward_pass(inputs, modalities, places, lambda: [self.drawn_grid(image) for image in images])
        return shown._replace(cut=cut, limit=self.longest)

    def drawn_grid(self, image: Image.Image) -> Sequence[tuple[int, int, int]]:
        """Return the rows and columns of an image's discrete tokens, which are the places of a map of codes.

        Parameters
        ----------
        image : PIL.Image.Image
            An image.

        Returns
        -------
        sequence of tuple of int
            One grid: frames, rows and columns.
        """
        given = self.pixels([image])
        height, width = (int(side) for side in given.get("image_sizes", [given["pixel_values"].shape[-2:]])[0])
        count = sum(len(ids) for kind, ids in self.drawn_image_parts([image])[0][0] if kind == "image")
        return [(1, *square_patches(height, width, count))]

    def drawn_image_parts(self, images: Sequence[Image.Image]) -> tuple[list[list[Part]], Tensor | None]:
        """Return the tokens of images as the model draws them.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            One for each row.

        Returns
        -------
        parts : list of list of Part
            For each image.
        states : Tensor or None
            (image token, dim) of all images: what enters in the place of embeddings, where these are no text tokens.
        """
        raise NotImplementedError

    def named_token(self, name: str, default: str | None = None) -> int:
        """Return the id of a special token that the tokenizer names.

        Parameters
        ----------
        name : str
            As the tokenizer calls it, such as "boi_token".
        default : str, optional
            The token itself, where the tokenizer has no such name.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If the tokenizer has no such token.
        """
        token = getattr(self.tokenizer, name, None) or default
        found = self.tokenizer.convert_tokens_to_ids(token) if token else None
        if found is None or found == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer of {self.name} names no {name!r}: expected the family's own tokenizer")
        return found


class JanusExpert(UnifiedExpert):
    """Janus: a vision encoder to read with; VQ tokens, with their own table and aligner, to draw with."""

    def drawn_image_parts(self, images: Sequence[Image.Image]) -> tuple[list[list[Part]], Tensor | None]:
        """Return placeholders and the aligned VQ states that enter in their place.

        As `JanusForConditionalGeneration.generate` does with `generation_mode="image"`.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            One for each row.

        Returns
        -------
        parts : list of list of Part
            For each image.
        states : Tensor
            (image token, dim) of all images.
        """
        with torch.no_grad():
            tokens = self.vq_tokens(self.pixels(images)["pixel_values"])
            states = self.model.prepare_embeddings_for_image_generation(tokens)
        image: list[Part] = [
            ("image special", [self.named_token("boi_token")]),
            ("image", [self.model.config.image_token_id] * tokens.shape[1]),
        ]
        return [image] * len(images), states.flatten(0, 1)

    def vq_tokens(self, pixels: Tensor) -> Tensor:
        """Return the indices of the codes that are nearest by angle.

        Parameters
        ----------
        pixels : Tensor
            (image, channel, row, column), as the processor makes them.

        Returns
        -------
        Tensor
            (image, token).

        Notes
        -----
        Janus's VQ tokenizer normalises states and codes before it compares them (`codebook_l2_norm`, VectorQuantizer
        in deepseek-ai/Janus), and so does transformers' decoder; its encoder (5.23) compares them as they are.
        """
        vq = self.model.model.vqmodel
        states = vq.quant_conv(vq.encoder(pixels)).flatten(2).transpose(1, 2)  # (image, token, dim)
        return (F.normalize(states, dim=-1) @ F.normalize(vq.quantize.embedding.weight, dim=-1).T).argmax(-1)


class VocabularyExpert(UnifiedExpert):
    """A model whose VQ tokens are tokens of its vocabulary, so that images are read and drawn as the same tokens."""

    def patch_grids(self, images: Sequence[Image.Image], inputs: dict[str, Any], mask: Tensor) -> Sequence[Any]:
        """Return the same grids as `drawn_grid`, for the tokens are the same.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            One for each row.
        inputs, mask
            Not used.

        Returns
        -------
        sequence
            One grid for each image.
        """
        return [self.drawn_grid(image) for image in images]

    def drawn_image_parts(self, images: Sequence[Image.Image]) -> tuple[list[list[Part]], Tensor | None]:
        """Return the same tokens as `image_parts`, which are text tokens.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            One for each row.

        Returns
        -------
        parts : list of list of Part
            For each image.
        states : None
        """
        return self.image_parts(images)[0], None


class Emu3Expert(VocabularyExpert):
    """Emu3: one line of VQ tokens of the image after the other."""

    def image_parts(self, images: Sequence[Image.Image]) -> tuple[list[list[Part]], dict[str, Tensor]]:
        """Return the VQ tokens of images: start, rows * columns, then lines that each end with their own token.

        As `Emu3Processor` writes an image.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            One for each row.

        Returns
        -------
        parts : list of list of Part
            For each image.
        inputs : dict
            Empty.
        """
        start, wrapper = self.named_token("boi_token"), self.named_token("image_wrapper_token")
        end = [self.named_token("eof_token"), self.named_token("eoi_token")]
        parts: list[list[Part]] = []
        for image in images:  # one by one: padded to a common size, an image's tokens would depend on its neighbours
            given, model = self.pixels([image]), self.model.model
            with torch.no_grad():
                tokens = model.get_image_tokens(given["pixel_values"], given["image_sizes"])
            rows, columns = (int(side) // model.vqmodel.vision_spatial_factor for side in given["image_sizes"][0])
            size = self.tokenizer(f"{rows}*{columns}", add_special_tokens=False).input_ids
            parts.append([("image special", [start, *size, wrapper])])
            for line in tokens.view(rows, columns + 1).tolist():
                parts[-1] += [("image", line[:-1]), ("image special", line[-1:])]
            parts[-1].append(("image special", end))
        return parts, {}


class ChameleonExpert(VocabularyExpert):
    """Chameleon: all VQ tokens of an image between its start and end."""

    def image_parts(self, images: Sequence[Image.Image]) -> tuple[list[list[Part]], dict[str, Tensor]]:
        """Return the VQ tokens of images between start and end, as `ChameleonProcessor` writes an image.

        Parameters
        ----------
        images : sequence of PIL.Image.Image
            One for each row.

        Returns
        -------
        parts : list of list of Part
            For each image.
        inputs : dict
            Empty.
        """
        with torch.no_grad():
            tokens = self.model.model.get_image_tokens(self.pixels(images)["pixel_values"]).tolist()
        start, end = self.named_token("boi_token", "<racm3:break>"), self.named_token("eoi_token", "<eoss>")
        return [[("image special", [start]), ("image", row), ("image special", [end])] for row in tokens], {}


UNIFIED = {"janus": JanusExpert, "emu3": Emu3Expert, "chameleon": ChameleonExpert}


def is_unified(checkpoint: loading.Checkpoint) -> bool:
    """Return whether the config is of one of the families in `UNIFIED`.

    Parameters
    ----------
    checkpoint : Checkpoint
        What is to be opened.

    Returns
    -------
    bool
    """
    return checkpoint.config.model_type in UNIFIED


def open_unified(checkpoint: loading.Checkpoint, front: str | None = None) -> UnifiedExpert:
    """Open a native unified model.

    Parameters
    ----------
    checkpoint : Checkpoint
        What to open.
    front : str, optional
        The token in front of image and text; measured if left out.

    Returns
    -------
    UnifiedExpert

    Raises
    ------
    ValueError
        If the checkpoint cannot be read.
    """
    source, config = checkpoint.source, checkpoint.config
    model = loading.model(AutoModelForImageTextToText, checkpoint)
    tokenizer, processor = loading.tokenizer(source), loading.image_processor(source)
    expert = UNIFIED[config.model_type]
    opened = expert(checkpoint.label, model, tokenizer, processor, loading.language_stack(model))
    settle_front(opened, front)
    return opened
