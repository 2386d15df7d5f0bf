"""Features of made-up towers that share something with each other, and stimuli for them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus


def make_stimuli(samples: int) -> Stimuli:
    """Squares, each of its own colour; captions try to leave the page's script."""
    colours = [tuple(int(c) for c in np.random.default_rng(i).integers(0, 255, 3)) for i in range(samples)]
    texts = [f"square {i} </script><b>&" for i in range(samples)]
    return Stimuli(
        [Stimulus(Image.new("RGB", (9, 5), c), t, f"id {i}") for i, (c, t) in enumerate(zip(colours, texts))]
    )


def make_features(samples: int, blocks: int, seed: int, timesteps: tuple[float, ...] = (), constant: bool = False):
    """(layer, sample, dim), for each timestep: something of what all towers see, most in the middle, and noise."""
    shared = np.random.default_rng(0).normal(size=(samples, 6))
    swept = []
    for number in range(max(1, len(timesteps))):
        rng = np.random.default_rng([seed, number])
        layers = []
        for layer in range(blocks + 1):
            strength = 1.2 * np.exp(-((layer / blocks - 0.6) ** 2) / 0.1)
            layers.append(strength * shared @ rng.normal(size=(6, 12)) / 3 + rng.normal(size=(samples, 12)))
        if constant:
            layers[0][:] = layers[0][0]  # embeddings of which every sample has the same: no metric is defined
        swept.append(np.stack(layers))
    values = torch.tensor(np.stack(swept) if len(timesteps) > 1 else swept[0], dtype=torch.float32)
    task = "generation" if timesteps else "understanding"
    names = ("embeddings", *map(str, range(blocks)))
    depths = tuple(layer / blocks for layer in range(blocks + 1))
    about = ("image", "toy-dit") if timesteps else ("text", "toy-vlm")
    ids = tuple(f"id {i}" for i in range(samples))
    return LayerFeatures(values, names, depths, *about, task, "separate", "mean", timesteps, ids)
