"""Describe a model part by part, so that what has changed can be named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..private_names import (
    ACCELERATE_HOOK,
    ATTENTION,
    COMMIT,
    COMPILED,
    NAME_OR_PATH,
    SAVES_STATE,
    buffers_of,
    parameters_of,
    save_extra_state,
)
from .described_values import EMPTY, config_digest, describe, describe_class, digest, is_config, versioned
from .interventions import interventions_of
from .tensor_hash import hash_tensor

# Attributes that change no value: flags of training, places of files, plans of sharding, and what accelerate,
# torch.compile, peft and the last pass leave behind.
IGNORED = re.compile(
    r"training|gradient_checkpointing|_gradient_checkpointing_func|_require_grads_hooks?|warnings_issued|"
    r"(_?name_or_path|config|generation_config|peft_config|_peft_config|_internal_dict|_is_hf_initialized)|"
    r"_(tp|ep|pp|fsdp)_\w+|_device_mesh|hf_device_map|_hf_hook|_old_forward|_diffusers_hook|forward|to|cuda|xpu|npu|"
    r"_compiled_call_impl|_is_torch_compile|_output_capturing_hooks_installed|rope_deltas|_caches|ephemeral_gpu_offload"
)
ADAPTER = re.compile(
    r"_?active_adapters?|_?disable_adapters|_adapters_disabled|merged_adapters|scaling|r|lora_alpha|use_\w+"
)


def describe_parts(model: nn.Module) -> dict[str, Any]:
    """Describe one module, with everything inside it.

    Parameters
    ----------
    model : torch.nn.Module
        Any module.

    Returns
    -------
    dict
        Plain JSON. Its class, revision (Hub commit), hash of the config and kind of attention; hashes of all weights
        and buffers by part ("model.layers.3.mlp"), and of all plain attributes by class of modules; which adapters are
        on; hooks and replaced functions (`interventions.interventions_of`).
    """
    model = getattr(model, COMPILED, model)  # torch.compile's wrapper
    config = getattr(model, "config", None)
    parts = _Parts(model)
    return {
        "class": _class_name(model),
        "revision": _revision(config, model),
        "config": config_digest(config),
        "attention": getattr(config, ATTENTION, None),
        "weights": parts.weights,
        "settings": parts.settings,
        **({"adapters": parts.adapters} if parts.adapters else {}),
        **({"code": parts.code} if parts.code else {}),
        **({"interventions": found} if (found := interventions_of(model)) else {}),
    }


class _Parts:
    """Hash the parts of a model in one walk over its modules.

    Attributes
    ----------
    weights : dict of str
        By part of the model, of its weights, buffers and extra state.
    settings : dict of str
        By class, of the plain attributes of its modules.
    adapters : dict
        What peft's adapters are set to.
    code : dict of str
        By class that no version stands for, of its source.
    """

    def __init__(self, model: nn.Module) -> None:
        self._offloaded: list[tuple[str, Any]] = []
        weights: dict[str, list[Any]] = {}
        settings: dict[str, list[Any]] = {}
        adapters: dict[str, list[Any]] = {}
        code: dict[str, Any] = {}
        own = getattr(model, "config", None)
        for path, module in model.named_modules(remove_duplicate=False):
            path = path.replace(f"{COMPILED}.", "").removesuffix(COMPILED)
            self._note_offloading(path, module)
            for name, value in self._state(path, module):
                weights.setdefault(_part_of(f"{path}.{name}" if path else name), []).append([path, name, value])
            kind = _plain_class(module)
            adapted = any(base.__module__.startswith("peft.") for base in kind.__mro__)
            plain, tuned = {}, {}
            for name, value in module.__dict__.items():
                if name not in EMPTY and not IGNORED.fullmatch(name):
                    described = describe([value] if isinstance(value, str) and ADAPTER.fullmatch(name) else value)
                    (tuned if adapted and ADAPTER.fullmatch(name) else plain)[name] = described
            if (held := module.__dict__.get("config")) is not own and is_config(held):
                plain["config"] = config_digest(held)
            settings.setdefault(kind.__qualname__, []).append([path, kind.__module__, plain])
            for name, value in tuned.items():
                adapters.setdefault(name.strip("_"), []).append([path, value])
            if not versioned(kind.__module__) and kind.__qualname__ not in code:
                code[kind.__qualname__] = describe_class(kind)
        self.weights = {part: digest(found) for part, found in weights.items()}
        self.settings = {kind: digest(found) for kind, found in settings.items()}
        self.code = {kind: digest(found) for kind, found in code.items()}
        self.adapters = {name: _of_all(found) for name, found in adapters.items()}

    def _note_offloading(self, path: str, module: nn.Module) -> None:
        hook = module.__dict__.get(ACCELERATE_HOOK)
        for each in getattr(hook, "hooks", (hook,)):
            if (held := getattr(each, "weights_map", None)) is not None:
                self._offloaded.append((f"{path}." if path else "", held))

    def _state(self, path: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
        """Yield name and hash of each parameter, buffer and extra state of one module, without those inside it."""
        tensors = parameters_of(module) | buffers_of(module)
        for name, tensor in tensors.items():
            if tensor is not None:
                yield name, hash_tensor(self._held(f"{path}.{name}" if path else name, tensor))
        kind = type(module)
        if any(getattr(kind, n) is not getattr(nn.Module, n) for n in (SAVES_STATE, "get_extra_state")):
            saved: dict[str, Any] = {}
            save_extra_state(module, saved)
            for name, value in saved.items():
                if name not in tensors:
                    yield name, describe(value)

    def _held(self, path: str, tensor: Tensor) -> Tensor:
        """Return a tensor, of an offloaded one that which accelerate puts into its place."""
        if tensor.device.type == "meta":
            for prefix, held in reversed(self._offloaded):
                if path.startswith(prefix):
                    try:
                        return held[path.removeprefix(prefix)]
                    except KeyError:
                        continue
        return tensor


def _part_of(path: str) -> str:
    """Return the part of a model that a tensor belongs to: a block's child, or what stands that deep elsewhere."""
    names = path.split(".")[:-1]
    number = next((place for place, name in enumerate(names) if name.isdigit()), 1)
    return ".".join(names[: number + 2]) or path


def _of_all(found: list[Any]) -> Any:
    """Return the setting that all adapted layers share, or a hash of what each has."""
    first = found[0][1]
    return first if all(value == first for _, value in found) else digest(found)


def _plain_class(module: nn.Module) -> type:
    """Return the class of a module, below what FSDP makes of it."""
    return next(base for base in type(module).__mro__ if not base.__module__.startswith("torch.distributed.fsdp"))


def _class_name(model: nn.Module) -> str:
    kind = _plain_class(model)
    return f"{kind.__module__}.{kind.__qualname__}"


def _revision(config: Any, model: nn.Module) -> str | None:
    commit = getattr(config, COMMIT, None)
    path = str(getattr(config, NAME_OR_PATH, "") or getattr(model, NAME_OR_PATH, "") or "")
    found = re.search(r"snapshots[/\\]([0-9a-f]{40})", path)
    return commit or (found.group(1) if found else None)
