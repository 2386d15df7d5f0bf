"""Build the trunks that are compared: from blocks of one expert, shared or forked, and wider where parameters are."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ...models.experts.opening import open_expert
from ...models.experts.vision_language import LlavaExpert
from ...models.unified.flow_model import UnifiedModel
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.plans.layouts import lay_out
from . import claim_settings as settings


def shallow_reader(depth: int) -> LlavaExpert:
    """Return scenes-reader with so many of its blocks, spread evenly from the first to the last.

    Parameters
    ----------
    depth : int
        The number of text blocks that stay.

    Returns
    -------
    LlavaExpert
    """
    expert = open_expert(settings.READER)
    model: Any = copy.deepcopy(expert.model)
    blocks, config = model.model.language_model.layers, model.config.text_config
    kept = [round(step * (len(blocks) - 1) / (depth - 1)) for step in range(depth)]
    model.model.language_model.layers = nn.ModuleList(blocks[number] for number in kept)
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:depth]
    shallow = copy.copy(expert)
    shallow.model = model
    return shallow


def trunk_plan(layout: str, fork: int | None = None, ends: tuple[int, int] | None = None) -> BridgePlan:
    """Return the plan of a trunk of the study's depth.

    Parameters
    ----------
    layout : str
        "shared", "Y" or "X".
    fork : int, optional
        The number of shared blocks of Y.
    ends : (int, int), optional
        The numbers of first and last blocks of X that are apart.

    Returns
    -------
    BridgePlan
    """
    return lay_out(layout, settings.DEPTH, settings.DEPTH, fork=fork, ends=ends)


def untrained_trunk(seed: int = 0) -> UnifiedModel:
    """Return the common trunk before it is trained: shared, of blocks of scenes-reader, random where it draws.

    Parameters
    ----------
    seed : int
        Of the random weights.

    Returns
    -------
    UnifiedModel
    """
    torch.manual_seed(seed)
    return UnifiedModel.from_experts(trunk_plan("shared"), shallow_reader(settings.DEPTH), open_expert("scenes-dit"))


def trunk_from(base: UnifiedModel, plan: BridgePlan, wider: int = 0, seed: int = 0) -> UnifiedModel:
    """Return a trunk of another layout that computes what the common trunk computes.

    Parameters
    ----------
    base : UnifiedModel
        The common trunk.
    plan : BridgePlan
        The layout.
    wider : int
        Units that every MLP has more. Their output weights are 0, so that they write nothing at first.
    seed : int
        Of the new units' input weights.

    Returns
    -------
    UnifiedModel
    """
    config = copy.deepcopy(base.reader.config)
    config.text_config.intermediate_size += wider
    torch.manual_seed(seed)
    model = UnifiedModel(plan, config, base.tokenizer, causal_images=base.causal_images)
    state = base.state_dict()
    if wider:
        own = model.state_dict()
        state = {name: _widened(name, value, own[name]) for name, value in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(".own_" in name for name in missing), missing
    model.trunk.twin()
    return model


def _widened(name: str, value: Tensor, new: Tensor) -> Tensor:
    """Return a weight with rows for new units as `new` has them, or columns of zeros."""
    if value.shape == new.shape:
        return value
    grown = torch.zeros_like(new) if "down_proj" in name else new.clone()
    grown[: value.shape[0], : value.shape[1]] = value
    return grown


def matching_width(base: UnifiedModel, plan: BridgePlan) -> int:
    """Return how many units more each MLP of the shared trunk needs to have as many parameters as a plan's trunk.

    Parameters
    ----------
    base : UnifiedModel
        The common trunk.
    plan : BridgePlan
        The layout that is matched.

    Returns
    -------
    int
        The nearest whole number.
    """
    more = _count(trunk_from(base, plan)) - _count(base)
    return round(more / (3 * base.reader.config.text_config.hidden_size * settings.DEPTH))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
