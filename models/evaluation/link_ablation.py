"""Measure which bridges of a trained fused model carry the text: break one link at a time and see what is lost.

HBridge (arXiv 2511.20520) chose its layers in this way: one cross-expert link of a trained model is broken, and the
drift of the features and the drop in image quality are measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...probes.arguments import check_arguments, checked
from ...probes.hooks.model_state import evaluating
from ...probes.similarity.intervals import mean_interval
from ...probes.single_contexts import single_context
from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.stimulus_set import Stimuli
from ..fusion.fused_model import FusedModel
from ..fusion.two_towers import UnderstandingStates
from ..generation.flow import velocity_loss
from ..generation.sampling import check_sampling
from ..scenes.scene import SIZE
from ..towers.tower import Tower
from ..towers.visiting import visiting
from .evaluation_options import EvaluationOptions
from .scores import draw_scenes

TIMES = (0.5, 0.75, 0.9)  # about the quartiles of the times that bridges are trained at
EFFECTS = ("drift", "loss_increase", "score_lost")


class _Effects(NamedTuple):
    """The effects of one broken link, or of all, on every stimulus, averaged over times.

    Attributes
    ----------
    drift : np.ndarray
        (sample, block).
    loss : np.ndarray
        The increase of the loss, (sample,).
    """

    drift: np.ndarray
    loss: np.ndarray


@single_context
def broken(fused: FusedModel, links: Iterable[int]) -> Iterator[None]:
    """Disable bridges while the context lasts.

    A bridged block without its bridge is the untouched expert's block, bit for bit. No weight is changed, and nothing
    is left behind, after an exception either.

    Parameters
    ----------
    fused : FusedModel
        The fused model.
    links : iterable of int
        The bridges, as indices into `fused.plan.pairs`.

    Raises
    ------
    ValueError
        The plan does not have such a bridge.
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

    Parameters
    ----------
    fused : FusedModel
        The trained model.
    stimuli : Stimuli
        Images to denoise with their captions on the bridges. The noise is a function of each id.
    times : sequence of float
        0 = clean image (excluded), 1 = noise. Effects are averaged over them.
    part, each, seed, **sampling
        The scenes that are drawn and checked, as in `evaluate` and `generate`, with the same captions and noise with
        the link and without. With `each` 0 none are drawn.
    batch_size : int
        Stimuli at once.

    Returns
    -------
    pd.DataFrame
        One row for each bridge and a last one, "all". Each of the three effects has its 95 % interval over stimuli or
        images, paired (Student's t, in `*_low` and `*_high`):

        - drift: the relative distance, norm of h' - h over norm of h, between the image states (token, dim) behind the
          generation tower's last block with the link broken (h') and whole (h).
        - loss_increase: of the velocity loss that bridges are trained with.
        - score_lost: the share of images that the checker finds correct, whole minus broken.

        The other columns are link, understanding, generation (blocks), samples, images, score (of the whole model).
        `attrs` hold metric, samples, images, timesteps, the towers' depths and what the evidence cost: seconds, and
        the model's training steps.

    Raises
    ------
    ValueError
        A time lies outside 0 to 1, the part does not exist, a number is out of its range, or an option is unknown.
    TypeError
        An argument is of another type.

    See Also
    --------
    descent_map : Says before any training which reads would lower the loss, where this needs a trained model.
    bridgework.probes.choose_bridges : Chooses bridges from the table by the rule "causal".

    Notes
    -----
    The scene checker reads images of 32 x 32 pixels. For a generator of other images, or with `each` 0, no scenes are
    drawn: images is 0, score and score_lost are missing, and the rule "causal" goes by loss_increase.

    Examples
    --------
    >>> links = ablate_links(fused, scene_stimuli("validation", 8), each=0)  # no scenes are drawn
    >>> links[["link", "drift", "loss_increase"]]
    """
    _check_arguments(fused, stimuli, times, batch_size)
    checked("each", each, int, least=0)
    check_arguments(EvaluationOptions, {"part": part, "seed": seed})
    check_sampling(**sampling)
    began = time.monotonic()
    effects = _effects(fused, stimuli, times, batch_size)
    whole = _correct(fused, part, each, seed, sampling)
    rows = []
    for label, links in _links(fused).items():
        with broken(fused, links):
            lost = whole - _correct(fused, part, each, seed, sampling)
        pair = fused.plan.pairs[links[0]] if label != "all" else (pd.NA, pd.NA)
        row: dict[str, Any] = {"link": label, "understanding": pair[0], "generation": pair[1]}
        for name, values in zip(EFFECTS, (effects[label].drift[:, -1], effects[label].loss, lost), strict=True):
            interval = map(float, mean_interval(values)) if len(values) else [np.nan] * 3
            row[name], row[f"{name}_low"], row[f"{name}_high"] = interval
        score = whole.mean() if len(whole) else np.nan
        rows.append(row | {"samples": len(stimuli), "images": len(whole), "score": score})
    table = pd.DataFrame(rows).astype({"understanding": "Int64", "generation": "Int64"})
    table.attrs |= {
        "metric": "score_lost" if len(whole) else "loss_increase",
        "samples": len(stimuli),
        "images": len(whole),
        "timesteps": list(times),
    }
    table.attrs["layers"] = [fused.plan.understanding_layers, fused.plan.generation_layers]
    table.attrs["cost"] = {"steps": fused.steps, "seconds": round(time.monotonic() - began, 1)}
    return table


def link_drift(
    fused: FusedModel, stimuli: Stimuli, *, times: Sequence[float] = TIMES, batch_size: int = 32
) -> pd.DataFrame:
    """Measure the drift of `ablate_links` behind every block of the generation tower.

    Parameters
    ----------
    fused, stimuli, times, batch_size
        As in `ablate_links`.

    Returns
    -------
    pd.DataFrame
        One row for each link and block: link, layer, depth, drift, low, high, samples. Before the broken bridge the
        drift is exactly 0.
    """
    _check_arguments(fused, stimuli, times, batch_size)
    rows = []
    for label, effect in _effects(fused, stimuli, times, batch_size).items():
        mean, low, high = mean_interval(effect.drift)
        for number, path in enumerate(fused.experts[1].blocks):
            row = {"link": label, "layer": path.rpartition(".")[2], "depth": (number + 1) / len(mean)}
            rows.append(row | {"drift": mean[number], "low": low[number], "high": high[number]})
    return pd.DataFrame(rows).assign(samples=len(stimuli))


def _check_arguments(fused: FusedModel, stimuli: Stimuli, times: Sequence[float], batch_size: int) -> None:
    """Raise the error that says what is wrong with an argument that `ablate_links` and `link_drift` share."""
    if not isinstance(fused, FusedModel):
        raise TypeError(f"fused is a {type(fused).__name__}: expected a FusedModel, whose links are bridges")
    if not isinstance(stimuli, Stimuli):
        raise TypeError(f"stimuli are a {type(stimuli).__name__}: open images with their captions by load_stimuli")
    remedy = "0 is the clean image, 1 is noise"
    checked("times", times, Sequence[float], above=0, most=1, remedy=remedy)
    checked("batch_size", batch_size, int, least=1)


def _links(fused: FusedModel) -> dict[str, list[int]]:
    """Return the bridges that are broken together: each alone, named after its two blocks, and all of them."""
    single = {f"{u}-{g}": [number] for number, (u, g) in enumerate(fused.plan.pairs)}
    return single | {"all": list(range(len(fused.plan.pairs)))}


def _effects(fused: FusedModel, stimuli: Stimuli, times: Sequence[float], batch_size: int) -> dict[str, _Effects]:
    """Measure drift and loss of every link."""
    links = _links(fused)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {label: [] for label in links}
    tower = fused.image_tower()
    with evaluating(fused):
        for start in range(0, len(stimuli), batch_size):
            batch = stimuli[start : start + batch_size]
            text = fused.condition([s.text for s in batch])
            clean = fused.targets(batch)
            noise = noise_for([s.id for s in batch], fused.size).to(fused.device)
            by_time = {label: [] for label in links}
            for time in times:
                noisy = time * noise + (1 - time) * clean
                states, loss = _pass(fused, tower, text, clean, noisy, time)
                for label, numbers in links.items():
                    with broken(fused, numbers):
                        others, worse = _pass(fused, tower, text, clean, noisy, time)
                    drift = (others - states).norm(dim=2) / states.norm(dim=2)  # (block, sample)
                    by_time[label].append((drift.T, worse - loss))
            for label, parts in by_time.items():
                drifts, losses = zip(*parts, strict=True)
                found[label].append((torch.stack(drifts).mean(0), torch.stack(losses).mean(0)))
    return {
        label: _Effects(*(torch.cat(batches).double().cpu().numpy() for batches in zip(*parts, strict=True)))
        for label, parts in found.items()
    }


@torch.inference_mode()
def _pass(
    fused: FusedModel, tower: Tower, text: UnderstandingStates, clean: Tensor, noisy: Tensor, time: float
) -> tuple[Tensor, Tensor]:
    """Denoise once: image states (block, sample, token * dim), and the loss of each sample (sample,)."""
    times = torch.full((len(clean),), time, device=clean.device)
    states: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[[Tensor], None]:
        def visit(state: Tensor) -> None:
            states[number] = state.flatten(1).clone()  # the next block may change it in place

        return visit

    with visiting(tower, {number: keep(number) for number in range(len(tower.blocks))}):
        predicted = fused.predict(noisy, text, times)
    rows = [slice(row, row + 1) for row in range(len(clean))]
    losses = [velocity_loss(predicted[row], clean[row], times[row]) for row in rows]
    return torch.stack([states[number] for number in range(len(tower.blocks))]), torch.stack(losses)


def _correct(fused: FusedModel, part: str, each: int, seed: int, sampling: dict[str, Any]) -> np.ndarray:
    """Return 1 for every drawn image that the checker finds correct, else 0, (image,); empty if none is drawn."""
    if not each or fused.pixels != (3, SIZE, SIZE):
        return np.empty(0)
    with evaluating(fused):
        return np.array([drawn.correct for drawn in draw_scenes(fused, part, each, seed, **sampling)], float)
