"""Make the fused model whose training step is counted: of planned experts, which hold no data, or of opened ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...probes.plans.bridge_plan import BridgePlan
from ...probes.private_names import parameters_of
from ...probes.single_contexts import single_context
from ..experts.downloads import weights
from ..experts.opening import OWN, open_expert
from ..fusion.fused_model import FusedModel
from ..fusion.two_towers import Fusion
from .published import PlannedGenerator, PlannedReader


class PlannedModel(FusedModel):
    """Fuse experts that hold no data: where their tokens stand is known, because it cannot be measured."""

    def __init__(self, understanding: PlannedReader, generation: PlannedGenerator, plan: BridgePlan) -> None:
        self.experts, self.trained_experts = (understanding, generation), "bridges"

        def read() -> Any:
            return understanding.show([None], ("text",), "understanding", None).run()  # type: ignore[list-item]

        def draw() -> Tensor:
            noisy = torch.zeros(1, *generation.size, dtype=generation.model.dtype)
            return generation.predict(noisy, generation.encode([""]).to(noisy), noisy.new_ones(1))

        Fusion.__init__(self, understanding.tower(), generation.tower(plan.stream), plan, (read, draw))
        self.register_buffer("null_text", generation.encode([""]), persistent=False)
        self.semantic = None

    def described_experts(self) -> list[dict[str, Any]]:
        """Return nothing: there are no weights to describe."""
        return []


@single_context
def opened_experts(given: tuple[Any, Any], dtype: torch.dtype, trained: str) -> Iterator[list[Any]]:
    """Open two experts for a training step that is computed, and leave those of the caller as they were.

    Parameters
    ----------
    given : (str, path or Subject, str, path or Subject)
        What `open_expert` takes, or experts that are open.
    dtype : torch.dtype
        The precision of the weights of those that are opened here.
    trained : str
        What is trained, as of `estimate_cost`.

    Yields
    ------
    list of Subject
        The two experts.

    Raises
    ------
    ValueError
        Experts that are open would be trained, which changes them; or as `open_expert` does.
    """
    if trained != "bridges" and any(hasattr(expert, "show") for expert in given):
        raise ValueError(
            f"trained is {trained!r}, which changes experts that are open: give their names or folders, which are "
            "opened for the estimate alone"
        )
    experts = [e if hasattr(e, "show") else open_expert(e, dtype=dtype) for e in given]
    frozen = {p: p.requires_grad for expert in experts for p in expert.model.parameters()}
    modes = {module: module.training for expert in experts for module in expert.model.modules()}
    try:
        yield experts
    finally:
        for parameter, learns in frozen.items():
            parameter.requires_grad_(learns)
        for module, mode in modes.items():
            module.training = mode


def are_open(given: tuple[str | Path | Any, str | Path | Any]) -> bool:
    """Return whether two experts are there to be run: open already, shipped, fetched, or in a folder.

    Parameters
    ----------
    given : (str, path or Subject, str, path or Subject)
        The experts.

    Returns
    -------
    bool
        Whether both are.
    """
    known = (*OWN, *weights.WEIGHTS)
    return all(hasattr(expert, "show") or str(expert) in known or Path(expert).is_dir() for expert in given)


def learn_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Put trained parameters into this precision."""
    for module in model.modules():
        for name, p in list(parameters_of(module).items()):
            if p is not None and p.requires_grad and (p.dtype != dtype or p.device.type == "meta"):
                values = torch.empty(p.shape, dtype=dtype) if p.device.type == "meta" else p.detach().to(dtype)
                parameters_of(module)[name] = nn.Parameter(values)


def gathered(model: FusedModel) -> int:
    """Return the bytes that FSDP2 holds whole at the worst moment, where each block is a shard group of its own.

    All that is in no block is whole throughout. Of the blocks two are whole: the one that runs and the next, which is
    being gathered. Where they are trained, their gradients are whole as well until they are scattered.

    Parameters
    ----------
    model : FusedModel
        The model.

    Returns
    -------
    int
        The bytes.
    """
    size = {p: p.numel() * p.element_size() * (2 if p.requires_grad else 1) for p in model.parameters()}
    blocks = [
        sum(size.pop(p) for p in tower.model.get_submodule(path).parameters())
        for tower in model.towers
        for path in tower.blocks
    ]
    return sum(size.values()) + sum(sorted(blocks)[-2:])
