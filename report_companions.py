"""Measure what helps to read a report's curves: samples, ranks, patches, ceilings, and controls of scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import pandas as pd
import torch

from .models.scenes.scene_controls import are_scenes, with_both_controls
from .probes.curves.curve import alignment_curve
from .probes.curves.curve_companions import effective_rank, halves_ceiling, score_by_samples, spatial_similarity
from .probes.extraction.token_selection import read_grids
from .probes.features.features import Features
from .probes.features.layer_features import LayerFeatures
from .probes.metrics import METRICS
from .probes.stimuli.stimulus_set import Stimuli

IMAGES = 64  # whose patches are compared: their similarity is a mean over images
CELLS = 16  # rows and columns of a grid of patches at most, as many as published ones have
SCRAMBLED, REMOVED = "words scrambled", "an object removed"  # names of controls in curves
FEWEST = 24  # scenes of a control's curve
Extract = Callable[..., Features]  # (expert, side, stimuli, name of the store, **options)


def companion_tables(
    image: LayerFeatures, text: LayerFeatures, parts: Mapping[tuple[str, str], LayerFeatures], metric: str, k: int
) -> dict[str, pd.DataFrame]:
    """Return the tables that help to read the curve of two experts, from features that are there.

    Parameters
    ----------
    image : LayerFeatures
        The generation expert's images, of one timestep.
    text : LayerFeatures
        One layer of the understanding expert's texts.
    parts : mapping of (str, str) to LayerFeatures
        All features of one timestep, by side and modality.
    metric, k
        As of `alignment_curve`.

    Returns
    -------
    dict of DataFrame
        As `figures.companions` draws them.
    """
    ranks = [effective_rank(part).assign(side=side, modality=name) for (side, name), part in parts.items()]
    found = {"effective rank": pd.concat(ranks, ignore_index=True)}
    if not text.groups:  # rows of several captions of one image are no samples of their own
        found["scores by samples"] = score_by_samples(image, text, metric, k)
        if not METRICS[metric].is_distance:
            found["ceiling of halves"] = halves_ceiling(image, text, metric, k)
    return found


def patch_table(
    experts: Mapping[str, Any], stimuli: Stimuli, extract: Extract
) -> tuple[pd.DataFrame | None, list[str]]:
    """Return the spatial similarity of the patches of each expert that is shown images, and what is to be said of it.

    Parameters
    ----------
    experts : mapping of str to Subject
        By side.
    stimuli : Stimuli
        What is shown; the first 64 are used.
    extract : callable
        Extracts features of one expert into the report's folder.

    Returns
    -------
    DataFrame or None
        A row for each side and layer; None where no expert has a grid of patches.
    list of str
        Sentences on experts without one.
    """
    tables, notes = [], []
    for side, expert in experts.items():
        if "image" not in expert.modalities:
            continue
        shown = stimuli[:IMAGES]
        try:
            cells = grid_cells(expert, side, shown)
            part = extract(expert, side, shown, f"{side} patches", pooling=f"grid:{cells}")["image"]
            tables.append(spatial_similarity(part).assign(side=side))
        except ValueError as error:
            notes.append(f"The patches of {expert.name} are not compared: {error}.")
    return (pd.concat(tables, ignore_index=True) if tables else None), notes


def grid_cells(expert: Any, side: str, stimuli: Stimuli) -> int:
    """Return how many rows and columns the grid has on which an expert's patches are compared.

    Parameters
    ----------
    expert : Subject
        The expert.
    side : str
        "understanding" or "generation".
    stimuli : Stimuli
        What it is shown.

    Returns
    -------
    int
        The expert's own rows, where it says them and they are at most 16; of more, a divisor of them, so that a cell is
        a whole number of patches, or 16 where there is none from 4 on. 8 where it does not say its rows.

    Raises
    ------
    ValueError
        The patches lie in one row.
    """
    task = side if side in expert.tasks else expert.tasks[0]
    timestep = 0.5 if task in expert.timed_tasks else None
    given = expert.show([stimuli[0]], ("image",), task, timestep).grids.get("image")
    if given is None:
        return CELLS // 2
    ((pictures),) = read_grids(given, 1, "image")
    rows = min(min(grid[1:]) for grid in pictures)
    if rows < 2:
        raise ValueError("they lie in one row")
    whole = next(rows // patches for patches in range(ceil(rows / CELLS), rows + 1) if rows % patches == 0)
    return whole if whole >= min(rows, CELLS // 4) else CELLS


def scene_controls(
    experts: Mapping[str, Any],
    features: Mapping[str, Features],
    stimuli: Stimuli,
    extract: Extract,
    metric: str,
    k: int,
) -> tuple[list[pd.DataFrame], str]:
    """Return the curves of scenes beside those with words scrambled and with an object removed, and a sentence on them.

    All three are of the same scenes, those of at least two objects, so that their differences are paired.

    Parameters
    ----------
    experts : mapping of str to Subject
        By side.
    features : mapping of str to Features
        Of the stimuli, by side.
    stimuli : Stimuli
        What was shown.
    extract : callable
        Extracts features of one expert into the report's folder.
    metric, k
        As of `alignment_curve`.

    Returns
    -------
    list of DataFrame
        A table for each curve, with its controls in the column control; none for other stimuli than scenes.
    str
        What was done, or why it was not.
    """
    unavailable = "The controls with words scrambled and with an object removed are exact for bundled scenes alone"
    if not are_scenes(stimuli):
        return [], f"{unavailable}, and are not measured on {stimuli.name}."
    needed = max(FEWEST, 2 * k + 1)
    several = sum(" , " in text for text in stimuli.texts)
    some, both = with_both_controls(stimuli) if several else (stimuli[:1], stimuli[:1])
    if min(several, len(some)) < needed:
        return [], f"{unavailable}, and need {needed} scenes of at least two objects: show more scenes."
    changed = {side: extract(expert, side, both, f"{side} controls") for side, expert in experts.items()}
    rows = [stimuli.ids.index(id) for id in some.ids]
    true = {side: {name: _rows(part, rows) for name, part in found.items()} for side, found in features.items()}
    curves = []
    for x_side, y_side in (("understanding",) * 2, ("generation",) * 2, ("generation", "understanding")):
        if "image" not in true[x_side] or "text" not in true[y_side]:
            continue
        image, text = true[x_side]["image"], true[y_side]["text"]
        # What is missing in the image, and what is said otherwise, are compared with the true other side alone.
        removed, mixed = (replace(part, digests={}) for part in (changed[x_side]["image"], changed[y_side]["text"]))
        if x_side != y_side:
            text, mixed = text.at_layer("last"), mixed.at_layer("last")
        pairs = {"none": (image, text), SCRAMBLED: (image, mixed), REMOVED: (removed, text)}
        measured = [alignment_curve(x, y, metric, k).assign(control=name) for name, (x, y) in pairs.items()]
        curves.append(pd.concat(measured, ignore_index=True))
    of = f"the {len(some)} scenes of at least two objects, as are the curves beside them"
    return curves, f"The controls with words scrambled and with an object removed are of {of}."


def _rows(part: LayerFeatures, rows: list[int]) -> LayerFeatures:
    """Return the features of some of the samples."""
    ids = tuple(part.samples[row] for row in rows)
    digests = {id: part.digests[id] for id in ids if id in part.digests}
    values = part.values.index_select(-2, torch.tensor(rows))
    return replace(part, values=values, samples=ids, digests=digests, cleaned=None)
