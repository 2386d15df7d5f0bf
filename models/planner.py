"""What fusing two experts takes before anything is downloaded: memory by kind, operations and GPU hours.

The fused model is built from the experts' configs and one step of its training is run as it would be, on tensors
without data (models/simulation.py). Nothing is estimated but what the step cannot tell: how fast a GPU is at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..probes.layouts import lay_out
from ..probes.plans import TRUNKS, BridgePlan
from .fusion import FusedModel
from .joined import Fusion
from .published import Drawer, Reader, build_drawer, build_reader
from .simulation import Step, simulate
from .training import _optimizers

PRECISIONS = {"bf16": torch.bfloat16, "float32": torch.float32}


class Gpu(NamedTuple):
    """By its maker's data sheet: bytes of memory; operations a second on dense matrices, bfloat16 and float32."""

    memory: float
    bf16: float
    float32: float


GPUS = {
    "H100": Gpu(80e9, 989.4e12, 66.9e12),  # SXM; nvidia.com/en-us/data-center/h100, halved where sparsity is counted
    "A100": Gpu(80e9, 312e12, 19.5e12),  # nvidia.com/en-us/data-center/a100
}
# An assumption: the Llama 3 report has 38 to 43 % of the peak on H100s (arXiv 2407.21783). Time a few steps of your own.
UTILISATION = 0.4


class Cost(NamedTuple):
    """What one training step of a plan takes on one of its GPUs.

    Attributes:
        step: bytes by kind, and operations.
        gathered: bytes of the sharded weights that are whole at one time (FSDP2), on top of `step`.
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
        return self.gpus * steps * self.operations / (getattr(GPUS[gpu], self.precision) * utilisation) / 3600


def cost(
    understanding: str | Path,
    generation: str | Path,
    layout: str | BridgePlan,
    *,
    trained: str = "bridges",
    batch: int = 1,
    tokens: int = 128,
    resolution: int | None = None,
    precision: str = "bf16",
    checkpointing: bool = False,
    gpus: int = 1,
    replicated: bool = False,
) -> Cost:
    """What a training step of the two experts, fused, takes.

    >>> made = cost("qwen2.5-vl-7b", "wan2.2-ti2v-5b", "H", batch=8, checkpointing=True)
    >>> made.peak, made.hours(20_000)

    What is trained is float32, with gradients and optimizer as in `train`; under "bf16" frozen weights are bfloat16 and
    the pass runs under autocast, as with `ACCELERATE_MIXED_PRECISION=bf16`. Captions come tokenized, images as latents
    and the generation expert's own (null) text as states: no autoencoder and no text encoder is in memory.

    Args:
        understanding, generation: names or folders, as `published.config_of` takes them.
        layout: its published plan is laid out for the experts' depths; or a plan.
        trained: "bridges", "lora" (as well) or "all".
        batch: samples on each GPU.
        tokens: of each caption.
        resolution: pixels a side of the stills that are drawn; None is the generation expert's own.
        checkpointing: blocks are computed again in the backward pass.
        gpus: more than one shard weights, gradients and optimizer among them (FSDP2), unless they are `replicated`.

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
    sharded = gpus > 1 and not replicated
    with FakeTensorMode():
        dtype = PRECISIONS[precision]
        experts = build_reader(understanding, tokens, dtype), build_drawer(generation, resolution, dtype)
        depths = len(experts[0].blocks), len(experts[1].blocks)
        plan = layout if isinstance(layout, BridgePlan) else lay_out(layout, *depths)
        model = _Planned(*experts, plan)
        with torch.device("meta"):  # peft moves adapters to their layer, which tensors without data refuse
            model.adapt(trained)
        _learn_in_float(model)
        if checkpointing:
            experts[0].model.gradient_checkpointing_enable({"use_reentrant": False})
            experts[1].model.enable_gradient_checkpointing()
        model.train()

        def loss() -> Tensor:
            image = torch.zeros(batch, *model.size)
            given = {
                "image": image,
                "noise": torch.zeros_like(image),
                "time": torch.ones(batch),
                "caption": [""] * batch,
            }
            with torch.autocast("cpu", dtype, enabled=precision == "bf16"):
                return model.loss(given)

        named = [(name, p) for name, p in model.trained().named_parameters() if p.requires_grad]
        optimizers = _optimizers(named, 1e-2, 1e-2, lambda name: 1.0, together=sharded)
        kinds = ("weights", "trained", "gradients", "optimizer", "update")
        step = simulate(model, loss, optimizers, dict.fromkeys(kinds, 1 / gpus) if sharded else None)
        return Cost(
            plan,
            step,
            _gathered(model, experts) if sharded else 0,
            sum(p.numel() for p in model.parameters()),
            sum(p.numel() for _, p in named),
            gpus,
            precision,
        )


class _Planned(FusedModel):
    """A fused model of experts without data: where their tokens stand is known, for it cannot be measured."""

    def __init__(self, understanding: Reader, generation: Drawer, plan: BridgePlan) -> None:
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


def _learn_in_float(model: nn.Module) -> None:
    """Trained parameters in float32, as mixed precision keeps them."""
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None and p.requires_grad and (p.dtype != torch.float32 or p.device.type == "meta"):
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=torch.float32))


def _gathered(model: FusedModel, experts: Sequence[Reader | Drawer]) -> int:
    """Of sharded blocks two are whole at a time: the one that runs and the next, which is being gathered.

    The largest of all: a block with its gradient, if it is trained, until that is scattered.
    """
    blocks = [expert.model.get_submodule(path) for expert in experts for path in expert.blocks]
    sizes = [
        sum(p.numel() * p.element_size() * (2 if p.requires_grad else 1) for p in block.parameters())
        for block in blocks
    ]
    return sum(sorted(sizes)[-2:])


def table(made: Cost, steps: int, gpu: str = "H100", utilisation: float = UTILISATION) -> pd.DataFrame:
    """One row: the plan, bytes of each kind on each GPU at the worst moment, operations of a step and GPU hours."""
    kinds = {f"{kind}_bytes": size for kind, size in made.step.at_peak.items()}
    kinds["transient_bytes"] = kinds.get("transient_bytes", 0) + kinds.pop("update_bytes", 0)
    row = {
        "layout": made.plan.layout,
        "bridges": len(made.plan.pairs),
        "parameters": made.parameters,
        "trained_parameters": made.trained,
        **kinds,
        "gathered_bytes": made.gathered,
        "peak_bytes": made.peak,
        "forward_flops": made.step.forward,
        "backward_flops": made.step.backward,
        "update_flops": made.step.update,
        "steps": steps,
        "gpus": made.gpus,
        "gpu": gpu,
        "utilisation": utilisation,
        "gpu_hours": made.hours(steps, gpu, utilisation),
        "fits": made.peak <= GPUS[gpu].memory,
    }
    return pd.DataFrame([row])
