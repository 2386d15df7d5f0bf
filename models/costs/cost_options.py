"""Declare the options of `estimate_cost`; this module imports no model, so that the command's help comes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...probes.arguments import check_options, checked, option
from ...probes.plans.layout_table import LAYOUTS, TRUNKS
from ..bridges.trained_names import TRAINED

# An assumption: the Llama 3 report has 38 to 43 % of the peak on H100s (arXiv 2407.21783). Time some steps of your own.
UTILISATION = 0.4
COUNTED = {"least": 1, "most": 10**6}
PUBLISHED = Path(__file__).parent / "published_configs"
PRECISIONS = ("float32", "mixed", "bf16")
BRIDGED = tuple(name for name in LAYOUTS if name not in TRUNKS)


class Gpu(NamedTuple):
    """Hold what the maker's data sheet says of a GPU.

    Attributes
    ----------
    memory : float
        Bytes.
    bfloat16, float32 : float
        Operations a second on dense matrices in this format.
    """

    memory: float
    bfloat16: float
    float32: float


GPUS = {
    "H100": Gpu(80e9, 989.4e12, 66.9e12),  # SXM; nvidia.com/en-us/data-center/h100, halved where sparsity is counted
    "A100": Gpu(80e9, 312e12, 19.5e12),  # nvidia.com/en-us/data-center/a100
}


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

    Raises
    ------
    ValueError, TypeError
        A field has an unknown name, a number out of its range, or another type.

    Notes
    -----
    The metadata of a field are keywords of `argparse.ArgumentParser.add_argument`. The help of a field whose default is
    None says what None stands for.
    """

    layout: Sequence[str] = option(
        ("H",),
        "What to compare, one column each: dense, H, 'double fusion', last, soft, or files of plans (JSON).",
        nargs="+",
        metavar="LAYOUT",
    )
    trained: str = option("bridges", "What is trained: bridges, lora or all.", {"known": TRAINED})
    batch: int = option(1, "How many samples a GPU sees in one step.", COUNTED)
    tokens: int = option(128, "How many tokens a caption has.", COUNTED)
    resolution: int | None = option(
        None,
        "The side of the images that are drawn, in pixels. (default: the generation expert's own)",
        {"least": 1, "most": 10**5},
    )
    precision: str = option(
        "mixed",
        "The number format: float32, mixed (autocast), or bf16 (frozen weights in bfloat16 as well).",
        {"known": PRECISIONS},
    )
    checkpointing: bool = option(False, "Compute blocks again in the backward pass, to save memory.")
    gpus: int = option(1, "How many GPUs share the model; FSDP2 shards it among them.", COUNTED)
    replicated: bool = option(False, "Keep the whole model on every GPU.")
    steps: int = option(10_000, "How many training steps the GPU hours are counted for.", {"least": 1, "most": 10**12})
    gpu: str = option("H100", "The GPU: H100 or A100.", {"known": tuple(GPUS)})
    utilisation: float = option(
        UTILISATION,
        "The share of the GPU's peak rate that is reached; an assumption.",
        {"above": 0, "most": 1, "remedy": "it is a share of the GPU's peak rate"},
    )

    def __post_init__(self) -> None:
        check_options(self)
        for name in self.layout:
            if not name.endswith(".json"):
                check_bridged(name)


def published_names() -> tuple[str, ...]:
    """Return the names of the public experts whose configs are shipped."""
    return tuple(path.stem for path in sorted(PUBLISHED.glob("*.json")))


def check_bridged(layout: object) -> None:
    """Raise the error that says what is wrong with a layout whose costs are asked for.

    Parameters
    ----------
    layout : object
        A name.

    Raises
    ------
    ValueError
        It is unknown, or one trunk, which fuses no two experts.
    """
    if isinstance(layout, str) and layout in TRUNKS:
        raise ValueError(f"one trunk fuses no two experts: choose another layout than {layout!r}, {', '.join(BRIDGED)}")
    checked("layout", layout, str, known=BRIDGED)
