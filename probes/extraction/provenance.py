"""Describe how features were made, in plain JSON: the model and its weights, the stimuli, the versions."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from ..stimuli.stimulus_set import Stimuli
from ..subjects.subject import Subject, modules_of
from .preprocessing_hash import preprocessing_of

PACKAGES = ("bridgework", "torch", "transformers", "diffusers")
VALUES = 4096  # values of every parameter and buffer in a fingerprint, evenly spaced
PLAIN = (str, int, float, bool)


def made_of(subject: Subject, stimuli: Stimuli, options: dict[str, Any]) -> dict[str, Any]:
    """Describe all that must be equal for two sets of features to be the same.

    A subject is described by every module that it holds (a text encoder beside the model), its plain attributes, and
    what it makes inputs with: processors, tokenizers, schedulers, functions (probes/extraction/preprocessing_hash.py).

    Parameters
    ----------
    subject : Subject
        The subject.
    stimuli : Stimuli
        The stimuli.
    options : dict
        The options of the extraction, as plain JSON.

    Returns
    -------
    dict
        Subject, stimuli, options and versions, as plain JSON.
    """
    modules = modules_of(subject)
    return {
        "subject": {
            "name": subject.name,
            "models": {name: describe_model(module) for name, module in modules.items()},
            "settings": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in sorted(getattr(subject, "__dict__", {}).items())
                if not name.startswith("_") and (isinstance(value, PLAIN) or _plain_tuple(value))
            },
            "preprocessing": preprocessing_of(subject),
        },
        "stimuli": stimuli.name,
        "stimuli_digest": stimuli.digest,
        **options,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Describe one module.

    Parameters
    ----------
    model : torch.nn.Module
        Any module.

    Returns
    -------
    dict
        Its class, revision (Hub commit), hash of the config, kind of attention and fingerprint of the weights.
    """
    config = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config) if isinstance(config, dict) else {}
    settings = {k: v for k, v in settings.items() if not k.startswith("_") and k != "transformers_version"}
    text = json.dumps(settings, sort_keys=True, default=str)
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "revision": _revision(config, model),
        "config": hashlib.sha256(text.encode()).hexdigest()[:16] if settings else None,
        "attention": getattr(config, "_attn_implementation", None),
        "weights": fingerprint(model),
    }


def fingerprint(model: nn.Module) -> str:
    """Hash the weights of a model.

    The hash is taken over name, shape, dtype and some thousands of evenly spaced values of each parameter and buffer.
    Weights that accelerate has offloaded are loaded for it, module by module. Buffers that are not saved with the model
    are left out: some models change them while they run.

    Parameters
    ----------
    model : torch.nn.Module
        Any module.

    Returns
    -------
    str
        A sha256 (hex).
    """
    digest = hashlib.sha256()
    saved = model.state_dict().keys()
    for path, module in model.named_modules(remove_duplicate=False):
        own = {
            name: f"{path}.{name}" if path else name
            for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        }
        own = {name: full for name, full in own.items() if full in saved}
        if not own:
            continue
        with align_module_device(module):  # does nothing unless the weights are offloaded
            for name, full in own.items():
                tensor = getattr(module, name)
                digest.update(f"{full} {tuple(tensor.shape)} {tensor.dtype}".encode() + _some(tensor))
    return digest.hexdigest()


def _some(tensor: Tensor) -> bytes:
    """Return the bytes of at most `VALUES` evenly spaced values."""
    if tensor.device.type == "meta" or not tensor.numel():
        return b""
    flat = tensor.detach().reshape(-1)
    count = min(VALUES, len(flat))
    places = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(1, count - 1)
    return flat[places].contiguous().view(torch.uint8).cpu().numpy().tobytes()


def _revision(config: Any, model: nn.Module) -> str | None:
    commit = getattr(config, "_commit_hash", None)
    path = str(getattr(config, "_name_or_path", "") or getattr(model, "_name_or_path", "") or "")
    found = re.search(r"snapshots[/\\]([0-9a-f]{40})", path)
    return commit or (found.group(1) if found else None)


def _plain_tuple(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(item, PLAIN) for item in value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
