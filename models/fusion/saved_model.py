"""Write and open the folder of a fused model: what was trained, with the plan and the experts that it belongs to."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ...probes.file_formats import with_format, without_format
from ...probes.files import write_atomically
from ...probes.fingerprints.described_values import digest
from ...probes.fingerprints.model_description import describe_parts
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.subjects.subject import modules_of
from ...probes.tensor_files import read_tensors, sealed

WEIGHTS, PLAN = "bridges.safetensors", "plan.json"
SIDES = ("understanding", "generation")
Record = dict[str, Any]


def describe_experts(experts: Sequence[Any]) -> list[Record]:
    """Describe the two experts of a fused model by class, dtype and fingerprint of every module that they hold.

    Parameters
    ----------
    experts : sequence
        The understanding and the generation expert, before anything of them is trained.

    Returns
    -------
    list of dict
        One record each, plain JSON.
    """
    return [
        {
            "name": str(getattr(expert, "name", type(expert).__name__)),
            "modules": {path: _describe(module) for path, module in _modules(expert).items()},
        }
        for expert in experts
    ]


def _modules(expert: Any) -> dict[str, nn.Module]:
    """Return every module of an expert, and of the expert that it draws with, such as a pipeline's encoders."""
    found = modules_of(expert)
    inner: Any = getattr(expert, "expert", None)
    known = list(found.values())
    others = modules_of(inner) if isinstance(getattr(inner, "model", None), nn.Module) else {}
    return found | {path: part for path, part in others.items() if not any(part is other for other in known)}


def _describe(module: nn.Module) -> Record:
    found = describe_parts(module)
    dtype = str(next((parameter.dtype for parameter in module.parameters()), None))
    adapters = {f"the adapters' {name}": digest(setting) for name, setting in found.get("adapters", {}).items()}
    parts = found["weights"] | found["settings"] | adapters
    return {"class": found["class"], "dtype": dtype, "parts": parts, "added": found.get("interventions", {})}


def save_model(
    folder: str | os.PathLike[str],
    learnt: Mapping[str, Tensor],
    plan: BridgePlan,
    experts: Sequence[Record],
    trained: Sequence[Any],
) -> None:
    """Write what was trained, and the plan.

    Parameters
    ----------
    folder : str or os.PathLike
        The folder. It is made if it is missing.
    learnt : mapping of str to Tensor
        The trained parameters by name.
    plan : BridgePlan
        The plan.
    experts : sequence of dict
        What `describe_experts` returned.
    trained : sequence
        What of the experts was trained, the rank and the steps.
    """
    folder = Path(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in learnt.items()}
    about = with_format("fused model", {"plan": asdict(plan), "experts": experts, "trained": trained})
    metadata = sealed(state, about)
    write_atomically(folder / WEIGHTS, lambda path: save_file(state, path, metadata=metadata))
    plan.save(folder / PLAN)


def read_model(folder: str | os.PathLike[str], plan: BridgePlan) -> tuple[dict[str, Tensor], Record, list[Any]]:
    """Read what `save_model` wrote, and check it against the plan.

    Parameters
    ----------
    folder : str or os.PathLike
        The folder.
    plan : BridgePlan
        The plan that stands in it.

    Returns
    -------
    state : dict of Tensor
        The trained parameters by name.
    about : dict
        What they belong to; {} where an earlier version wrote them without saying so.
    trained : list
        What of the experts was trained, the rank and the steps.

    Raises
    ------
    FileNotFoundError
        There are no trained parameters.
    ValueError
        They are damaged, or were trained with another plan.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"no bridges in {os.fspath(folder)!r}: expected {path.name} beside plan.json, as FusedModel.save writes"
        )
    try:
        state, about, metadata = read_tensors(path)
        trained = about["trained"] if about else json.loads(metadata["trained"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(_does_not_fit(path, str(error).splitlines()[0])) from None
    if about is None:
        warnings.warn(
            f"{path} was written before it held hashes, plan and experts: whether it is whole and belongs to these "
            "experts cannot be checked; save it again where you know that it does",
            stacklevel=4,
        )
        return state, {}, trained
    about = without_format("fused model", path, about)[1]
    wanted = json.loads(json.dumps(asdict(plan)))
    if other := [name for name in wanted if wanted[name] != about["plan"].get(name)]:
        name = "pairs" if "pairs" in other else other[0]
        raise ValueError(
            f"{path} does not hold the bridges of its plan: plan.json says {name} {_short(wanted[name])}, they were "
            f"trained with {_short(about['plan'].get(name))}; put back the plan.json that was saved with them"
        )
    return state, about, trained


def check_experts(path: Path, saved: Sequence[Record], found: Sequence[Record]) -> None:
    """Raise ValueError where a model is opened on other experts than it was trained on.

    Experts in another precision cannot be told from others by their bytes, nor a hook that records from one that
    changes states: these are warnings.

    Parameters
    ----------
    path : pathlib.Path
        The file, for the message.
    saved, found : sequence of dict
        What `describe_experts` returned then and returns now.

    Raises
    ------
    ValueError
        Which expert differs, and in what.
    """
    for side, then, now in zip(SIDES, saved, found, strict=True):
        what = f"{path} was trained on the {side} expert {then['name']!r}"
        if then["modules"].keys() != now["modules"].keys():
            parts = ", ".join(sorted(then["modules"].keys() ^ now["modules"].keys()))
            raise ValueError(
                f"{what}, and {now['name']!r} has other parts ({parts}): open the expert it was trained on"
            )
        for part, ours in then["modules"].items():
            theirs = now["modules"][part]
            if ours["class"] != theirs["class"]:
                raise ValueError(
                    f"{what}, whose {part} is a {ours['class']}, and {now['name']!r} has a {theirs['class']}: open the "
                    "expert it was trained on"
                )
            if added := _different(ours.get("added", {}), theirs["added"]):  # a hook may record alone
                warnings.warn(
                    f"{what}, and the {part} of {now['name']!r} has {added[0]} that it had not then, or lacks one it "
                    "had: if that changes states, the model computes something else",
                    stacklevel=4,
                )
            other = _different(ours["parts"], theirs["parts"])
            if not other:
                continue
            if ours["dtype"] != theirs["dtype"]:
                warnings.warn(
                    f"{what} in {ours['dtype']}, and {now['name']!r} is in {theirs['dtype']}: whether it is the same "
                    "expert cannot be checked",
                    stacklevel=4,
                )
                continue
            raise ValueError(
                f"{what}, and the {part} of {now['name']!r} has other weights or settings ({other[0]}): open the "
                "expert it was trained on, as it was then, or train again on this one"
            )


def _different(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def load_state(path: Path, module: nn.Module, learnt: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Load trained parameters, all of them and no others.

    Parameters
    ----------
    path : pathlib.Path
        The file that they come from, for the message.
    module : nn.Module
        What was trained.
    learnt : mapping of str to Tensor
        Its trained parameters by name.
    state : mapping of str to Tensor
        What is loaded.

    Raises
    ------
    ValueError
        A tensor is missing, left over or of another shape.
    """
    reshaped = [name for name in state.keys() & learnt.keys() if state[name].shape != learnt[name].shape]
    if wrong := sorted([*(learnt.keys() ^ state.keys()), *reshaped]):
        raise ValueError(_does_not_fit(path, f"{wrong[0]} is missing, left over or of another shape"))
    module.load_state_dict(dict(state), strict=False)


def _does_not_fit(path: Path, why: str) -> str:
    return f"{path} does not hold the bridges of its plan: train again ({why})"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
