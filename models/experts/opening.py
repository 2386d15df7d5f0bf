"""Open experts by name: ours, the real ones from registry packages, a local folder or Hub id of any family.

Every expert is a `Subject` (probes/subjects/subject.py): an ordinary transformers or diffusers model in `.model`, its
block paths in `.blocks`, and `show`, which turns stimuli into one forward pass. docs/families.md and docs/diffusion.md
show each family.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch

from ...probes.arguments import SEEDS, checked
from .diffusion.opening_pipelines import is_pipeline, open_pipeline
from .downloads import weights
from .downloads.expert_sources import CHECKPOINTS, OWN, source_of
from .language import in_chat, is_text, open_text
from .native_unified import is_unified, open_unified
from .opening_vision_language import is_vlm, open_vlm
from .pixel_dit import DitExpert, is_dit, open_dit
from .vision import is_dual, is_vision, open_dual, open_vision
from .vision_language import LlavaExpert
from .weight_files.loading import Checkpoint
from .weight_files.loading_messages import quiet_loading
from .weight_files.weight_placement import WeightPlacement


def _open_pipeline(checkpoint: Checkpoint) -> Any:
    remedy = "open the pipeline by diffusers and pass it to pipeline_expert(pipe, name)"
    checkpoint.placement.refuse(checkpoint.label, remedy, "device_map", "quantization")
    return open_pipeline(
        checkpoint.source, checkpoint.random_weights, checkpoint.seed, dtype=checkpoint.placement.dtype
    )


class Family(NamedTuple):
    """Hold how experts of one family are recognised and opened.

    Attributes
    ----------
    sentence : str
        What belongs to it, for the documentation.
    recognises : callable
        Takes a `Checkpoint`, returns whether it is of this family.
    opens : callable
        Takes a `Checkpoint`, returns the expert. Where the family has `front`, it takes that as well.
    front : bool
        Whether a token that can be chosen stands in front of texts.
    """

    sentence: str
    recognises: Callable[[Checkpoint], bool]
    opens: Callable[..., Any]
    front: bool = False


# Asked in this order: the first that recognises a checkpoint opens it.
FAMILIES = (
    Family(
        "a diffusers pipeline (docs/diffusion.md)",
        lambda checkpoint: is_pipeline(checkpoint.source),
        _open_pipeline,
    ),
    Family("a pixel MMDiT, as scenes-dit is", is_dit, open_dit),
    Family("a native unified model (Janus, Emu3, Chameleon)", is_unified, open_unified, front=True),
    Family("a dual encoder (CLIP, SigLIP): two subjects, `.vision` and `.text`", is_dual, open_dual),
    Family("a vision-language model with image tokens", is_vlm, open_vlm, front=True),
    Family("a vision transformer", is_vision, open_vision),
    Family("a language model or text encoder", is_text, open_text, front=True),
)


@overload
def open_expert(
    name: Literal["scenes-vlm", "scenes-reader"], random_weights: bool = ..., seed: int = ..., front: str | None = ...
) -> LlavaExpert: ...
@overload
def open_expert(
    name: Literal["scenes-dit", "scenes-dit-wide", "emoji-dit"], random_weights: bool = ..., seed: int = ...
) -> DitExpert: ...
@overload
def open_expert(
    name: str | Path,
    random_weights: bool = ...,
    seed: int = ...,
    front: str | None = ...,
    chat: bool = ...,
    *,
    dtype: str | torch.dtype | None = ...,
    device_map: Any = ...,
    quantization: Any = ...,
) -> Any: ...
def open_expert(
    name: str | Path,
    random_weights: bool = False,
    seed: int = 0,
    front: str | None = None,
    chat: bool = False,
    *,
    dtype: str | torch.dtype | None = None,
    device_map: Any = None,
    quantization: Any = None,
) -> Any:
    """Open an expert by name, folder or Hub id.

    Parameters
    ----------
    name : str or Path
        "scenes-vlm", "scenes-reader", "scenes-dit", "scenes-dit-wide" or "emoji-dit" (ours, shipped); "smollm2-135m",
        "minilm-l6" or "dinov2-s" (fetched once by `make setup`); or a local folder or Hub id, with tokenizer and image
        processor, of a family below.
    random_weights : bool
        Open the expert's random-weight twin: the same architecture, nothing learnt.
    seed : int
        Of the random weights.
    front : str, optional
        The token that stands in front of what a language model reads, "" for none. Left out, it is the first behind
        which no word is an attention sink, measured on a few fixed captions (models/experts/front_tokens.py); stores
        record it. Random weights have no sinks, so a twin keeps the begin token: give both the same where that matters.
    chat : bool
        Show a language model each text as a user's message in its tokenizer's chat template. Text tokens are the text's
        own all the same. Without it texts are shown as they are.
    dtype : str or torch.dtype, optional
        The format of the weights: "fp32", "bf16", "fp16", or "auto" for that of the checkpoint. By default float32, or
        with quantization "auto". The format of kept features is an option of `extract`.
    device_map : str or dict, optional
        Where the weights lie, as transformers takes it, such as "auto" over all GPUs. By default they are on the CPU,
        and `extract` moves them.
    quantization : str or quantisation config, optional
        A name that transformers has, such as "bitsandbytes_4bit", "bitsandbytes_8bit", "quanto" or "torchao" (both 8
        bits, weights alone), for which its package must be installed; or a config of it. A checkpoint that was saved
        quantised needs none.

    Returns
    -------
    Subject
        Of the family's own class.

    Raises
    ------
    ValueError
        If name or family is unknown, the code is not transformers' own, the weights are no safetensors, there is no
        text that `front` could stand before, or the family cannot be read in that format or onto those devices.
    FileNotFoundError
        If a folder or files are missing, or a Hub id is neither in the cache nor can be asked for.
    TypeError
        If an argument is of another type.

    See Also
    --------
    bridgework.probes.AnyModel : Takes a model that is open already, or of a family that is not listed here.
    open_model : Opens the folder of a trained model.

    Notes
    -----
    The families (`FAMILIES`), in the order in which they are tried:

    - a diffusers pipeline (docs/diffusion.md)
    - a pixel MMDiT, as scenes-dit is
    - a native unified model (Janus, Emu3, Chameleon)
    - a dual encoder (CLIP, SigLIP): two subjects, `.vision` and `.text`
    - a vision-language model with image tokens
    - a vision transformer
    - a language model or text encoder

    All but the first two are those that transformers has (docs/families.md).

    Examples
    --------
    >>> vlm, dit = open_expert("scenes-vlm"), open_expert("scenes-dit")
    >>> twin = open_expert("scenes-dit", random_weights=True)
    """
    source = source_of(name, CHECKPOINTS)
    random_weights = checked("random_weights", random_weights, bool)
    seed = checked("seed", seed, int, **SEEDS)
    front = checked("front", front, str | None)
    chat = checked("chat", chat, bool)
    label = Path(str(name)).name + (" (random weights)" if random_weights else "")
    placement = WeightPlacement.of(label, dtype, device_map, quantization, random_weights)
    checkpoint = Checkpoint(source, label, random_weights, seed, placement)
    if random_weights:
        from transformers import set_seed  # imports peft and the trainer, which nothing else here needs

        set_seed(seed)
    family = next((family for family in FAMILIES if family.recognises(checkpoint)), None)
    if family is None:
        kind, takes = checkpoint.config.model_type, checkpoint.main_input or "nothing that is known here"
        raise ValueError(
            f"expert {label!r} is of the family {kind!r}, which takes {takes}: expected images or texts. Wrap another "
            "model in your own Subject (probes/subjects/subject.py)"
        )
    if front is not None and not family.front:
        raise ValueError(
            f"front is {front!r}, but expert {label!r} is {family.sentence}, with no language model to put it "
            "before: leave front out"
        )
    if chat and family.opens is not open_text:
        raise ValueError(
            f"chat is asked for, but expert {label!r} is {family.sentence}: leave chat out, or show its chat "
            "by AnyModel(model, inputs), which leaves the template's words out"
        )
    with quiet_loading():
        expert = family.opens(checkpoint, front) if family.front else family.opens(checkpoint)
    if not random_weights and hasattr(expert, "show") and str(name) not in (*OWN, *weights.WEIGHTS):
        expert._opened_from = str(Path(name).resolve()) if Path(name).is_dir() else str(name)
    return in_chat(expert) if chat else expert
