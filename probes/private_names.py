"""Hold every private name of a library that the project uses; no other module uses one.

A private name begins with an underscore, and its library may drop it in any release. tests/probes/test_private_names.py
finds any use outside this module, and says which version of which library lacks a name; `bridgework doctor` says it
too. What stands in `OBJECTS` is imported from here as if it were defined here, and is looked up at its first import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.version import Version

# Objects: the module or class that has each of them. The library is the first part of its path.
OBJECTS = {
    # Trees of tensors, such as a model's arguments
    "tree_flatten": "torch.utils._pytree",
    "tree_iter": "torch.utils._pytree",
    "tree_map": "torch.utils._pytree",
    "tree_map_only": "torch.utils._pytree",
    "tree_unflatten": "torch.utils._pytree",
    # Modes of a thread, which two models in lockstep must not share
    "_InferenceMode": "torch._C",
    "_is_fwd_grad_enabled": "torch._C",
    "_len_torch_dispatch_stack": "torch._C",
    "_len_torch_function_stack": "torch._C",
    "_pop_torch_function_stack": "torch._C",
    "_push_on_torch_function_stack": "torch._C",
    "_set_fwd_grad_enabled": "torch._C",
    "_pop_saved_tensors_default_hooks": "torch._C._autograd",
    "_push_saved_tensors_default_hooks": "torch._C._autograd",
    "_top_saved_tensors_default_hooks": "torch._C._autograd",
    "TorchDispatchMode": "torch.utils._python_dispatch",
    "_pop_mode": "torch.utils._python_dispatch",
    "_push_mode": "torch.utils._python_dispatch",
    # Gradient checkpointing
    "_current_graph_task_id": "torch._C",
    "_checkpoint_without_reentrant_generator": "torch.utils.checkpoint",
    # Costs of a step, without data and on a CPU
    "DataDependentOutputException": "torch._subclasses.fake_tensor",
    "DynamicOutputShapeException": "torch._subclasses.fake_tensor",
    "FakeTensorMode": "torch._subclasses.fake_tensor",
    "UnsupportedFakeTensorException": "torch._subclasses.fake_tensor",
    "_scaled_dot_product_flash_attention_for_cpu": "torch.ops.aten",
    "_scaled_dot_product_flash_attention_for_cpu_backward": "torch.ops.aten",
    # Modules and processes
    "_BatchNorm": "torch.nn.modules.batchnorm",
    "_ConvNd": "torch.nn.modules.conv",
    "_get_default_store": "torch.distributed.distributed_c10d",
    "_global_forward_hooks": "torch.nn.modules.module",
    "_global_forward_pre_hooks": "torch.nn.modules.module",
}

# Attributes of modules of torch
COMPILED = "_orig_mod"  # what torch.compile has wrapped
COMPILED_CALL = "_compiled_call_impl"  # what `module.compile()` has made of the module's call
FORWARD_PRE_HOOKS, FORWARD_HOOKS = "_forward_pre_hooks", "_forward_hooks"
HOOKS = (FORWARD_HOOKS, FORWARD_PRE_HOOKS, "_backward_hooks", "_backward_pre_hooks")
SAVES_STATE = "_save_to_state_dict"
KEPT_BY_TORCH = {"_parameters", "_modules", "_buffers", "_non_persistent_buffers_set", "_is_full_backward_hook"}

# Flags of torch.utils._python_dispatch, which not every version has
DISPATCH_FLAGS = ("_is_in_torch_dispatch_mode", "_is_in_non_infra_torch_dispatch_mode")
CHECKPOINT_GENERATOR = "_checkpoint_without_reentrant_generator"
COMPILED_FROM = "_torchdynamo_orig_callable"  # the function that a compiled one stands for

# Attributes by which other libraries mark a model
ACCELERATE_HOOK, DIFFUSERS_HOOK = "_hf_hook", "_diffusers_hook"
PIPELINE_STAGE = "_pp_stage"  # of transformers' pipeline parallelism
COMMIT, NAME_OR_PATH, ATTENTION = "_commit_hash", "_name_or_path", "_attn_implementation"  # of transformers' configs

# Attributes of diffusers
PARALLEL_CONFIG, MESH = "_parallel_config", "_mesh"  # of a model, and of its context parallelism
STATEFUL = "_is_stateful"  # of a hook
GUIDANCE = "_guidance_scale"  # of a pipeline while it runs


# Attributes and options: the library and the file of it that defines each.
_MODULE, _DYNAMO = "torch/nn/modules/module.py", "torch/_dynamo/eval_frame.py"
_CONFIG, _HUB = "transformers/configuration_utils.py", "transformers/utils/hub.py"
ATTRIBUTES = {
    **dict.fromkeys([*sorted(KEPT_BY_TORCH), *HOOKS, COMPILED_CALL, SAVES_STATE], _MODULE),
    **dict.fromkeys([COMPILED, COMPILED_FROM], _DYNAMO),
    DISPATCH_FLAGS[0]: "torch/utils/_python_dispatch.py",
    "_version": "torch/_C/__init__.pyi",
    "_cdata": "torch/storage.py",
    "_from_config": "transformers/modeling_utils.py",
    **dict.fromkeys([COMMIT, NAME_OR_PATH, ATTENTION], _CONFIG),
    **{f"_raise_exceptions_for_{what}": _HUB for what in ("missing_entries", "connection_errors", "gated_repo")},
    PIPELINE_STAGE: "transformers/distributed/pipeline_parallel.py",
    **dict.fromkeys([DIFFUSERS_HOOK, STATEFUL], "diffusers/hooks/hooks.py"),
    PARALLEL_CONFIG: "diffusers/models/modeling_utils.py",
    MESH: "diffusers/models/_modeling_parallel.py",
    "_execution_device": "diffusers/pipelines/pipeline_utils.py",
    **dict.fromkeys(["_patchify_latents", "_unpatchify_latents"], "diffusers/pipelines/flux2/pipeline_flux2.py"),
    GUIDANCE: "diffusers/pipelines/stable_diffusion_3/pipeline_stable_diffusion_3.py",
    ACCELERATE_HOOK: "accelerate/hooks.py",
    "_reset_state": "accelerate/state.py",
}

SINCE = {PIPELINE_STAGE: "5.18"}  # names that came after the oldest version of their library that is allowed


def __getattr__(name: str) -> Any:
    """Look up an object of `OBJECTS`."""
    if name not in OBJECTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = find_object(name)
    globals()[name] = found
    return found


def find_object(name: str) -> Any:
    """Return a private object of a library.

    Parameters
    ----------
    name : str
        A name in `OBJECTS`.

    Returns
    -------
    Any
        The object.

    Raises
    ------
    ImportError
        The installed version of the library does not have it.
    """
    where = OBJECTS[name]
    library = where.partition(".")[0]
    try:
        return getattr(_owner(where), name)
    except (ImportError, AttributeError):
        raise ImportError(
            f"{library} {version(library)} has no {where}.{name}, which bridgework needs: install a version of "
            f"{library} that has it, or a newer bridgework"
        ) from None


def _owner(path: str) -> Any:
    """Return a module, or what an imported module holds under this path, such as torch._C._autograd."""
    try:
        return import_module(path)
    except ImportError:
        above, _, last = path.rpartition(".")
        return getattr(import_module(above), last)


def missing_names() -> list[str]:
    """List the private names that the installed libraries lack, each with its library's version.

    Returns
    -------
    list of str
        One sentence for each; empty where nothing is missing.
    """
    return [*_missing_objects(), *_missing_attributes()]


def _missing_objects() -> Iterator[str]:
    for name in OBJECTS:
        try:
            find_object(name)
        except ImportError as error:
            yield str(error)


def _missing_attributes() -> Iterator[str]:
    """Look for each name in the source of its library: many are there only once a library has marked a model."""
    for name, file in ATTRIBUTES.items():
        library, _, place = file.partition("/")
        if Version(version(library)) < Version(SINCE.get(name, "0")):
            continue
        folders = getattr(find_spec(library), "submodule_search_locations", None) or ()
        found = [Path(folder) / place for folder in folders]
        if not any(path.is_file() and re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) for path in found):
            yield (
                f"{library} {version(library)} has no {name} in {place}, which bridgework reads: what it tells from it "
                f"may be wrong; install a version of {library} that has it, or a newer bridgework"
            )


# Modules, tensors and storages of torch


def parameters_of(module: Any) -> dict[str, Any]:
    """Return the parameters of one module itself, by name: the dictionary that torch keeps."""
    return module._parameters


def buffers_of(module: Any) -> dict[str, Any]:
    """Return the buffers of one module itself, by name: the dictionary that torch keeps."""
    return module._buffers


def children_of(module: Any) -> dict[str, Any]:
    """Return the modules in a module, by name: the dictionary that torch keeps."""
    return module._modules


def forward_hooks_of(module: Any) -> dict[int, Any]:
    """Return the forward hooks of one module in the order in which they run: the dictionary that torch keeps."""
    return module._forward_hooks


def save_extra_state(module: Any, into: dict[str, Any]) -> None:
    """Put what one module itself would save into a dictionary, tensors as they are."""
    module._save_to_state_dict(into, "", True)


def version_of(tensor: Any) -> int:
    """Return how often torch has changed a tensor in place."""
    return tensor._version


def address_of(storage: Any) -> int:
    """Return a number that two living storages of torch share only where they are one."""
    return storage._cdata


def dispatch_flags() -> dict[str, Any]:
    """Return the flags by which torch knows that a dispatch mode is on, as far as this version has them."""
    from torch.utils import _python_dispatch

    return {name: getattr(_python_dispatch, name) for name in DISPATCH_FLAGS if hasattr(_python_dispatch, name)}


def set_dispatch_flags(flags: dict[str, Any]) -> None:
    """Put back what `dispatch_flags` returned."""
    from torch.utils import _python_dispatch

    vars(_python_dispatch).update(flags)


# Models of transformers


def build_from_config(kind: Any, config: Any, **options: Any) -> Any:
    """Build a transformers model without weights, of its own class or of an automatic one."""
    return kind._from_config(config, **options) if hasattr(kind, "_from_config") else kind.from_config(config)


def set_attention(config: Any, kind: str) -> None:
    """Set which attention a model of transformers is built with, such as "sdpa"."""
    config._attn_implementation = kind


def quiet_lookup() -> dict[str, bool]:
    """Return the options by which transformers' `cached_file` returns None where it finds nothing."""
    return {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}


# Pipelines of diffusers


def execution_device(pipe: Any) -> Any:
    """Return the device on which a pipeline computes."""
    return pipe._execution_device


def patchify_latents(pipe: Any, latents: Any) -> Any:
    """Return latents as a pipeline's denoiser reads them: in patches, where the pipeline makes patches (Flux 2)."""
    return pipe._patchify_latents(latents) if hasattr(pipe, "_patchify_latents") else latents


def unpatchify_latents(pipe: Any, latents: Any) -> Any:
    """Return latents as a pipeline's autoencoder reads them, the inverse of `patchify_latents`."""
    return pipe._unpatchify_latents(latents) if hasattr(pipe, "_unpatchify_latents") else latents


# accelerate


def forget_settings() -> None:
    """Let accelerate read its settings from the environment again, in this process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
