"""Find the stacks of repeated blocks in a model by its structure."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..arguments import checked
from ..private_names import COMPILED
from .parallel_models import check_parallel

CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def find_stacks(model: nn.Module) -> dict[str, list[str]]:
    """Find the outermost stacks of repeated blocks in a model.

    A stack is a `ModuleList`, `Sequential` or `ModuleDict` of blocks, which are modules with children. Blocks are of
    one class, or, in a `ModuleList`, of several where each has parts with parts (hybrid language models, the two sides
    of a U-Net). Lists of lists are one stack. Lists of simple parts (heads, projections, mergers) are stacks only in a
    model that has nothing deeper. A U-Net's middle block is a stack of one.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Returns
    -------
    dict of list of str
        The path of each stack, with the paths of its blocks in depth order. The stacks come in the order in which the
        model holds them, which is depth order in nearly all models.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        The model has no stack, or this rank has only some of its blocks.

    See Also
    --------
    capture : Reads the hidden states of the blocks that are found.
    find_streams : Says where the tokens of each modality stand in a stack.
    bridgework.models.find_tower : Finds all that bridges must know of one stack.

    Examples
    --------
    >>> vlm = open_expert("scenes-vlm").model
    >>> {path: len(blocks) for path, blocks in find_stacks(vlm).items()}
    {'model.vision_tower.encoder.layers': 4, 'model.language_model.layers': 16}
    """
    checked("model", model, nn.Module, remedy="pass a torch module, such as expert.model")
    check_parallel(model)
    found: dict[str, list[str]] = {}
    for path, module in _named_modules(model):
        taken = [block for blocks in found.values() for block in blocks]
        inside = any(path.startswith(f"{block}.") or block.startswith(f"{path}.") for block in taken)
        if not inside and (blocks := _blocks(path, module)):
            found[path] = blocks
    depths = {path: max(_depth(model.get_submodule(block)) for block in blocks) for path, blocks in found.items()}
    deep = {path: blocks for path, blocks in found.items() if depths[path] > 1}
    stacks = deep or {path: blocks for path, blocks in found.items() if len(blocks) > 1}
    if not stacks:
        raise ValueError(
            f"{type(model).__name__} has no stack of blocks (a ModuleList, Sequential or ModuleDict of modules with "
            "children of their own): name the layers yourself, as capture(model, layers=[...])"
        )
    return _with_middles(model, stacks)


def find_block(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a dotted path.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.
    path : str
        The path of one of its modules.

    Returns
    -------
    torch.nn.Module
        The module.

    Raises
    ------
    ValueError
        The path is wrong. The message names the model's stacks.
    """
    checked("model", model, nn.Module, remedy="pass a torch module")
    try:
        return model.get_submodule(checked("a layer", path, str, remedy="name it by its path, as find_stacks does"))
    except AttributeError:
        stacks = "; ".join(f"{stack} ({len(blocks)} blocks)" for stack, blocks in find_stacks(model).items())
        raise ValueError(
            f"unknown layer {path!r}: {type(model).__name__} has the stacks {stacks}: name a block by its path"
        ) from None


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield modules by the paths that they had before torch.compile, which still lead to them."""
    for path, module in model.named_modules():
        yield ".".join(part for part in path.split(".") if part != COMPILED), module


def _blocks(path: str, module: nn.Module) -> list[str]:
    """Return the paths of a container's blocks, or none if it is no stack."""
    if not isinstance(module, CONTAINERS):
        return []
    members = list(_members(path, module))
    models = any(hasattr(member, "save_pretrained") for _, member in members)  # each has stacks inside
    if not members or models or any(_depth(member) == 0 for _, member in members):
        return []
    alike = len({type(member) for _, member in members}) == 1
    several_classes = isinstance(module, nn.ModuleList) and all(_depth(member) > 1 for _, member in members)
    enough = len(members) > 1 or isinstance(module, nn.ModuleList)
    return [name for name, _ in members] if enough and (alike or several_classes) else []


def _members(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield what a container holds, lists of lists end to end: a list cannot be called, so it is no block."""
    for name, member in module.named_children():
        if isinstance(member, nn.ModuleList):
            yield from _members(f"{path}.{name}", member)
        else:
            yield f"{path}.{name}" if path else name, member


def _depth(module: nn.Module) -> int:
    """Count the levels of modules inside, without containers: 0 for a layer, 1 for layers, 2 for parts with layers."""
    inner = [_depth(child) + (not isinstance(child, CONTAINERS)) for child in module.children()]
    return max(inner, default=0)


def _parts(module: nn.Module) -> set[type]:
    """Return the classes of what a block holds in lists."""
    lists = (child for child in module.children() if isinstance(child, nn.ModuleList))
    return {type(part) for members in lists for part in members.children() if _depth(part)}


def _with_middles(model: nn.Module, stacks: dict[str, list[str]]) -> dict[str, list[str]]:
    """Add single blocks, in depth order, to the stacks that they stand beside and share the classes of parts with."""
    middles: dict[str, str] = {}  # path of the block -> path of the first stack that it stands beside
    for path, blocks in stacks.items():
        parts = set().union(*(_parts(model.get_submodule(block)) for block in blocks))
        parent = path.rpartition(".")[0]
        for name, module in model.get_submodule(parent).named_children():
            single = f"{parent}.{name}" if parent else name
            own = _parts(module)
            if single != path and not isinstance(module, CONTAINERS) and own and own <= parts:
                middles.setdefault(single, path)
    kept = {path: blocks for path, blocks in stacks.items() if not path.startswith(tuple(f"{m}." for m in middles))}
    registered = [path for path, _ in _named_modules(model)]
    ordered: dict[str, list[str]] = {}
    for path, blocks in kept.items():
        parent = path.rpartition(".")[0]
        alone = [middle for middle, stack in middles.items() if stack == path]
        between = sum(other.rpartition(".")[0] == parent for other in kept) > 1
        # Between two stacks a single block runs between them; beside one (in a decoder) it runs as it was registered.
        first = [m for m in alone if not between and registered.index(m) < registered.index(path)]
        ordered |= {m: [m] for m in first} | {path: blocks} | {m: [m] for m in alone if m not in first}
    return ordered
