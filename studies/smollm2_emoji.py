"""Fuse a real language model with a small generator: SmolLM2-135M with emoji-dit, at the aligned blocks or the middle.

`bridgework reproduce emoji` measures the layer map, trains both plans by studies/recipes/smollm2-emoji.yaml and writes
map.csv, alignment.json, middle.json, learning.csv, losses.csv, likeness.csv and samples.png. It takes half an hour on
one core. Training that was stopped resumes. docs/smollm2_emoji.md shows the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..models.evaluation.image_distance import image_features
from ..models.experts.opening import open_expert
from ..models.generation.flow import flow_loss
from ..models.generation.sampling import generate
from ..models.training.batches import BRIDGE_TIME_SHIFT, stimuli_batch
from ..models.training.recipe import Recipe, run_recipe
from ..models.training.scene_batches import emoji_part
from ..models.training.validation import SEED
from ..probes.extraction.extracting import extract_cached
from ..probes.files import write_atomically, write_csv
from ..probes.plans.choosing import choose_bridges
from ..probes.similarity.intervals import mean_interval
from ..probes.similarity.scoring import similarity_map
from ..probes.stimuli.images import to_image, to_pixels
from ..probes.stimuli.stimulus_set import Stimuli

ROOT = Path(__file__).parent
RESULTS, RECIPE = ROOT / "results" / "smollm2_emoji", ROOT / "recipes" / "smollm2-emoji.yaml"
PLANS = ("alignment", "middle")
PARTS = ("train", "validation")
BRIDGES, RANK = 4, 32
BATCHES = 12  # batches of 32 emoji of each part: what losses are measured on
NAMES = 32  # names of each part that are drawn
SHOWN = 8  # of these, in samples.png
SIDE = 64  # pixels per side of an emoji in samples.png


def plan_both(results: Path, runs: Path) -> None:
    """Measure the layer map of both experts on the emoji that train their bridges, and write it with the two plans.

    Parameters
    ----------
    results : Path
        Folder of map.csv and of the plans. Nothing is measured if it holds both plans.
    runs : Path
        Folder of the stores of features.
    """
    if all((results / f"{name}.json").exists() for name in PLANS):
        return
    emoji, recipe = emoji_part("train"), Recipe.load(RECIPE)
    reader, drawer = (open_expert(str(name)) for name in (recipe.understanding, recipe.generation))
    understanding = extract_cached(runs, reader, emoji)["text"]
    generation = extract_cached(runs, drawer, emoji, timesteps=(0.5,))["image"].at(0.5)
    heat = similarity_map(understanding, generation, metric="mutual_knn")
    results.mkdir(parents=True, exist_ok=True)
    write_csv(results / "map.csv", heat.round(4), index=True)
    for name in PLANS:
        replace(choose_bridges(heat, rule=name, bridges=BRIDGES), rank=RANK).save(results / f"{name}.json")


def losses(model: Any, part: str) -> pd.DataFrame:
    """Return the velocity loss on emoji with their own names, with the names of others, and with none.

    Parameters
    ----------
    model : object
        A generator: the expert or a fused model.
    part : str
        Part of the emoji, by the hash of their names.

    Returns
    -------
    pandas.DataFrame
        One row each: names, loss (the mean over batches), more, the loss beyond that with their own names, with low
        and high (95 %, Student's t over batches, which share images, noise and times), and batches.
    """
    emoji, found = emoji_part(part), []
    for number in range(BATCHES):
        batch = stimuli_batch(number, SEED, emoji, time_shift=BRIDGE_TIME_SHIFT, caption_dropout=0.0)
        captions, row = batch["caption"], []
        for names in (captions, captions[1:] + captions[:1], [""] * len(captions)):
            with torch.inference_mode():
                row.append(float(flow_loss(model, batch | {"caption": names})))
        found.append(row)
    values = np.array(found)  # (batch, names)
    more, low, high = mean_interval(values - values[:, :1])
    rows = {"names": ["own", "others'", "none"], "loss": values.mean(0), "more": more, "low": low, "high": high}
    return pd.DataFrame(rows).assign(batches=BATCHES)


def likeness(images: Sequence[Image.Image], emoji: Stimuli, expert: Any) -> dict[str, float]:
    """Return how much nearer an image drawn of a name is to its emoji than to those of other names.

    Parameters
    ----------
    images : sequence of PIL.Image.Image
        Images drawn of the names.
    emoji : Stimuli
        The emoji of these names, in the same order.
    expert : Subject
        An image expert; its last layer is compared.

    Returns
    -------
    dict
        `nearer`, the mean difference of cosines of centred features, with `low` and `high` (95 %, over names), and
        `first`, the share of names whose own emoji is the nearest of all.
    """
    layer = str(len(expert.blocks) - 1)
    drawn, real = (image_features(pictures, expert, layer) for pictures in (images, [s.image for s in emoji]))
    drawn, real = (features - features.mean(0) for features in (drawn, real))
    drawn, real = (features / np.linalg.norm(features, axis=1, keepdims=True) for features in (drawn, real))
    cosines = drawn @ real.T
    own, count = np.diag(cosines), len(cosines)
    nearer, low, high = map(float, mean_interval(own - (cosines.sum(1) - own) / (count - 1)))
    first = float((cosines.argmax(1) == np.arange(count)).mean())
    return {"nearer": nearer, "low": low, "high": high, "first": first}


def some(part: str) -> Stimuli:
    """Return `NAMES` emoji of a part, spread evenly over it.

    Parameters
    ----------
    part : str
        Part of the emoji, by the hash of their names.

    Returns
    -------
    Stimuli
        The emoji.
    """
    emoji = emoji_part(part)
    return Stimuli([emoji[number * len(emoji) // NAMES] for number in range(NAMES)], part)


def grid(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Join rows of images into one image.

    Parameters
    ----------
    rows : sequence of sequence of PIL.Image.Image
        As many images in every row.

    Returns
    -------
    PIL.Image.Image
        The image; every one of the given takes `SIDE` pixels per side.
    """
    squares = [np.concatenate([np.asarray(image.resize((SIDE, SIDE), 0)) for image in row], 1) for row in rows]
    return Image.fromarray(np.concatenate(squares))


def fuse_emoji(results: Path, runs: Path) -> None:
    """Train and score both plans.

    Parameters
    ----------
    results : Path
        Where tables, plans and images are written; plans that are there are not chosen again.
    runs : Path
        The folder of the features and of the two training runs, which resume if they were stopped.
    """
    plan_both(results, runs)
    recipe = Recipe.load(RECIPE)
    models = {"emoji-dit, its own text": open_expert(str(recipe.generation))}
    logs = []
    for name in PLANS:
        model = models[name] = run_recipe(replace(recipe, plan=str(results / f"{name}.json")), runs / name)
        logs.append(pd.read_json(runs / name / "state" / "log.jsonl", lines=True).assign(plan=name))
    write_csv(results / "learning.csv", pd.concat(logs).round(5))
    seer = open_expert("dinov2-s")
    tables: dict[str, list[pd.DataFrame]] = {"losses": [], "likeness": []}
    rows = [[to_image(to_pixels([s.image], 32)[0]) for part in PARTS for s in some(part)[:: NAMES // SHOWN]]]
    for name, model in models.items():
        row: list[Image.Image] = []
        for part in PARTS:
            emoji = some(part)
            images = generate(model, emoji.texts, emoji.ids)
            row += images[:: NAMES // SHOWN]
            tables["losses"].append(losses(model, part).assign(model=name, part=part))
            tables["likeness"].append(pd.DataFrame([likeness(images, emoji, seer)]).assign(model=name, part=part))
        rows.append(row)
    for name, parts in tables.items():
        table = pd.concat(parts).round(4)
        write_csv(results / f"{name}.csv", table[["model", "part", *table.columns[:-2]]])
    write_atomically(results / "samples.png", partial(grid(rows).save, format="PNG"))
