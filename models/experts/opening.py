"""Experts, opened by name: ours, the real ones out of registry packages, a local folder or Hub id of any family.

Every expert is a `Subject` (probes/subjects/subject.py): an ordinary transformers or diffusers model in `.model`, its block
paths in `.blocks`, and `show`, which turns stimuli into one forward pass. docs/families.md and docs/diffusion.md show
each family.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, overload

from transformers import MODEL_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from . import loading
from .diffusion.opening_pipelines import is_pipeline, open_pipeline
from .downloads import weights
from .language import TextExpert, open_text
from .native_unified import UNIFIED, open_unified
from .pixel_dit import DitExpert, open_dit
from .vision import VisionExpert, open_dual, open_vision
from .vision_language import LlavaExpert, VlmExpert, open_vlm

CHECKPOINTS = Path(__file__).parent / "checkpoints"
OWN = ("scenes-vlm", "scenes-dit", "emoji-dit")

Expert = TextExpert | VisionExpert | VlmExpert | DitExpert


@overload
def open_expert(name: Literal["scenes-vlm"], random_weights: bool = ..., seed: int = ...) -> LlavaExpert: ...
@overload
def open_expert(name: Literal["scenes-dit", "emoji-dit"], random_weights: bool = ..., seed: int = ...) -> DitExpert: ...
@overload
def open_expert(name: str | Path, random_weights: bool = ..., seed: int = ...) -> Any: ...
def open_expert(name: str | Path, random_weights: bool = False, seed: int = 0) -> Any:
    """Open an expert by name, folder or Hub id.

    Parameters
    ----------
    name : "scenes-vlm", "scenes-dit" or "emoji-dit" (ours, shipped); "smollm2-135m", "minilm-l6" or "dinov2-s" (fetched
        once by `make setup`); or a local folder or Hub id of any language model, text encoder, vision transformer, dual
        encoder (two subjects, `.vision` and `.text`), vision-language model or native unified model that transformers
        has, with its tokenizer and image processor (docs/families.md); or of a diffusers pipeline (docs/diffusion.md).
    random_weights : the expert's random-weight twin, drawn by `seed`: same architecture, nothing learnt.

    Raises ValueError for an unknown name or family, code that is not transformers' own and weights that are no
    safetensors; FileNotFoundError where files are missing.
    """
    folder = _folder(str(name))
    if is_pipeline(str(folder or name)):
        return open_pipeline(folder or name, random_weights, seed)
    config = _read_json(folder / "config.json") if folder else {}
    ours = bool(folder) and (folder / "transformer").is_dir()
    if folder and not config and not ours:
        raise FileNotFoundError(f"expert folder {folder} has neither a config.json nor a transformer/ folder")
    source, label = str(folder or name), Path(str(name)).name + (" (random weights)" if random_weights else "")
    if random_weights:
        from transformers import set_seed  # imports peft and the trainer, which nothing else here needs

        set_seed(seed)
    if ours:
        return open_dit(label, Path(source), random_weights)
    settings = loading.settings(source)
    return _opener(settings, label)(label, source, settings, random_weights)


def _opener(settings: Any, label: str) -> Callable[..., Any]:
    """Which family opens a config: by transformers' own tables, and by what the architecture takes in."""
    kind, named = settings.model_type, settings.architectures or ()
    if kind in UNIFIED:
        return open_unified
    base = MODEL_MAPPING.get(type(settings), None)
    base = base[0] if isinstance(base, tuple) else base
    dual = hasattr(base, "get_image_features") and hasattr(base, "get_text_features")
    if dual and not any("Generation" in each for each in named):
        return open_dual
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return open_vlm
    takes = getattr(base, "main_input_name", "input_ids" if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else None)
    if takes == "pixel_values":
        return open_vision
    if takes == "input_ids":
        return open_text
    raise ValueError(
        f"expert {label!r} is of the family {kind!r}, which takes {takes or 'nothing that is known here'}: expected "
        "images or texts. Wrap another model in your own Subject (probes/subjects/subject.py)"
    )


def _folder(name: str) -> Path | None:
    """The local folder behind a name, or None for a Hub id."""
    if name in OWN:
        if not (CHECKPOINTS / name).is_dir():
            raise FileNotFoundError(
                f"the shipped expert {name!r} is not in {CHECKPOINTS.name}/: install bridgework anew"
            )
        return CHECKPOINTS / name
    if name in weights.WEIGHTS:
        return weights.verify(name)
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return None
    known = ", ".join((*OWN, *weights.WEIGHTS))
    raise ValueError(f"unknown expert {name!r}: expected one of {known}, a local folder, or a Hub id 'owner/name'")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path} is not valid JSON: copy the expert's folder again") from None
