"""Read checkpoints by transformers' own loaders: safetensors alone, no foreign code, one sentence where it fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ....probes.hooks.block_stacks import find_stacks
from ....probes.private_names import build_from_config
from .weight_placement import WeightPlacement

REPACKS = "support_avx512bf16_for_cpu"  # the attribute by which bitsandbytes does so
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

# What transformers loads lazily is imported where it is used: its image processors and tokenizers take longer to import
# than torch, and who imports this module may open neither.

# Where the Hub has pickles alone, transformers would have a service unpickle them and open a pull request there.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@dataclass(frozen=True)
class Checkpoint:
    """Hold what is known of a checkpoint before it is opened: what the families are recognised by.

    Attributes
    ----------
    source : str
        A local folder or a Hub id.
    label : str
        The name of the expert.
    random_weights : bool
        Whether the weights are drawn at random instead of read.
    seed : int
        Of the random weights.
    placement : WeightPlacement
        The format of the weights and where they lie.
    """

    source: str
    label: str
    random_weights: bool = False
    seed: int = 0
    placement: WeightPlacement = field(default_factory=WeightPlacement)

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a Hub id."""
        return Path(self.source) if Path(self.source).is_dir() else None

    @cached_property
    def config_file(self) -> dict[str, Any]:
        """What config.json of the local folder says, or nothing where there is none."""
        path = Path(self.source) / "config.json"
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text())
        except ValueError:
            raise ValueError(f"{path} is not valid JSON: copy the expert's folder again") from None

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The config as transformers reads it."""
        return settings(self.source)

    @cached_property
    def architecture(self) -> Any:
        """The class of the bare model that transformers has for the config, or None."""
        found = MODEL_MAPPING.get(type(self.config), None)
        return found[0] if isinstance(found, tuple) else found

    @property
    def main_input(self) -> str | None:
        """The name of the input that the bare model is built around, such as "input_ids" or "pixel_values"."""
        causal = self.config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        return getattr(self.architecture, "main_input_name", "input_ids" if causal else None)


def settings(source: str) -> PreTrainedConfig:
    """Read the config of a folder or Hub id.

    Parameters
    ----------
    source : str
        A local folder or a Hub id.

    Returns
    -------
    PreTrainedConfig

    Raises
    ------
    ValueError
        If it cannot be read, or its architecture is code that comes with the checkpoint instead of transformers' own.
    """
    raw, _ = load("config", PreTrainedConfig.get_config_dict, source)
    kind, named = raw.get("model_type"), raw.get("architectures") or []
    foreign = kind not in CONFIG_MAPPING_NAMES or any(not hasattr(transformers, name) for name in named)
    if "auto_map" in raw and foreign:
        raise ValueError(_remote_code(source))
    return load("config", AutoConfig.from_pretrained, source, trust_remote_code=False)


def model(auto: Any, checkpoint: Checkpoint) -> Any:
    """Open a model, ready to run.

    Parameters
    ----------
    auto : type
        An auto class of transformers, such as `AutoModel`.
    checkpoint : Checkpoint
        What is opened, and how.

    Returns
    -------
    PreTrainedModel
        In evaluation mode.

    Raises
    ------
    ValueError
        As `weights` does.
    """
    config, placement = checkpoint.config, checkpoint.placement
    if checkpoint.random_weights:
        return build_from_config(auto, config).to(placement.dtype).eval()
    options = placement.options(config)
    opened = weights(auto, checkpoint.source, config=config, trust_remote_code=False, **options).eval()
    # On some CPUs bitsandbytes repacks 4-bit weights in the first pass, beside a note of it that is no part of the
    # weights: a model that forgets its passes would have the new weights and the old note.
    for module in opened.modules():
        if hasattr(module, REPACKS):
            setattr(module, REPACKS, False)
    return opened


def weights(auto: Any, source: str, **options: Any) -> Any:
    """Open a model with its weights, all of them, from safetensors files.

    Parameters
    ----------
    auto : type
        A class with `from_pretrained`.
    source : str
        A local folder or a Hub id.
    **options : Any
        Passed on to `from_pretrained`.

    Returns
    -------
    Any
        The model.

    Raises
    ------
    ValueError
        If the weights are pickles, which are never unpickled; if tensors are missing, or are of blocks that the config
        does not have; if nothing can be read.
    """
    folder = Path(source, options.get("subfolder", ""))
    pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)] if folder.is_dir() else []
    if pickles and not any(folder.glob("*.safetensors*")):
        raise ValueError(_pickled(source, min(pickles)))
    read, report = load(
        "weights", auto.from_pretrained, source, output_loading_info=True, use_safetensors=True, **options
    )
    lost = sorted(key for key in report["missing_keys"] if "pooler" not in key)  # heads of other tasks, above the stack
    if lost:
        raise ValueError(f"the weights of expert {source!r} lack {lost[0]!r} and {len(lost) - 1} more: copy it again")
    if left := _blocks_left_over(read, report["unexpected_keys"]):
        raise ValueError(
            f"the weights of expert {source!r} hold more blocks than its config.json says (such as {left[0]!r}): put "
            "back the config that was saved with them"
        )
    return read


def _blocks_left_over(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return which tensors that were not read belong to deeper blocks of the model's own stacks."""
    stacks = {blocks[0].rpartition(".")[0]: len(blocks) for blocks in find_stacks(model).values()}
    prefix = str(getattr(model, "base_model_prefix", "") or "model")
    found = []
    for name in names:
        for stack, blocks in stacks.items():
            for start in (f"{stack}.", f"{prefix}.{stack}.", stack.removeprefix(f"{prefix}.") + "."):
                number = name.removeprefix(start).split(".")[0]
                if name.startswith(start) and number.isdecimal() and int(number) >= blocks:
                    found.append(name)
    return sorted(set(found))


