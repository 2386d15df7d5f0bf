"""Estimate what fusing two experts takes before anything is downloaded: memory by kind, operations and GPU hours.

The fused model is built from the experts' configs, and one training step runs as it would later, on tensors without
data (models/costs/simulation.py). Of experts whose family is not known by its config, but which are there and open, the
step is computed. Only one thing is assumed, because such a step cannot show it: how fast a GPU is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ...probes.arguments import check_arguments, file_name
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.plans.layouts import lay_out
from ...probes.private_names import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from ..fusion.fused_model import FusedModel
from ..towers.checkpointing import checkpoint_blocks
from ..training.optimizers import build_optimizers
from .cost_options import GPUS, UTILISATION, CostOptions, check_bridged
from .published import Unplanned, build_planned_generator, build_planned_reader
from .simulation import KINDS, Step, simulate
from .step_models import PlannedModel, are_open, gathered, learn_in, opened_experts

NEEDS_DATA = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)


class CostEstimate(NamedTuple):
    """Hold what one training step of a plan takes on one of its GPUs.

    Attributes
    ----------
    plan : BridgePlan
        The plan.
    step : Step
        Bytes by kind, and operations.
    gathered : int
        Bytes of the sharded weights and gradients that are whole at one time (FSDP2); they come on top of `step`.
    parameters, trained : int
        How many parameters the whole model has, and how many of them are trained.
    gpus : int
        How many GPUs take part.
    precision : str
        The number format, as `estimate_cost` takes it.
    """

    plan: BridgePlan
    step: Step
    gathered: int
    parameters: int
    trained: int
    gpus: int
    precision: str

    @property
    def peak(self) -> int:
        """Bytes on each GPU at the worst moment; the GPU's context and fragmentation come on top."""
        return self.step.peak + self.gathered

    @property
    def operations(self) -> int:
        """Operations of one step on one GPU: forward pass, backward pass and update."""
        return self.step.forward + self.step.backward + self.step.update

    def hours(self, steps: int, gpu: str = "H100", utilisation: float = UTILISATION) -> float:
        """Return the GPU hours of a training run, all GPUs together.

        Parameters
        ----------
        steps : int
            How many training steps there are.
        gpu : str, optional
            A name in `GPUS`.
        utilisation : float, optional
            The share of the GPU's peak rate that is reached.

        Returns
        -------
        float
            Hours.

        Raises
        ------
        ValueError
            The GPU is unknown, there are no steps, or the share is not above 0 and at most 1.
        TypeError
            A number is none.
        """
        asked = check_arguments(CostOptions, {"steps": steps, "gpu": gpu, "utilisation": utilisation})
        steps, utilisation = asked["steps"], asked["utilisation"]
        rate = GPUS[gpu].float32 if self.precision == "float32" else GPUS[gpu].bfloat16
        return self.gpus * steps * self.operations / (rate * utilisation) / 3600


