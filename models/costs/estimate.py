"""What fusing two experts takes before anything is downloaded: memory by kind, operations and GPU hours.

The fused model is built from the experts' configs and one step of its training is run as it would be, on tensors
without data (models/costs/simulation.py). Nothing is estimated but what the step cannot tell: how fast a GPU is at it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...probes.plans.bridge_plan import TRUNKS, BridgePlan
from ...probes.plans.layouts import lay_out
from ..fusion.fused_model import FusedModel
from ..fusion.two_towers import Fusion
from ..training.optimizers import build_optimizers
from .published import PlannedGenerator, PlannedReader, build_planned_generator, build_planned_reader
from .simulation import KINDS, Step, simulate

PRECISIONS = ("float32", "mixed", "bf16")


class Gpu(NamedTuple):
    """By its maker's data sheet: bytes of memory; operations a second on dense matrices, bfloat16 and float32."""

    memory: float
    bfloat16: float
    float32: float


GPUS = {
    "H100": Gpu(80e9, 989.4e12, 66.9e12),  # SXM; nvidia.com/en-us/data-center/h100, halved where sparsity is counted
    "A100": Gpu(80e9, 312e12, 19.5e12),  # nvidia.com/en-us/data-center/a100
}
# An assumption: the Llama 3 report has 38 to 43 % of the peak on H100s (arXiv 2407.21783). Time some steps of your own.
UTILISATION = 0.4


class CostEstimate(NamedTuple):
    """What one training step of a plan takes on one of its GPUs.

    Attributes:
        step: bytes by kind, and operations.
        gathered: bytes of the sharded weights and gradients that are whole at one time (FSDP2), on top of `step`.
        parameters, trained: numbers, in the whole model.
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
        """Bytes on each GPU at the worst moment. The GPU's context and fragmentation come on top."""
        return self.step.peak + self.gathered

    @property
    def operations(self) -> int:
        return self.step.forward + self.step.backward + self.step.update

    def hours(self, steps: int, gpu: str = "H100", utilisation: float = UTILISATION) -> float:
        """GPU hours of so many steps, all GPUs together, at this share of a GPU's peak rate.

        Raises ValueError for an unknown GPU or a share that is none.
        """
        if gpu not in GPUS:
            raise ValueError(f"unknown GPU {gpu!r}: expected one of {', '.join(GPUS)}")
        if not 0 < utilisation <= 1:
            raise ValueError(f"utilisation {utilisation} must be above 0 and at most 1, a share of the GPU's peak rate")
        rate = GPUS[gpu].float32 if self.precision == "float32" else GPUS[gpu].bfloat16
        return self.gpus * steps * self.operations / (rate * utilisation) / 3600


