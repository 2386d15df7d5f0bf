"""What names in examples of docstrings stand for: shipped experts, a few scenes, and what was measured with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from bridgework.tests.test_public_names import FACES

LIBRARIES = {"json": json, "np": np, "nn": nn, "partial": partial, "Path": Path, "pd": pd, "plt": plt}
LIBRARIES |= {"replace": replace, "torch": torch}
MADE: dict[str, Callable[[], Any]] = {}


def name(made: Callable[[], Any]) -> Callable[[], Any]:
    """Make an object once, when the first example uses its name."""
    MADE[made.__name__] = cache(made)
    return MADE[made.__name__]


def public(name: str) -> Any:
    """The public object of a name; KeyError if there is none."""
    for face, rows in FACES.items():
        if any(name in names.split() for names in rows.values()):
            return getattr(import_module(face), name)
    raise KeyError(name)


def find(name: str) -> Any:
    """What a name stands for where the docstring's own module does not define it; KeyError if that is not known."""
    if name == "figures":
        return import_module("bridgework.figures")
    return LIBRARIES[name] if name in LIBRARIES else MADE[name]() if name in MADE else public(name)


# Experts and what they read


@name
def stimuli() -> Any:
    return public("scene_stimuli")("evidence", 24)


@name
def vlm() -> Any:
    return public("open_expert")("scenes-vlm")


@name
def dit() -> Any:
    return public("open_expert")("scenes-dit")


@name
def expert() -> Any:
    return vlm()


@name
def features() -> Any:
    return public("extract")(vlm(), stimuli())


@name
def understanding() -> Any:
    return features()


@name
def seen() -> Any:
    return features()


@name
def generation() -> Any:
    return public("extract")(dit(), stimuli(), timesteps=(0.2, 0.5))


@name
def swept() -> Any:
    return generation()


@name
def made() -> Any:
    return {modality: each.at(0.5) for modality, each in generation().items()}


@name
def text() -> Any:
    return features()["text"]


@name
def image() -> Any:
    return made()["image"]


@name
def dino() -> Any:  # a model that sees
    return made()


@name
def clip() -> Any:
    return features()


@name
def minilm() -> Any:  # a model that reads
    return features()


@name
def experts() -> Any:
    return {"scenes-vlm": features()}


# Tables and plans


@name
def heat() -> Any:
    return public("similarity_map")(text(), image())


def committed(subject: str, timestep: float | None) -> pd.DataFrame:
    """A curve of the committed study, of 512 scenes."""
    curves = pd.read_parquet(public("RESULTS") / "curves.parquet").query("control == 'none' and metric == 'mutual_knn'")
    own = curves[(curves["subject"] == subject) & (curves["samples"] == 512) & (curves["pass"] == "separate")]
    return own[own["timestep"].isna() if timestep is None else own["timestep"] == timestep]


@name
def understanding_curve() -> Any:
    return committed("scenes-vlm", None)


@name
def generation_curve() -> Any:
    return committed("scenes-dit", 0.5)


@name
def curve() -> Any:
    return generation_curve()


@name
def small() -> Any:
    return understanding_curve()


@name
def large() -> Any:
    return generation_curve()


@name
def plan() -> Any:
    return public("choose_bridges")(bridges=2, layers=(16, 13))


@name
def trainable() -> Any:
    return lambda plan: 1_000 * (plan.rank or 96)


@name
def log() -> Any:
    return [{"step": step, "loss": 1 / step} for step in range(1, 9)]


@name
def figure() -> Any:
    return find("figures").alignment_curves(curve())


@name
def edited() -> Any:
    edits, rng = public("scene_edits")("test", 1), np.random.default_rng(0)
    sources, results = zip(*(public("render_edit")(edit, rng) for edit in edits), strict=True)
    images = {"source_png": sources, "result_png": results}
    table = public("score_edits")(edits, sources, results)
    return table.assign(**{column: [png(image) for image in found] for column, found in images.items()})


def png(image: Any) -> bytes:
    image.save(stream := BytesIO(), "PNG")
    return stream.getvalue()


# Fused models


def fused() -> Any:
    return public("FusedModel")(vlm(), dit(), plan())


@name
def unified() -> Any:
    return public("UnifiedModel").from_experts(public("lay_out")("Y", 16, 13), vlm(), dit())


MADE["fused"] = fused  # a new one each time, for examples train it


@name
def captions() -> Any:
    return ["a red circle", "a blue ring"]


@name
def ids() -> Any:
    return ["first", "second"]


@name
def noisy() -> Any:
    return torch.zeros(1, *dit().size)


@name
def time() -> Any:
    return torch.ones(1)


@name
def device() -> Any:
    return torch.device("cpu")


@name
def model() -> Any:
    return vlm().model


@name
def inputs() -> Any:
    return {"input_ids": vlm().tokenizer(["a red circle"], return_tensors="pt").input_ids}


@name
def loader() -> Any:
    return [(text().values, image().values)]


@name
def block_gradients() -> Any:
    return import_module("bridgework.models.evaluation.generator_gradients").block_gradients


# What lies in the reader's folder, and names that mean something else in one docstring


def flickr(folder: Path) -> None:
    (folder / "flickr8k" / "Images").mkdir(parents=True)
    stimuli()[0].image.save(folder / "flickr8k" / "Images" / "a.png")
    (folder / "flickr8k" / "captions.csv").write_text("image,caption\na.png,one thing\na.png,a thing\n")


FILES: dict[str, Callable[[Path], None]] = {
    "load_stimuli": flickr,
    "open_model": lambda folder: fused().save(folder / "runs" / "h"),
}
OTHER: dict[str, dict[str, Any]] = {
    "match": {"text": torch.randn(2, 24, 8), "image": torch.randn(4, 24, 8)},
}