def estimate_cost(
    understanding: Any,
    generation: Any,
    layout: str | BridgePlan,
    *,
    trained: str = "bridges",
    batch: int = 1,
    tokens: int = 128,
    resolution: int | None = None,
    precision: str = "mixed",
    checkpointing: bool = False,
    gpus: int = 1,
    replicated: bool = False,
) -> CostEstimate:
    """Return what a training step of two fused experts takes, computed from their configs where they are known.

    Gradients and optimizers are those of `train`. Captions come tokenized, images as latents, and the generation
    expert's own (null) text as states: no autoencoder and no text encoder is in memory.

    Parameters
    ----------
    understanding, generation : str, path or Subject
        Names or folders of the experts, as `published.config_of` takes them; no weights are needed. Or folders of any
        family that `open_expert` opens, or experts that are open: where their family is not known by its config, one
        step is computed on them, as they are, with captions of `tokens` words.
    layout : str or BridgePlan
        A layout, whose published plan is laid out for the experts' depths; or a plan.
    trained : str, optional
        "bridges"; "lora", adapters in both experts as well; or "all".
    batch : int, optional
        Samples on each GPU.
    tokens : int, optional
        Tokens of each caption.
    resolution : int, optional
        The side of the stills that are drawn, in pixels; None is the generation expert's own, the only one where a step
        is computed.
    precision : str, optional
        "float32"; "mixed", weights in float32 and passes in bfloat16 as `train` does it under
        `ACCELERATE_MIXED_PRECISION=bf16`; "bf16", likewise, with frozen weights kept in bfloat16.
    checkpointing : bool, optional
        Whether blocks are computed again in the backward pass.
    gpus : int, optional
        How many GPUs take part. More than one shard weights, gradients and optimizer among them (FSDP2: float32 shards,
        gathered in the precision of the pass, each block when it runs and all else throughout), unless they are
        `replicated`.
    replicated : bool, optional
        Whether every GPU holds the whole model.

    Returns
    -------
    CostEstimate
        Memory by kind, operations and parameters; GPU hours by its method `hours`.

    Raises
    ------
    ValueError
        The experts, the layout or the precision cannot be planned and the experts do not open, a number is below 1, or
        experts that are open would be trained.
    TypeError
        An argument is of another type.

    See Also
    --------
    bridgework.models.costs.estimate.estimate_costs : Returns a table of several layouts beside each other.

    Examples
    --------
    >>> cost = estimate_cost("qwen2.5-vl-7b", "wan2.2-ti2v-5b", "H", batch=8, checkpointing=True)
    >>> cost.peak, cost.hours(20_000)
    """
    asked: dict[str, Any] = {"trained": trained, "batch": batch, "tokens": tokens, "resolution": resolution}
    asked |= {"precision": precision, "checkpointing": checkpointing, "gpus": gpus, "replicated": replicated}
    asked = check_arguments(CostOptions, asked)
    batch, tokens, resolution, gpus = (asked[name] for name in ("batch", "tokens", "resolution", "gpus"))
    check_bridged(layout.layout if isinstance(layout, BridgePlan) else layout)
    for side, expert in (("understanding", understanding), ("generation", generation)):
        if not hasattr(expert, "show"):
            file_name(f"the {side} expert", expert)
    if isinstance(layout, BridgePlan) and layout.semantic_tokens:
        raise ValueError("semantic tokens cannot be planned: their target is measured; plan without them")
    sharded, half = gpus > 1 and not replicated, precision != "float32"
    dtype = torch.bfloat16 if precision == "bf16" or (half and sharded) else torch.float32
    given = understanding, generation
    settings = _Settings(trained, batch, precision, checkpointing, gpus, sharded)
    try:
        with FakeTensorMode():
            experts: list[Any] = [_planned(understanding, build_planned_reader, tokens, dtype)]
            experts.append(_planned(generation, build_planned_generator, resolution, dtype))
            return _counted(experts, PlannedModel, layout, settings, "")
    except (Unplanned, FileNotFoundError, *NEEDS_DATA):
        if not are_open(given):
            raise
    if resolution is not None:
        raise ValueError(f"resolution is {resolution}, but a step is computed, at the expert's own: leave it out")
    with opened_experts(given, dtype, trained) as experts:
        return _counted(experts, FusedModel, layout, settings, " ".join(["a"] * tokens))


class _Settings(NamedTuple):
    trained: str
    batch: int
    precision: str
    checkpointing: bool
    gpus: int
    sharded: bool


def _planned(given: Any, build: Callable[..., Any], *options: Any) -> Any:
    """Build an expert from its config; of one that is open, from that of the folder that it was opened from."""
    name = getattr(given, "_opened_from", given.name) if hasattr(given, "show") else given
    if hasattr(given, "show") and not are_open((name, name)):
        raise Unplanned(f"no config of {name!r} is known")
    return build(name, *options)


