"""A subject small enough to compute by hand, and processes that extract its features and are killed at a moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bridgework.probes import files
from bridgework.probes.extraction import jobs
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features import shards
from bridgework.probes.stimuli.controls import noise_for
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.subject import ForwardPass

DIM, IMAGE_TOKENS, TEXT_TOKENS = 6, 4, 5
TEXTS = ("a", "bc", "def", "ghij", "klmno", "p", "qr", "s", "tuv", "w")


class Block(nn.Module):
    """Mixes all tokens, and adds an own map of each."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.linear(states).tanh() + states.mean(1, keepdim=True)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(DIM, 2)

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            states = layer(states)
        return self.head(states)


@dataclass
class Toy:
    """Pixels are four image tokens, letters the text tokens, one to each; with timesteps, noise is mixed in."""

    model: Stack
    timed_tasks: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ("image", "text")
    tasks: tuple[str, ...] = ("understanding",)
    name: str = "toy"
    blocks: tuple[str, ...] = ("layers.0", "layers.1", "layers.2")
    run: Callable[..., Any] | None = None
    first_letter_is_special: bool = False

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        states, tokens = [], {}
        before = 0
        if "image" in modalities:
            image = torch.stack([torch.tensor(np.asarray(s.image)).float()[0, :, :1] / 255 for s in stimuli])
            if timestep is not None:
                image = (1 - timestep) * image + timestep * noise_for([s.id for s in stimuli], (IMAGE_TOKENS, 1))
            states.append(image.expand(-1, -1, DIM))
            before = IMAGE_TOKENS
        if "text" in modalities:
            letters = torch.zeros(len(stimuli), TEXT_TOKENS, DIM)
            for row, stimulus in enumerate(stimuli):
                for column, letter in enumerate(stimulus.text):
                    letters[row, column] = torch.arange(DIM) * ord(letter) / 500
            states.append(letters)
        joined = torch.cat(states, 1)
        at = torch.arange(joined.shape[1])[None]
        lengths = torch.tensor([[before + len(s.text)] for s in stimuli])
        tokens = {"image": (at < before).expand(len(stimuli), -1), "text": (at >= before) & (at < lengths)}
        run, special = self.run or self.model, {}
        if self.first_letter_is_special and "text" in modalities:
            special["text"] = (at == before).expand(len(stimuli), -1)
            tokens["text"] = tokens["text"] & ((at > before) | (lengths == before + 1))
        grids = {"image": [(1, IMAGE_TOKENS)] * len(stimuli)}
        return ForwardPass(lambda: run(joined), {m: tokens[m] for m in modalities}, {}, special, grids=grids)


def letters(*texts: str) -> Stimuli:
    """A random image for each text."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(texts), 1, IMAGE_TOKENS, 3), dtype=np.uint8)
    return Stimuli([Stimulus(Image.fromarray(i), t, f"id {t}") for i, t in zip(images, texts, strict=True)], "letters")


def many() -> Stimuli:
    """Enough for five shards of batches of one."""
    return letters(*(f"{chr(97 + number % 26)}{number}" for number in range(40)))


def open_toy() -> Toy:
    torch.manual_seed(0)
    return Toy(Stack())


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half(tensors: Any, path: Path, metadata: Any) -> None:
    path.write_bytes(b"half")
    die()


class Count:
    """Calls `real` so many times, then `last`."""

    def __init__(self, real: Callable[..., Any], times: int, last: Callable[..., Any]) -> None:
        self.real, self.times, self.last = real, times, last

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.times -= 1
        return (self.last if self.times < 0 else self.real)(*args, **options)


def replace_and_die(source: Path, target: Path) -> None:
    os.rename(source, target)
    die()


MOMENTS: dict[str, Callable[[Toy], None]] = {
    "computing the third shard": lambda _: setattr(
        jobs, "concatenate_batches", Count(jobs.concatenate_batches, 2, die)
    ),
    "in the middle of writing the second": lambda toy: setattr(shards, "save_file", Count(shards.save_file, 1, half)),
    "before the fourth is in place": lambda toy: setattr(files.os, "replace", Count(os.replace, 3, die)),
    "when the third is in place": lambda toy: setattr(files.os, "replace", Count(os.replace, 2, replace_and_die)),
    "before the index is in place": lambda toy: setattr(files.os, "replace", Count(os.replace, 5, die)),
}


def kill_everywhere(folder: Path) -> None:
    """One process for each moment extracts into a folder of that name and is killed there."""
    for moment, prepare in MOMENTS.items():
        child = os.fork()
        if child == 0:
            toy = open_toy()
            prepare(toy)
            extract(toy, many(), batch_size=1, store=folder / moment)
            os._exit(0)
        print(os.WTERMSIG(os.waitpid(child, 0)[1]))
