"""Open vision transformers and dual encoders as subjects."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import AutoModel

from ...probes.hooks.capturing import EMBEDDINGS, capture
from ...probes.notebook_views import SubjectView
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.input_changes import Rows
from ...probes.subjects.picture_grids import Grids, Place, find_grids
from ...probes.subjects.subject import ForwardPass
from .language import TextExpert
from .weight_files import loading


@dataclass
class VisionExpert(SubjectView):
    """A vision transformer; its image tokens are the patches, in reading order; class and register tokens are special.

    Which tokens are patches is not taken from names: they are the tokens that change at the entrance of the first block
    when every pixel does. Models that merge patches on the way (Swin, PVT) have no such tokens and are refused.

    Attributes
    ----------
    name : str
        What the expert is called.
    model : PreTrainedModel
        The model.
    processor : BaseImageProcessor
        The model's own.
    blocks : tuple of str
        Paths of the blocks in depth order.
    tasks, modalities, timed_tasks : tuple of str
        What can be probed, as every `Subject` says.
    patches : dict
        Masks (token,) of the patches, by the shape of the pixels: found when an image of this shape is first shown.
    """

    name: str
    model: Any
    processor: Any
    blocks: tuple[str, ...]
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("image",)
    timed_tasks: tuple[str, ...] = ()
    patches: dict[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False)
    _shapes: dict[tuple[int, ...], Grids] = field(default_factory=dict, repr=False)  # the grids, by shape of the pixels

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one pass over the stimuli's images.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            Whose images are shown.
        modalities, task, timestep
            Not used: there is one of each.

        Returns
        -------
        ForwardPass

        Raises
        ------
        ValueError
            If the model does not run on what its image processor makes, its blocks hold other tokens than the patches,
            or it gives the same image other states each time.
        """
        processed = self.processor([s.image for s in stimuli], return_tensors="pt")
        processed = processed.to(self.model.device, self.model.dtype)
        accepted = inspect.signature(self.model.forward).parameters
        inputs = {name: value for name, value in processed.items() if name in accepted}
        shape = tuple(inputs["pixel_values"].shape[1:])
        if shape not in self.patches:
            self.patches[shape] = self._find_patches({name: value[:1] for name, value in inputs.items()})
        patches = self.patches[shape].expand(len(stimuli), -1)
        mask, there = patches, processed.get("pixel_attention_mask")
        if there is not None and there.shape == mask.shape:  # SigLIP 2 pads images to one number of patches
            mask = mask & there.cpu().bool()
        return ForwardPass(
            lambda: self.model(**inputs),
            {"image": mask},
            special={"image": ~patches},
            grids={"image": lambda: self._grids(inputs, mask)},
        )

    def _grids(self, inputs: dict[str, Tensor], mask: Tensor) -> Grids:
        """Return the rows and columns of the patches, found once for each shape where no input says another size."""
        samples, shape = len(mask), tuple(inputs["pixel_values"].shape[1:])
        if len(shape) != 3:  # patches of pictures of any size, as SigLIP 2 takes them
            return self._find_grids(inputs, mask)
        if shape not in self._shapes:
            one = {name: value[:1] for name, value in inputs.items()}
            self._shapes[shape] = self._find_grids(one, mask[:1])
        return self._shapes[shape] * samples

    def _find_grids(self, inputs: dict[str, Tensor], mask: Tensor) -> Grids:
        rows = Rows(0, torch.ones(len(mask), dtype=torch.int64))
        return find_grids(Place(self.model, self.blocks[0], positions=mask), inputs, "pixel_values", rows)

    def _find_patches(self, one: dict[str, Tensor]) -> Tensor:
        """Return a mask (token,) of the tokens that change with the pixels, from one image."""
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
        """Return every block's state with each pixel shifted; raise a ValueError where the model does not run."""
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

    Attributes
    ----------
    name : str
        What the checkpoint is called.
    vision : VisionExpert
        The image tower.
    text : TextExpert
        The text tower.

    Examples
    --------
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


def is_vision(checkpoint: loading.Checkpoint) -> bool:
    """Return whether transformers builds the architecture around pixels.

    Parameters
    ----------
    checkpoint : Checkpoint
        What is to be opened.

    Returns
    -------
    bool
    """
    return checkpoint.main_input == "pixel_values"


def open_vision(checkpoint: loading.Checkpoint) -> VisionExpert:
    """Open a vision transformer.

    Parameters
    ----------
    checkpoint : Checkpoint
        What to open.

    Returns
    -------
    VisionExpert

    Raises
    ------
    ValueError
        If the checkpoint cannot be read.
    """
    model = loading.model(AutoModel, checkpoint)
    processor = loading.plain_image_processor(checkpoint.source)
    return VisionExpert(checkpoint.label, model, processor, loading.longest_stack(model))


def is_dual(checkpoint: loading.Checkpoint) -> bool:
    """Return whether the architecture has features of images and of texts apart, and generates nothing.

    Parameters
    ----------
    checkpoint : Checkpoint
        What is to be opened.

    Returns
    -------
    bool
    """
    both = all(hasattr(checkpoint.architecture, f"get_{what}_features") for what in ("image", "text"))
    return both and not any("Generation" in name for name in checkpoint.config.architectures or ())


def open_dual(checkpoint: loading.Checkpoint) -> DualExpert:
    """Open a dual encoder.

    Parameters
    ----------
    checkpoint : Checkpoint
        What to open.

    Returns
    -------
    DualExpert

    Raises
    ------
    ValueError
        If the checkpoint cannot be read, or its two towers cannot be found.
    """
    label, source, config = checkpoint.label, checkpoint.source, checkpoint.config
    model = loading.model(AutoModel, checkpoint)
    vision = getattr(model, "vision_model", getattr(model, "image_model", None))  # FLAVA has an image model
    text = getattr(model, "text_model", None)
    if vision is None or text is None:
        raise ValueError(
            f"expert {label!r} ({type(model).__name__}) has no vision_model and text_model: "
            "wrap its towers in your own Subjects (probes/subjects/subject.py)"
        )
    # SigLIP was trained on texts of one length, and sees its padding
    width = text.config.max_position_embeddings if config.model_type.startswith("siglip") else None
    processor, tokenizer = loading.plain_image_processor(source), loading.tokenizer(source)
    return DualExpert(
        label,
        VisionExpert(f"{label} vision", vision, processor, loading.longest_stack(vision)),
        TextExpert(f"{label} text", text, tokenizer, loading.longest_stack(text), width=width),
    )