def tokenizer(source: str) -> Any:
    """Open a tokenizer that has a token to pad and one to begin with.

    Parameters
    ----------
    source : str
        A local folder or a Hub id.

    Returns
    -------
    PreTrainedTokenizerBase
        Where it lacks one of the two (Qwen's have none to begin with, GPT-2's none to pad), its end or class token
        takes the place.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    from transformers import AutoTokenizer

    read = load("tokenizer", AutoTokenizer.from_pretrained, source, trust_remote_code=False)
    for token in ("pad_token", "bos_token"):
        if getattr(read, token) is None:
            setattr(read, token, read.eos_token if read.eos_token is not None else read.cls_token)
    return read


def image_processor(source: str) -> Any:
    """Open an image processor in its PIL form, so that pixels do not depend on whether torchvision is installed.

    Parameters
    ----------
    source : str
        A local folder or a Hub id.

    Returns
    -------
    BaseImageProcessor

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    from transformers import AutoImageProcessor

    return load("image processor", AutoImageProcessor.from_pretrained, source, backend="pil", trust_remote_code=False)


def plain_image_processor(source: str) -> Any:
    """Open the image processor of a vision transformer.

    Parameters
    ----------
    source : str
        A local folder or a Hub id.

    Returns
    -------
    BaseImageProcessor

    Raises
    ------
    ValueError
        If it cannot be read.

    Notes
    -----
    Some (DINOv3) exist for torchvision alone. Without it, ViT's processor does the steps that their file names (resize,
    rescale, normalise); its pixels differ by rounding.
    """
    from transformers import AutoImageProcessor, ViTImageProcessorPil

    def either(source: str) -> Any:
        try:
            return AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        except ImportError:
            return ViTImageProcessorPil.from_pretrained(source)

    return load("image processor", either, source)


def longest_stack(module: nn.Module) -> tuple[str, ...]:
    """Return the paths of the blocks of a module's longest stack.

    Parameters
    ----------
    module : torch.nn.Module
        A model with at least one stack of blocks.

    Returns
    -------
    tuple of str
        In depth order.
    """
    return tuple(max(find_stacks(module).values(), key=len))


def language_stack(model: Any) -> tuple[str, ...]:
    """Return the paths of the blocks of a model's language model, whatever towers for images or sounds stand beside it.

    Parameters
    ----------
    model : PreTrainedModel
        With `get_decoder`.

    Returns
    -------
    tuple of str
        In depth order.
    """
    decoder = model.get_decoder()
    if not any(decoder.children()):  # ModernBERT's decoder calls its head so
        decoder = model.base_model
    prefix = next(path for path, module in model.named_modules() if module is decoder)
    return tuple(f"{prefix}.{path}" if prefix else path for path in longest_stack(decoder))


def load(what: str, loader: Callable[..., Any], source: str, **options: Any) -> Any:
    """Call a library's loader, and turn whatever it raises into one ValueError with one sentence.

    Parameters
    ----------
    what : str
        What is loaded, for the message.
    loader : callable
        Called as `loader(source, **options)`.
    source : str
        A local folder or a Hub id.
    **options : Any
        Of the loader.

    Returns
    -------
    Any
        What the loader returns.

    Raises
    ------
    ValueError
        Naming the expert, what is wrong and what was expected.
    """
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
        "safetensors; where you trust them, open the model yourself and save it again with save_pretrained"
    )
