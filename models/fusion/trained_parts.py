"""Choose what of an expert is trained: nothing, LoRA adapters in its blocks, or all of it."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from weakref import WeakSet

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from ...probes.arguments import checked
from ...probes.private_names import children_of
from ..bridges.trained_names import TRAINED

SPARED = 0.01  # of the weights of the blocks may have no adapters without a warning: routers, tables, convolutions
# `self.out_proj.weight` in a module's code: it takes the weight and never calls the layer, which an adapter changes.
TAKEN = re.compile(r"(?<!isinstance\()\bself\.(\w+)\.weight\b(?!\[|\.(?:dtype|device|shape|size|ndim|data|copy_|_))")
BUILDING = ("__init__", "_init", "init", "reset", "fuse", "unfuse", "set_", "load")  # methods that no pass calls

_adapted: WeakSet[nn.Module] = WeakSet()  # the models that have adapters of ours


def adapt(model: nn.Module, blocks: Sequence[str], trained: str, rank: int = 8) -> None:
    """Set which parameters of a tower require gradients, in place.

    Parameters
    ----------
    model : torch.nn.Module
        The tower's model.
    blocks : sequence of str
        The dotted paths of its blocks.
    trained : {"bridges", "lora", "all"}
        "bridges" trains none of the tower, "lora" low-rank adapters in every linear layer of the blocks, zero at first.
    rank : int
        The rank of the adapters.

    Raises
    ------
    ValueError
        Another word, blocks without a linear layer, a layer that takes no adapter, or a model that has adapters
        already. The model is then as it was.

    Warns
    -----
    UserWarning
        Matrices of the blocks have no adapters: fused experts, or layers whose weights the model takes without calling
        them (Mamba's output projections). The message says which share of the weights, and which.

    References
    ----------
    LoRA: Hu et al. 2021, arXiv 2106.09685.
    """
    adapt_towers([(model, blocks)], trained, rank)


def adapt_towers(towers: Sequence[tuple[nn.Module, Sequence[str]]], trained: str, rank: int = 8) -> None:
    """Set which parameters of several towers require gradients, in place: in all of them, or in none.

    Parameters
    ----------
    towers : sequence of (torch.nn.Module, sequence of str)
        The model of each tower, and the paths of its blocks. Towers may be stacks of one model.
    trained, rank
        As `adapt` takes them.

    Raises
    ------
    ValueError
        As `adapt` does.
    """
    checked("trained", trained, str, known=TRAINED)
    rank = checked("rank", rank, int, least=1)
    stacks: dict[nn.Module, list[str]] = {}
    for model, blocks in towers:
        stacks.setdefault(model, []).extend(path for path in blocks if path not in stacks.get(model, []))
    for model in stacks:
        present = next((name for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)), None)
        if present is not None and (trained == "lora" or (trained == "all" and model in _adapted)):
            raise ValueError(
                f"{type(model).__name__} has adapters already ({present!r} first): open it again, or merge them first, "
                "as peft's merge_and_unload does"
            )
    asked = {model: list(_layers(model, blocks)) for model, blocks in stacks.items()} if trained == "lora" else {}
    for model, layers in asked.items():
        if not layers:
            parts = [part for path in stacks[model] for part in model.get_submodule(path).modules()]
            some = any(isinstance(part, nn.Linear | Conv1D) for part in parts)
            taken = " that is called: they take its weight, so that an adapter would change nothing" if some else ""
            name = type(model).__name__
            raise ValueError(f"the blocks of {name} have no linear layer{taken}: train 'bridges' or 'all'")
    undo: list[Callable[[], None]] = []
    try:
        for model, blocks in stacks.items():
            undo.append(_way_back(model))
            model.requires_grad_(trained == "all")
            if trained == "lora":
                _inject(model, blocks, asked[model], rank)
    except BaseException:
        for back in reversed(undo):
            back()
        raise
    for model, layers in asked.items():
        _adapted.add(model)
        _say_what_has_none(model, stacks[model], layers)


def _layers(model: nn.Module, blocks: Sequence[str]) -> Iterator[str]:
    """Yield the paths of the linear layers of the blocks that an adapter can change."""
    inside = tuple(f"{block}." for block in blocks)
    for name, module in model.named_modules():
        owner, _, leaf = name.rpartition(".")
        linear = name.startswith(inside) and isinstance(module, nn.Linear | Conv1D)
        if linear and leaf not in _taken(type(model.get_submodule(owner))):
            yield name


@cache
def _taken(kind: type[nn.Module]) -> set[str]:
    """Return the layers of a class of modules whose weights its passes take without calling them."""
    found: set[str] = set()
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith(BUILDING) and getattr(nn.Module, name, None) is not method:
            with suppress(OSError, TypeError):  # its source is not known
                found |= set(TAKEN.findall(inspect.getsource(method)))
    return found


def _inject(model: nn.Module, blocks: Sequence[str], layers: Sequence[str], rank: int) -> None:
    """Put adapters on these layers, all or none.

    peft is given the blocks alone. Of a model that it knows by its config it would translate the names of experts, and
    refuse some layers of Mamba.
    """
    holder = nn.ModuleList(model.get_submodule(block) for block in blocks)
    numbers = {block: str(number) for number, block in enumerate(blocks)}
    kinds: dict[bool, list[str]] = {}
    for layer in layers:
        block = max((block for block in blocks if layer.startswith(f"{block}.")), key=len)
        transposed = isinstance(model.get_submodule(layer), Conv1D)
        kinds.setdefault(transposed, []).append(numbers[block] + layer[len(block) :])
    try:
        for transposed, names in kinds.items():
            # A list would take every layer whose path ends like these.
            pattern = "|".join(map(re.escape, names))
            config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern, fan_in_fan_out=transposed)
            inject_adapter_in_model(config, holder)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{type(model).__name__} takes no adapters, and is as it was ({reason[:200]}): train 'bridges' or 'all'"
        ) from None
    if missing := [layer for layer in layers if not isinstance(model.get_submodule(layer), BaseTunerLayer)]:
        raise ValueError(
            f"{len(missing)} of {len(layers)} linear layers of {type(model).__name__} took no adapter, {missing[0]!r} "
            "first, and the model is as it was: train 'bridges' or 'all'"
        )


def _way_back(model: nn.Module) -> Callable[[], None]:
    """Return what puts a model's modules and flags back as they are now."""
    modules = [(module, dict(children_of(module))) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def back() -> None:
        for module, parts in modules:
            children_of(module).clear()
            children_of(module).update(parts)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)

    return back


def _say_what_has_none(model: nn.Module, blocks: Sequence[str], layers: Sequence[str]) -> None:
    """Warn of the matrices of the blocks that have no adapters, if they are more than `SPARED` of their weights."""
    with_adapters = tuple(f"{layer}." for layer in layers)
    weights, without, bare = 0, {}, list(blocks)
    for number, block in enumerate(blocks):
        for name, parameter in model.get_submodule(block).named_parameters():
            path = f"{block}.{name}"
            if parameter.ndim < 2 or ".lora_" in path:
                continue
            weights += parameter.numel()
            if path.startswith(with_adapters):
                bare = [other for other in bare if other != blocks[number]]
            else:
                kind = ".".join(part for part in name.split(".") if not part.isdigit())
                without[kind] = without.get(kind, 0) + parameter.numel()
    lacking = sum(without.values())
    if bare or lacking > SPARED * weights:
        largest = sorted(without, key=lambda kind: -without[kind])[:4]
        has_none = f"; {len(bare)} of {len(blocks)} blocks have none at all, {bare[0]!r} first" if bare else ""
        warnings.warn(
            f"{100 * lacking / weights:.0f} % of the weights in the blocks of {type(model).__name__} have no adapters "
            f"({', '.join(largest)}), those of {len(layers)} linear layers have{has_none}: train 'all' to train them",
            stacklevel=4,
        )
