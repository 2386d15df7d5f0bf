"""Declare the options of `estimate_cost`; this module imports no model, so that the command's help comes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# An assumption: the Llama 3 report has 38 to 43 % of the peak on H100s (arXiv 2407.21783). Time some steps of your own.
UTILISATION = 0.4


@dataclass(frozen=True)
class CostOptions:
    """Hold the options of `estimate_costs`, each with the sentence that `bridgework estimate --help` shows.

    Attributes
    ----------
    layout : sequence of str
        Layouts, or files of plans (JSON); each has one row in the table.
    trained, batch, tokens, resolution, precision, checkpointing, gpus, replicated
        As the arguments of `estimate_cost` (models/costs/estimate.py).
    steps, gpu, utilisation
        As the arguments of `cost_table`.

    Notes
    -----
    The metadata of a field are keywords of `argparse.ArgumentParser.add_argument`. The help of a field whose default is
    None says what None stands for.
    """

    layout: Sequence[str] = field(
        default=("H",),
        metadata={
            "help": "What to compare, one column each: dense, H, 'double fusion', last, soft, or files of plans "
            "(JSON).",
            "nargs": "+",
            "metavar": "LAYOUT",
        },
    )
    trained: str = field(default="bridges", metadata={"help": "What is trained: bridges, lora or all."})
    batch: int = field(default=1, metadata={"help": "How many samples a GPU sees in one step."})
    tokens: int = field(default=128, metadata={"help": "How many tokens a caption has."})
    resolution: int | None = field(
        default=None,
        metadata={"help": "The side of the images that are drawn, in pixels. (default: the generation expert's own)"},
    )
    precision: str = field(
        default="mixed",
        metadata={
            "help": "The number format: float32, mixed (autocast), or bf16 (frozen weights in bfloat16 as well)."
        },
    )
    checkpointing: bool = field(
        default=False, metadata={"help": "Compute blocks again in the backward pass, to save memory."}
    )
    gpus: int = field(default=1, metadata={"help": "How many GPUs share the model; FSDP2 shards it among them."})
    replicated: bool = field(default=False, metadata={"help": "Keep the whole model on every GPU."})
    steps: int = field(default=10_000, metadata={"help": "How many training steps the GPU hours are counted for."})
    gpu: str = field(default="H100", metadata={"help": "The GPU: H100 or A100."})
    utilisation: float = field(
        default=UTILISATION, metadata={"help": "The share of the GPU's peak rate that is reached; an assumption."}
    )
