"""Open vision-language models as subjects: any that transformers opens as image and text to text."""

from __future__ import annotations

from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from .front_tokens import settle_front
from .image_tokens import check_image_inputs, why_no_image_tokens
from .vision_language import LlavaExpert, VlmExpert
from .weight_files import loading


def is_vlm(checkpoint: loading.Checkpoint) -> bool:
    """Return whether transformers opens the architecture as image and text to text.

    Parameters
    ----------
    checkpoint : Checkpoint
        What is to be opened.

    Returns
    -------
    bool
    """
    return checkpoint.config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def open_vlm(checkpoint: loading.Checkpoint, front: str | None = None) -> VlmExpert:
    """Open a vision-language model whose image tokens stand among the text's.

    Parameters
    ----------
    checkpoint : Checkpoint
        What to open.
    front : str, optional
        The token in front of image and text; measured if left out.

    Returns
    -------
    VlmExpert

    Raises
    ------
    ValueError
        If the checkpoint cannot be read, or the model has no image tokens, such as those that read the image by
        cross-attention (Mllama, BLIP).
    """
    label, source, config = checkpoint.label, checkpoint.source, checkpoint.config
    if (why := why_no_image_tokens(config)) is not None:
        raise ValueError(
            f"expert {label!r} ({config.model_type}) has no image tokens among the tokens of a language model: {why}. "
            "Probe it as AnyModel(model, inputs, stack=...), one stack at a time, or wrap it in your own Subject "
            "(probes/subjects/subject.py)"
        )
    model = loading.model(AutoModelForImageTextToText, checkpoint)
    expert = LlavaExpert if config.model_type == "llava" else VlmExpert
    tokenizer, processor = loading.tokenizer(source), loading.image_processor(source)
    opened = expert(label, model, tokenizer, processor, loading.language_stack(model))
    check_image_inputs(label, model, processor, opened.pixels([Image.new("RGB", (64, 64))]))
    settle_front(opened, front)
    return opened