def _counted(
    experts: list[Any], fused: Any, layout: str | BridgePlan, settings: _Settings, caption: str
) -> CostEstimate:
    """Fuse two experts, run one training step and return what it takes."""
    trained, batch, precision, checkpointing, gpus, sharded = settings
    half, fake = precision != "float32", fused is PlannedModel
    depths = len(experts[0].blocks), len(experts[1].blocks)
    plan = layout if isinstance(layout, BridgePlan) else lay_out(layout, *depths)
    model = fused(*experts, plan)
    with torch.device("meta") if fake else nullcontext():  # peft moves adapters to their layer, which fakes refuse
        model.adapt(trained)
    learn_in(model, torch.bfloat16 if half and sharded else torch.float32)
    for expert in experts if checkpointing else ():
        checkpoint_blocks(expert.model)
    model.train()
    device = torch.device("cpu") if fake else model.device

    def loss() -> Tensor:
        image = torch.zeros(batch, *model.size, device=device)
        time = torch.ones(batch, device=device)
        given = {"image": image, "noise": image.clone(), "time": time, "caption": [caption] * batch}
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return model.loss(given)

    named = [(name, p) for name, p in model.trained().named_parameters() if p.requires_grad]
    optimizers = build_optimizers(named, 1e-2, 1e-2, lambda name: 1.0, together=sharded)
    shares = {}
    if sharded:  # of float32 where the pass sees bfloat16
        share = 2 / gpus if half else 1 / gpus
        shares = dict.fromkeys(("trained", "gradients", "optimizer", "update"), share)
        shares["weights"] = 1 / gpus if precision == "bf16" else share
    return CostEstimate(
        plan,
        simulate(model, loss, optimizers, shares, computed=not fake),
        gathered(model) if sharded else 0,
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for _, p in named),
        gpus,
        precision,
    )


def estimate_costs(
    understanding: str | Path, generation: str | Path, options: CostOptions | None = None
) -> pd.DataFrame:
    """Return a table of what fusing two experts takes, one row for each layout or plan.

    Parameters
    ----------
    understanding, generation : path
        The experts, as of `estimate_cost`.
    options : CostOptions, optional
        What is compared and how; the defaults if left out. A layout that ends in .json is the file of a plan.

    Returns
    -------
    DataFrame
        Rows as of `cost_table`.

    Raises
    ------
    ValueError
        As `estimate_cost` and `CostEstimate.hours`.
    FileNotFoundError
        There is no such plan.
    """
    options = CostOptions() if options is None else options
    if not isinstance(options, CostOptions):
        raise TypeError(f"options are a {type(options).__name__}: expected CostOptions")
    settings = {f.name: getattr(options, f.name) for f in fields(options)}
    layouts, hours = settings.pop("layout"), [settings.pop(name) for name in ("steps", "gpu", "utilisation")]
    plans = [BridgePlan.load(layout) if layout.endswith(".json") else layout for layout in layouts]
    estimates = [estimate_cost(understanding, generation, plan, **settings) for plan in plans]
    return pd.concat([cost_table(estimate, *hours) for estimate in estimates])


def cost_table(estimate: CostEstimate, steps: int, gpu: str = "H100", utilisation: float = UTILISATION) -> pd.DataFrame:
    """Return an estimate as a table with one row.

    Parameters
    ----------
    estimate : CostEstimate
        What `estimate_cost` returned.
    steps, gpu, utilisation
        As of `CostEstimate.hours`.

    Returns
    -------
    DataFrame
        The plan, GB (1e9 bytes) on each GPU by kind at the worst moment, TFLOP of its step, and GPU hours.
    """
    kinds = {kind: estimate.step.at_peak.get(kind, 0) for kind in KINDS}
    kinds["transient"] += kinds.pop("update")
    kinds |= {"gathered": estimate.gathered, "peak": estimate.peak}
    step = estimate.step
    row = {
        "layout": estimate.plan.layout,
        "bridges": len(estimate.plan.pairs),
        "parameters": estimate.parameters,
        "trained parameters": estimate.trained,
        **{f"{kind} GB": size / 1e9 for kind, size in kinds.items()},
        "forward TFLOP": step.forward / 1e12,
        "backward TFLOP": step.backward / 1e12,
        "update TFLOP": step.update / 1e12,
        "GPUs": estimate.gpus,
        "GPU": gpu,
        "utilisation": utilisation,
        "steps": steps,
        "GPU hours": estimate.hours(steps, gpu, utilisation),
        "fits": estimate.peak <= GPUS[gpu].memory,
    }
    return pd.DataFrame([row])


def costs_as_text(table: pd.DataFrame) -> str:
    """Return the table of `estimate_costs` as text: a line for each quantity, a column for each layout."""
    shown = table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else value).set_index("layout")
    return shown.T.to_string()
