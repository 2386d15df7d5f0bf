"""Find out whether, and from what, a vision-language model makes image tokens for its language model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_MAPPING


def why_no_image_tokens(config: Any) -> str | None:
    """Return why an architecture has no image tokens among the tokens of a language model, or None where it may.

    Parameters
    ----------
    config : PreTrainedConfig
        The architecture's.

    Returns
    -------
    str or None
        The second half of a sentence.
    """
    architectures = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)], MODEL_MAPPING.get(type(config), None)
    text = config.get_text_config()
    if blocks := getattr(text, "cross_attention_layers", None):
        return f"its blocks {', '.join(map(str, blocks))} read the image by cross-attention"
    if text.is_encoder_decoder:
        return "it is an encoder with a decoder"
    if not any(hasattr(architecture, "get_image_features") for architecture in architectures):
        return "its images enter otherwise, such as by cross-attention"
    return None if getattr(config, "image_token_id", None) is not None else "its config names no image token"


def image_features(model: Any) -> Callable[..., Any]:
    """Return the method by which a model makes image tokens.

    Parameters
    ----------
    model : PreTrainedModel
        The model.

    Returns
    -------
    callable
    """
    return model.get_image_features if hasattr(model, "get_image_features") else model.model.get_image_features


def check_image_inputs(name: str, model: Any, processor: Any, inputs: Mapping[str, Any]) -> None:
    """Raise a ValueError where an image processor makes less than a model makes its image tokens from.

    Parameters
    ----------
    name : str
        What the expert is called.
    model : PreTrainedModel
        The model.
    processor : BaseImageProcessor
        The image processor.
    inputs : mapping
        What it made of an image.

    Raises
    ------
    ValueError
        Naming the input, with the true reason: a processor of another family, or a family whose image tokens are made
        from words as well.
    """
    call = image_features(model)
    asked = [n for n in inspect.signature(call).parameters if needs(call, n) and n not in inputs]
    if not asked:
        return
    from transformers import IMAGE_PROCESSOR_MAPPING  # loads slowly, and few families come here

    own = IMAGE_PROCESSOR_MAPPING.get(type(model.config), None) or ()
    own = own.values() if isinstance(own, Mapping) else own
    if type(processor) in own:
        raise ValueError(
            f"the image tokens of {name} are made from {asked[0]!r}, which its processor makes of image and words "
            "together: probe it as AnyModel(model, inputs), where inputs calls that processor"
        )
    raise ValueError(
        f"the image processor of {name} makes no {asked[0]!r}, which its model asks for: expected the family's own "
        "image processor"
    )


def needs(call: Callable[..., Any], name: str) -> bool:
    """Return whether a callable has this parameter without a default.

    Parameters
    ----------
    call : callable
        The callable.
    name : str
        The parameter.

    Returns
    -------
    bool
    """
    parameter = inspect.signature(call).parameters.get(name)
    return (
        parameter is not None and parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    )
