"""Compare what diffusers pipelines give their denoisers in their own loops with what they are given here.

    python -m bridgework.benchmarks.pipelines.pipeline_conventions  # minutes; writes results/pipelines.csv

Pipelines are tiny, with random weights. In the loop an oracle stands in the denoiser's place, which knows image and
noise; at each call of the loop, the same image, noise and time are shown here.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from ...models.experts.diffusion.denoisers import learn_convention, loop_differences
from ...models.experts.diffusion.opening_pipelines import pipeline_expert
from ...models.scenes.composing import scene_stimuli
from ...tests.models.odd_pipelines import ODD
from ...tests.models.tiny_pipelines import SIDES, TINY
from .rare_pipelines import RARE

RESULTS = Path(__file__).parents[1] / "results"
TEXTS = ("a dot", "two red rings")


def compare_pipeline(family: str, build: Callable[[], Any]) -> dict[str, Any]:
    """Open a tiny pipeline and compare both ways.

    Parameters
    ----------
    family : str
        What it is called.
    build : callable
        Returns it.

    Returns
    -------
    dict
        A row of the table: pipeline, class, verdict ("same", "image refused", "text refused" or "refused"), the
        convention, the largest difference of any argument over its largest value, and the sentence of a refusal.
    """
    torch.manual_seed(7)
    pipe = build()
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    row: dict[str, Any] = {"pipeline": family, "class": type(pipe).__name__, "verdict": "same"}
    try:
        expert = pipeline_expert(pipe, family, SIDES.get(family, 32))
        moments, drawn = learn_convention(expert)
    except (ValueError, RuntimeError) as error:
        return row | {"verdict": "refused", "sentence": str(error)}
    convention = expert.convention
    row["schedule"] = "flow matching" if convention.flow else "variance preserving"
    row["denoiser returns"] = convention.target
    whole = [m for m in moments[1:] if convention.flow or float(m.timestep).is_integer()]
    row["largest difference"] = max(max(loop_differences(expert, m, drawn).values()) for m in whole)
    stimuli = [s._replace(text=text) for s, text in zip(scene_stimuli("train", 2), TEXTS, strict=True)]
    for modality in expert.modalities:
        shown = stimuli[: getattr(expert, "max_batch", 2)]
        try:
            with torch.inference_mode():
                expert.show(shown, (modality,), "generation", 0.3).run()
        except (ValueError, RuntimeError) as error:
            row |= {"verdict": f"{modality} refused", "sentence": str(error)}
    return row


def main() -> None:
    """Compare all tiny pipelines and write the table."""
    rows = [compare_pipeline(*pair) for pair in tqdm([*(TINY | ODD | RARE).items()])]
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS / "pipelines.csv", index=False, float_format="%.1e")
    print(table.to_string(max_colwidth=60))


if __name__ == "__main__":
    os.environ["TQDM_MININTERVAL"] = "5"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    main()
