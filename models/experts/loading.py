"""Checkpoints read by transformers' own loaders: safetensors alone, nobody's code, and one sentence where it fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ...probes.hooks.block_stacks import find_stacks

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

# What transformers loads lazily is imported where it is used: its image processors and tokenizers take longer to import
# than torch, and who imports this module may open neither.

# Where the Hub has pickles alone, transformers would have a service unpickle them and open a pull request there.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def settings(source: str) -> PreTrainedConfig:
    """The config of a folder or Hub id.

    Raises ValueError where it cannot be read, or where its architecture is code of its own instead of transformers'.
    """
    raw, _ = load("config", PreTrainedConfig.get_config_dict, source)
    kind, named = raw.get("model_type"), raw.get("architectures") or []
    foreign = kind not in CONFIG_MAPPING_NAMES or any(not hasattr(transformers, each) for each in named)
    if "auto_map" in raw and foreign:
        raise ValueError(_remote_code(source))
    return load("config", AutoConfig.from_pretrained, source, trust_remote_code=False)


def model(auto: Any, source: str, config: Any, random_weights: bool) -> Any:
    """The model in float32, ready to run: its weights, or weights drawn at random."""
    if random_weights:
        drawn = auto._from_config(config) if hasattr(auto, "_from_config") else auto.from_config(config)
        return drawn.float().eval()
    return weights(auto, source, config=config, dtype=torch.float32, trust_remote_code=False).eval()


def weights(auto: Any, source: str, **options: Any) -> Any:
    """A model with its weights, all of them, out of safetensors.

    Raises ValueError for pickles, which are never unpickled, and for tensors that are missing.
    """
    folder = Path(source, options.get("subfolder", ""))
    pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)] if folder.is_dir() else []
    if pickles and not any(folder.glob("*.safetensors*")):
        raise ValueError(_pickled(source, min(pickles)))
    read, told = load(
        "weights", auto.from_pretrained, source, output_loading_info=True, use_safetensors=True, **options
    )
    lost = sorted(key for key in told["missing_keys"] if "pooler" not in key)  # heads of other tasks, above the stack
    if lost:
        raise ValueError(f"the weights of expert {source!r} lack {lost[0]!r} and {len(lost) - 1} more: copy it again")
    return read


def tokenizer(source: str) -> Any:
    """The tokenizer, with a token to pad and one to begin with: Qwen's have none to begin with, GPT-2's none to pad."""
    from transformers import AutoTokenizer

    read = load("tokenizer", AutoTokenizer.from_pretrained, source, trust_remote_code=False)
    for token in ("pad_token", "bos_token"):
        if getattr(read, token) is None:
            setattr(read, token, read.eos_token if read.eos_token is not None else read.cls_token)
    return read


def image_processor(source: str) -> Any:
    """The image processor in its PIL form, so that pixels do not depend on whether torchvision is installed."""
    from transformers import AutoImageProcessor

    return load("image processor", AutoImageProcessor.from_pretrained, source, backend="pil", trust_remote_code=False)


def plain_image_processor(source: str) -> Any:
    """The image processor of a vision transformer.

    Some (DINOv3) exist for torchvision alone; without it, the steps that their file names (resize, rescale, normalise)
    are done by ViT's, whose pixels differ by rounding.
    """
    from transformers import AutoImageProcessor, ViTImageProcessorPil

    def either(source: str) -> Any:
        try:
            return AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        except ImportError:
            return ViTImageProcessorPil.from_pretrained(source)

    return load("image processor", either, source)


def longest_stack(module: nn.Module) -> tuple[str, ...]:
    """Paths of the blocks of a module's longest stack."""
    return tuple(max(find_stacks(module).values(), key=len))


def language_stack(model: Any) -> tuple[str, ...]:
    """Paths of the blocks of a model's language model, whatever towers for images or sounds stand beside it."""
    decoder = model.get_decoder()
    prefix = next(path for path, module in model.named_modules() if module is decoder)
    return tuple(f"{prefix}.{path}" if prefix else path for path in longest_stack(decoder))


def load(what: str, loader: Callable[..., Any], source: str, **options: Any) -> Any:
    """What a library's loader gives, or one ValueError that names the expert, what is wrong and what was expected."""
    try:
        return loader(source, **options)
    except Exception as error:  # transformers, diffusers, safetensors and the Hub client each raise their own
        text = str(error).strip()
        if "trust_remote_code" in text:
            raise ValueError(_remote_code(source)) from None
        if "use_safetensors" in text:
            raise ValueError(_pickled(source, "no model.safetensors")) from None
        reason = text.splitlines()[0] if text else type(error).__name__
        raise ValueError(
            f"the {what} of expert {source!r} cannot be read: {reason}. "
            "Expected a whole folder as saved by save_pretrained, or a Hub id that can be reached"
        ) from None


def _remote_code(source: str) -> str:
    return (
        f"expert {source!r} brings its own code (auto_map), which is never run here: read it, open the model yourself "
        "with trust_remote_code=True if you consent, and wrap it in a Subject (probes/subjects/subject.py)"
    )


def _pickled(source: str, file: str) -> str:
    return (
        f"the weights of expert {source!r} are pickles alone ({file}) and nothing is unpickled here: expected "
        "safetensors; where you trust them, open the model yourself and write it anew with save_pretrained"
    )