def estimate_cost(
    understanding: str | Path,
    generation: str | Path,
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
    """What a training step of the two experts, fused, takes.

    >>> made = cost("qwen2.5-vl-7b", "wan2.2-ti2v-5b", "H", batch=8, checkpointing=True)
    >>> made.peak, made.hours(20_000)

    Gradients and optimizers are those of `train`. Captions come tokenized, images as latents, and the generation
    expert's own (null) text as states: no autoencoder and no text encoder is in memory.

    Args:
        understanding, generation: names or folders, as `published.config_of` takes them.
        layout: its published plan is laid out for the experts' depths; or a plan.
        trained: "bridges", "lora" (as well) or "all".
        batch: samples on each GPU.
        tokens: of each caption.
        resolution: pixels a side of the stills that are drawn; None is the generation expert's own.
        precision: "float32"; "mixed", weights in float32 and passes in bfloat16 as `train` does it under
            `ACCELERATE_MIXED_PRECISION=bf16`; "bf16", likewise, with frozen weights kept in bfloat16.
        checkpointing: blocks are computed again in the backward pass.
        gpus: more than one shard weights, gradients and optimizer among them (FSDP2: float32 shards, gathered in the
            precision of the pass, each block when it runs and all else throughout), unless they are `replicated`.

    Raises:
        ValueError: experts, a layout or a precision that cannot be planned; numbers below 1.
    """
    for name, value in {"batch": batch, "tokens": tokens, "gpus": gpus}.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if layout in TRUNKS or (isinstance(layout, BridgePlan) and layout.layout in TRUNKS):
        raise ValueError("one trunk fuses no two experts: plan dense, H, double fusion or last")
    sharded, half = gpus > 1 and not replicated, precision != "float32"
    dtype = torch.bfloat16 if precision == "bf16" or (half and sharded) else torch.float32
    with FakeTensorMode():
        experts = (
            build_planned_reader(understanding, tokens, dtype),
            build_planned_generator(generation, resolution, dtype),
        )
        depths = len(experts[0].blocks), len(experts[1].blocks)
        plan = layout if isinstance(layout, BridgePlan) else lay_out(layout, *depths)
        model = _Planned(*experts, plan)
        with torch.device("meta"):  # peft moves adapters to their layer, which tensors without data refuse
            model.adapt(trained)
        _learn_in(model, torch.bfloat16 if half and sharded else torch.float32)
        if checkpointing:
            experts[0].model.gradient_checkpointing_enable()
            experts[1].model.enable_gradient_checkpointing()
        model.train()

        def loss() -> Tensor:
            image = torch.zeros(batch, *model.size)
            given = {"image": image, "noise": image.clone(), "time": torch.ones(batch), "caption": [""] * batch}
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return model.loss(given)

        named = [(name, p) for name, p in model.trained().named_parameters() if p.requires_grad]
        optimizers = build_optimizers(named, 1e-2, 1e-2, lambda name: 1.0, together=sharded)
        shares = {}
        if sharded:  # of float32 where the pass sees bfloat16
            wide = 2 / gpus if half else 1 / gpus
            shares = dict.fromkeys(("trained", "gradients", "optimizer", "update"), wide)
            shares["weights"] = 1 / gpus if precision == "bf16" else wide
        return CostEstimate(
            plan,
            simulate(model, loss, optimizers, shares),
            _gathered(model) if sharded else 0,
            sum(p.numel() for p in model.parameters()),
            sum(p.numel() for _, p in named),
            gpus,
            precision,
        )


class _Planned(FusedModel):
    """A fused model of experts without data: where their tokens stand is known, for it cannot be measured."""

    def __init__(self, understanding: PlannedReader, generation: PlannedGenerator, plan: BridgePlan) -> None:
        if plan.semantic_tokens:
            raise ValueError("semantic tokens cannot be planned: their target is measured. Plan without them")
        self.experts, self.trained_experts = (understanding, generation), "bridges"

        def read() -> Any:
            return understanding.show([None], ("text",), "understanding", None).run()  # type: ignore[list-item]

        def draw() -> Tensor:
            noisy = torch.zeros(1, *generation.size, dtype=generation.model.dtype)
            return generation.predict(noisy, generation.encode([""]).to(noisy), noisy.new_ones(1))

        Fusion.__init__(self, understanding.tower(), generation.tower(plan.stream), plan, (read, draw))
        self.register_buffer("null_text", generation.encode([""]), persistent=False)
        self.semantic = None


def _learn_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Trained parameters in this precision."""
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None and p.requires_grad and (p.dtype != dtype or p.device.type == "meta"):
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=dtype))


def _gathered(model: FusedModel) -> int:
    """What FSDP2 holds whole at the worst moment, where each block is sharded on its own.

    All that is in no block throughout, and two blocks: the one that runs and the next, which is being gathered; with
    their gradients where they are trained, until these are scattered.
    """
    size = {p: p.numel() * p.element_size() * (2 if p.requires_grad else 1) for p in model.parameters()}
    blocks = [
        sum(size.pop(p) for p in tower.model.get_submodule(path).parameters())
        for tower in model.towers
        for path in tower.blocks
    ]
    return sum(size.values()) + sum(sorted(blocks)[-2:])


def cost_table(made: CostEstimate, steps: int, gpu: str = "H100", utilisation: float = UTILISATION) -> pd.DataFrame:
    """One row: the plan, GB (1e9 bytes) on each GPU by kind at the worst moment, TFLOP of its step, and GPU hours."""
    kinds = {kind: made.step.at_peak.get(kind, 0) for kind in KINDS}
    kinds["transient"] += kinds.pop("update")
    kinds |= {"gathered": made.gathered, "peak": made.peak}
    step = made.step
    row = {
        "layout": made.plan.layout,
        "bridges": len(made.plan.pairs),
        "parameters": made.parameters,
        "trained parameters": made.trained,
        **{f"{kind} GB": size / 1e9 for kind, size in kinds.items()},
        "forward TFLOP": step.forward / 1e12,
        "backward TFLOP": step.backward / 1e12,
        "update TFLOP": step.update / 1e12,
        "GPUs": made.gpus,
        "GPU": gpu,
        "utilisation": utilisation,
        "steps": steps,
        "GPU hours": made.hours(steps, gpu, utilisation),
        "fits": made.peak <= GPUS[gpu].memory,
    }
    return pd.DataFrame([row])
