"""What rows pass beside the one thing that is wrong: small, made once, and read only."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bridgework import probes
from bridgework.probes import BridgePlan, Features, LayerFeatures
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.tests.probes.toys import Toy, letters, open_toy

SAMPLES = 24


@cache
def folder() -> Path:
    """A folder for files that rows read."""
    made = Path(tempfile.mkdtemp(prefix="bad_inputs_"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or (SAMPLES, 5))


def layers(seed: int = 0) -> Tensor:
    """(layer, sample, dim)"""
    return torch.from_numpy(array(3, SAMPLES, 5, seed=seed)).float()


def layer_features(modality: str = "image", seed: int = 0, **fields) -> LayerFeatures:
    """Three layers of a model that is called toy."""
    given = {
        "layers": ("embeddings", "0", "1"),
        "depths": (0.0, 0.5, 1.0),
        "modality": modality,
        "subject": "toy",
        "task": "understanding",
        "pass_": "separate",
        "pooling": "mean",
        "timesteps": (),
        "samples": tuple(f"id {number}" for number in range(SAMPLES)),
    }
    return LayerFeatures(layers(seed), **given | fields)


@cache
def swept() -> LayerFeatures:
    """The layers at two timesteps."""
    both = torch.stack([layers(0), layers(1)])
    return replace(layer_features(task="generation"), values=both, timesteps=(0.2, 0.5))


@cache
def features() -> Features:
    return Features({"image": layer_features("image", 0), "text": layer_features("text", 1)}, {})


@cache
def store() -> str:
    """A folder of features."""
    features().save(folder() / "store")
    return str(folder() / "store")


@cache
def curve(seed: int = 0):
    return probes.alignment_curve(layer_features("image", seed), layer_features("text", seed + 1), k=3, permutations=20)


@cache
def heat():
    return probes.similarity_map(layer_features("text"), layer_features("image", 1), k=3, permutations=20)


@cache
def plan() -> BridgePlan:
    return BridgePlan(((0, 0), (1, 1)), "image", "by hand", {}, understanding_layers=2, generation_layers=2)


@cache
def plan_file() -> str:
    plan().save(folder() / "plan.json")
    return str(folder() / "plan.json")


@cache
def toy() -> Toy:
    return open_toy()


@cache
def stimuli() -> Stimuli:
    return letters("ab", "cd", "ef")
