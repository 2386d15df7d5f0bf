"""Which bridges of a trained fused model carry the text: break one link at a time and see what is lost.

HBridge (arXiv 2511.20520) chose its layers so: one cross-expert link of a trained model is broken, and the drift of the
features and the drop in image quality are measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...probes.hooks.capturing import capture
from ...probes.hooks.model_state import evaluating
from ...probes.similarity.intervals import mean_interval
from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimuli
from ..fusion.fused_model import FusedModel
from ..fusion.two_towers import UnderstandingStates
from ..generation.flow import noisy_images, velocity_loss
from .scores import draw_scenes

TIMES = (0.5, 0.75, 0.9)  # about the quartiles of the times that bridges are trained at


class _Effects(NamedTuple):
    """What one broken link (or all) does to every stimulus, averaged over times."""

    drift: np.ndarray  # (sample, block)
    loss: np.ndarray  # (sample,), the increase


@contextmanager
def broken(fused: FusedModel, links: Iterable[int]) -> Iterator[None]:
    """While the context lasts, these bridges (numbers of `fused.plan.pairs`) hand nothing over.

    A bridged block without its bridge is the untouched expert's block, bit for bit. No weight is changed, and nothing
    is left behind, after an exception either.

    Raises ValueError for a bridge that the plan does not have.
    """
    links = list(links)
    if wrong := [link for link in links if not 0 <= link < len(fused.bridges)]:
        raise ValueError(f"no bridge {wrong[0]}: the plan has bridges 0 to {len(fused.bridges) - 1}")

    before = fused.disabled_bridges
    fused.disabled_bridges = before | set(links)
    try:
        yield
    finally:
        fused.disabled_bridges = before


def ablate_links(
    fused: FusedModel,
    stimuli: Stimuli,
    *,
    times: Sequence[float] = TIMES,
    part: str = "validation",
    each: int = 20,
    seed: int = 0,
    batch_size: int = 32,
    **sampling: Any,
) -> pd.DataFrame:
    """Break each bridge of a trained fused model alone, then all of them, and measure what that changes.

    >>> ablate_links(fused, scene_stimuli("validation", 64))[["link", "drift", "loss_increase", "score_lost"]]

    Parameters
    ----------
    stimuli : images to denoise with their captions on the bridges; the noise is a function of each id.
    times : 0 = clean image, 1 = noise; effects are averaged over them.
    part, each, seed, sampling : the scenes that are drawn and checked, as in `evaluate` and `generate`; the same
        captions and noise with the link and without.

    `attrs` of the table hold the towers' depths and what the evidence cost: seconds, and the model's training steps.

    Returns one row per bridge and a last one, "all". Each of the three effects has its 95 % interval over stimuli or
    images, paired (Student's t, in `*_low` and `*_high`):
        drift : |h' - h| / |h|, the relative distance between the image states (token, dim) behind the generation
            tower's last block with the link broken (h') and whole (h).
        loss_increase : of the velocity loss that bridges are trained with.
        score_lost : the share of images that the checker finds correct, whole minus broken.
    The other columns: link, understanding, generation (blocks), samples, images, score (of the whole model).

    Raises ValueError for times outside 0 to 1, or a part that does not exist.
    """
    began = time.monotonic()
    effects = _effects(fused, stimuli, times, batch_size)
    whole = _correct(fused, part, each, seed, sampling)
    rows = []
    for label, links in _links(fused).items():
        with broken(fused, links):
            lost = whole - _correct(fused, part, each, seed, sampling)
        pair = fused.plan.pairs[links[0]] if label != "all" else (pd.NA, pd.NA)
        row: dict[str, Any] = {"link": label, "understanding": pair[0], "generation": pair[1]}
        measured = {"drift": effects[label].drift[:, -1], "loss_increase": effects[label].loss, "score_lost": lost}
        for name, values in measured.items():
            row[name], row[f"{name}_low"], row[f"{name}_high"] = map(float, mean_interval(values))
        rows.append(row | {"samples": len(stimuli), "images": len(whole), "score": whole.mean()})
    table = pd.DataFrame(rows).astype({"understanding": "Int64", "generation": "Int64"})
    table.attrs["layers"] = [fused.plan.understanding_layers, fused.plan.generation_layers]
    table.attrs["cost"] = {"steps": fused.steps, "seconds": round(time.monotonic() - began, 1)}
    return table


def link_drift(
    fused: FusedModel, stimuli: Stimuli, *, times: Sequence[float] = TIMES, batch_size: int = 32
) -> pd.DataFrame:
    """The drift of `ablate_links` behind every block of the generation tower.

    Returns one row per link and block: link, layer, depth, drift, low, high, samples. Before the broken bridge the
    drift is exactly 0.
    """
    rows = []
    for label, effect in _effects(fused, stimuli, times, batch_size).items():
        mean, low, high = mean_interval(effect.drift)
        for number, path in enumerate(fused.experts[1].blocks):
            row = {"link": label, "layer": path.rpartition(".")[2], "depth": (number + 1) / len(mean)}
            rows.append(row | {"drift": mean[number], "low": low[number], "high": high[number]})
    return pd.DataFrame(rows).assign(samples=len(stimuli))


def _links(fused: FusedModel) -> dict[str, list[int]]:
    """What is broken together: each bridge, named after its two blocks, and all of them."""
    single = {f"{u}-{g}": [number] for number, (u, g) in enumerate(fused.plan.pairs)}
    return single | {"all": list(range(len(fused.plan.pairs)))}


def _effects(fused: FusedModel, stimuli: Stimuli, times: Sequence[float], batch_size: int) -> dict[str, _Effects]:
    if not times or not all(0 < time <= 1 for time in times):
        raise ValueError(f"times {tuple(times)} must lie in 0 (clean image, excluded) to 1 (noise), at least one")
    links = _links(fused)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {label: [] for label in links}
    with evaluating(fused):
        for start in range(0, len(stimuli), batch_size):
            batch = stimuli[start : start + batch_size]
            text = fused.condition([s.text for s in batch])
            at = {label: [] for label in links}
            for time in times:
                states, loss = _pass(fused, batch, text, time)
                for label, numbers in links.items():
                    with broken(fused, numbers):
                        others, worse = _pass(fused, batch, text, time)
                    drift = (others - states).norm(dim=2) / states.norm(dim=2)  # (block, sample)
                    at[label].append((drift.T, worse - loss))
            for label, parts in at.items():
                drifts, losses = zip(*parts, strict=True)
                found[label].append((torch.stack(drifts).mean(0), torch.stack(losses).mean(0)))
    return {
        label: _Effects(*(torch.cat(each).double().cpu().numpy() for each in zip(*parts, strict=True)))
        for label, parts in found.items()
    }


@torch.inference_mode()
def _pass(fused: FusedModel, batch: Stimuli, text: UnderstandingStates, time: float) -> tuple[Tensor, Tensor]:
    """One denoising pass: image states (block, sample, token * dim), and the loss of each sample (sample,)."""
    side = fused.generation.config["sample_size"]
    noisy, at = (each.to(fused.device) for each in noisy_images(batch, True, time, side))
    blocks = fused.experts[1].blocks
    with capture(fused.generation, blocks, stop=False) as taps:
        predicted = fused.predict(noisy, text, at)
    image = to_pixels([s.image for s in batch], side).to(fused.device)
    losses = [velocity_loss(*(each[row : row + 1] for each in (predicted, image, at))) for row in range(len(batch))]
    return torch.stack([taps[path]["image"].flatten(1) for path in blocks]), torch.stack(losses)


def _correct(fused: FusedModel, part: str, each: int, seed: int, sampling: dict[str, Any]) -> np.ndarray:
    """1 for every image that the checker finds correct, else 0, (image,)."""
    with evaluating(fused):
        return np.array([drawn.correct for drawn in draw_scenes(fused, part, each, seed, **sampling)], float)
