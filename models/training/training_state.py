"""Write the state of a training run, nested dictionaries of tensors and numbers, as safetensors; nothing is pickled."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ...probes.hooks.parallel_models import whole

KEY = "state"  # the metadata key of everything that is no tensor
DEVICES = ("cuda", "xpu")  # whose random states are kept beside the CPU's


def write_state(path: Path, state: Any, writes: bool = True) -> None:
    """Write nested dictionaries, lists and tuples of tensors and plain values into one safetensors file.

    Parameters
    ----------
    path : Path
        The file.
    state : object
        The state. A tensor of which this process holds a part is gathered, so all of its processes must call this.
    writes : bool
        Whether this process writes the file.

    Raises
    ------
    TypeError
        The state holds something else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encoded(state, tensors, writes))
    if writes:
        save_file(tensors, path, {KEY: text})


def read_state(path: Path) -> Any:
    """Read what `write_state` wrote, with all tensors whole and on the CPU.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    object
        The state.
    """
    with safe_open(path, "pt") as file:
        return _decoded(json.loads((file.metadata() or {})[KEY]), file)


def _encoded(value: Any, tensors: dict[str, Tensor], keeps: bool, path: str = "") -> Any:
    """Return plain JSON for a state, and put its tensors aside under the names of their places."""
    if isinstance(value, Tensor):
        full = whole(value.detach())
        tensors[path] = full.cpu().clone(memory_format=torch.contiguous_format) if keeps else full.new_empty(0)
        return {"tensor": path}
    if isinstance(value, dict | list | tuple):
        parts = []
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            place = f"{path}/{key}" if path else str(key)
            parts.append([key, _encoded(part, tensors, keeps, place)])
        kind = next(kind for kind in (dict, list, tuple) if isinstance(value, kind))
        return {kind.__name__: parts if kind is dict else [part for _, part in parts]}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a training state holds a {type(value).__name__}, which is neither a tensor nor plain JSON")


def _decoded(value: Any, file: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "dict":
        return {name: _decoded(part, file) for name, part in content}
    parts = [_decoded(part, file) for part in content]
    return parts if kind == "list" else tuple(parts)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what of a model a checkpoint holds: trained parameters, tied ones once, and buffers that are saved.

    Frozen weights are left out: experts of gigabytes have them already.

    Parameters
    ----------
    model : torch.nn.Module
        The model.

    Returns
    -------
    dict of Tensor
        The tensors themselves, by name.
    """
    saved = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {name: p for name, p in model.named_parameters() if p.requires_grad} | buffers


def fill(own: Tensor, read: Tensor) -> None:
    """Copy a whole tensor into a model's own, of which this process may hold a part.

    Parameters
    ----------
    own : Tensor
        It is changed in place.
    read : Tensor
        The values, of the whole shape.
    """
    with torch.no_grad():
        own.copy_(part_of(read, own))


def part_of(read: Tensor, like: Tensor) -> Tensor:
    """Return a tensor as another is: on its device, and this process's part where that one is distributed.

    Parameters
    ----------
    read : Tensor
        The whole values.
    like : Tensor
        The other tensor.

    Returns
    -------
    Tensor
        The values.
    """
    read = read.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(read, like.device_mesh, like.placements, src_data_rank=None)
    return read


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load an optimizer's state, of which this process takes the parts that it has of the parameters.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its parameters are those that the state was saved for, in their order.
    state : dict
        A state dict of whole tensors.
    """
    optimizer.load_state_dict(state)
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and isinstance(parameter, DTensor):
                kept[name] = part_of(value, parameter)


def random_states() -> dict[str, Any]:
    """Return the states of all generators of random numbers: Python's, NumPy's, torch's of every device."""
    kind, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    for device in DEVICES:
        if getattr(torch, device).is_available():
            states[device] = getattr(torch, device).get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put generators of random numbers back into the states that `random_states` returned."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    for device in DEVICES:
        if device in states and getattr(torch, device).is_available():
            getattr(torch, device).set_rng_state_all(states[device])
