"""Train a larger generator and a larger reader for some minutes, as the shipped experts were trained."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ...models.costs.step_costs import count_flops
from ...models.generation.flow import flow_loss
from ...models.scenes.dialogues import answer_loss, split_labels
from ...models.training.loop import fit
from ...models.training.scene_batches import dit_batch, emoji_part, vlm_batch
from ...probes.extraction.memory_shortage import free_memory, short_of_memory
from ...probes.private_names import forget_settings
from .maps import matrix_rate
from .random_models import pixel_generator, reader, shipped_tokenizer
from .rows import Row
from .sizes import Setting

WARM_UP, CALIBRATION = 2, 6  # steps
MANY = 10**6
SPARE = 0.95  # of the time: the rest is for what is around the steps
SMOOTH = 10  # losses that are averaged at either end


class EnoughSteps(Exception):
    """Ends a run of `fit` before it writes its last checkpoint, which nobody needs."""


@dataclass
class Drawn(Dataset[Any]):
    """Draw batches by number, in other processes too.

    Attributes
    ----------
    draw : callable
        `draw(number)` returns a batch.
    """

    draw: Callable[[int], dict[str, Any]]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.draw(index)

    def __len__(self) -> int:
        return MANY


@dataclass
class Trained:
    """Hold one expert that is trained.

    Attributes
    ----------
    name : str
        What it is called.
    model : torch.nn.Module
        What is trained.
    draw : callable
        `draw(step, rows)` returns a batch.
    loss : callable
        `loss(batch)` returns its loss.
    rows : int
        Rows of a batch.
    """

    name: str
    model: nn.Module
    draw: Callable[..., dict[str, Any]]
    loss: Callable[[dict[str, Any]], Tensor]
    rows: int


def measure(setting: Setting) -> Iterator[Row]:
    """Train both experts, each for half of the time.

    Parameters
    ----------
    setting : Setting
        Sizes, device and time.

    Yields
    ------
    Row
        For each: rows a second, the loss at either end, the share of the card's rate.
    """
    ends = time.monotonic() + SPARE * setting.seconds
    rate = matrix_rate(setting, "bfloat16")
    experts = (larger_generator, larger_reader)
    for number, build in enumerate(experts):
        left = (ends - time.monotonic()) / (len(experts) - number)
        yield from train_for(build(setting), min(left, setting.sizes.train_seconds / len(experts)), rate, setting)
        free_memory()


def larger_generator(setting: Setting) -> Trained:
    """Return a pixel DiT with its text encoder, trained on scenes and emoji as scenes-dit was."""
    sizes = setting.sizes
    expert = pixel_generator(sizes.generator, setting.device)
    both = nn.ModuleList([expert.model, expert.text_encoder])
    draw = partial(draw_scenes, emoji_part("train"))
    return Trained("larger generator", both, draw, partial(flow_loss, expert), sizes.draw_batch)


def larger_reader(setting: Setting) -> Trained:
    """Return a vision-language model, trained on questions and captions as scenes-vlm was."""
    sizes = setting.sizes
    model = reader(sizes.reader_vision, sizes.reader_text, setting.device)

    def loss(batch: dict[str, Any]) -> Tensor:
        inputs, labels = split_labels(batch, model.device)
        return answer_loss(model(**inputs).logits, labels)

    draw = partial(draw_dialogues, emoji_part("train"), shipped_tokenizer())
    return Trained("larger reader", model, draw, loss, sizes.read_batch)


def draw_scenes(emoji: Any, rows: int, step: int) -> dict[str, Any]:
    """Draw a batch of the generator."""
    return dit_batch(step, 0, emoji, size=rows)


def draw_dialogues(emoji: Any, tokenizer: Any, rows: int, step: int) -> dict[str, Any]:
    """Draw a batch of the reader."""
    return vlm_batch(step, 0, emoji, tokenizer, size=rows)


def train_for(trained: Trained, seconds: float, rate: float, setting: Setting) -> Iterator[Row]:
    """Train one expert in bfloat16 for some time.

    Some steps are timed first, in batches that are halved until they fit. The schedule of the learning rate is then
    laid over as many steps as there is time for.

    Parameters
    ----------
    trained : Trained
        What is trained.
    seconds : float
        How long.
    rate : float
        Operations a second of torch.mm in bfloat16.
    setting : Setting
        Sizes and device.

    Yields
    ------
    Row
        What `measure` yields.
    """
    ends = time.monotonic() + seconds
    trained.model.train()
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with in_bfloat16(setting.device), tempfile.TemporaryDirectory() as folder:
        while True:
            batches = iter(drawn(trained, setting.sizes.workers))
            try:
                run_steps(trained, batches, WARM_UP, folder, ends)
                began = time.monotonic()
                run_steps(trained, batches, CALIBRATION, folder, ends)
                a_step = (time.monotonic() - began) / CALIBRATION
                flops = count_step(trained, next(batches))
                break
            except (RuntimeError, MemoryError) as error:
                if not short_of_memory(error) or trained.rows == 1:
                    raise
            trained.rows //= 2
            free_memory()
        steps = max(2, int(SPARE * (ends - time.monotonic()) / a_step))
        began = time.monotonic()
        losses = run_steps(trained, batches, steps, folder, ends)
        took, steps = time.monotonic() - began, len(losses)
    parameters = sum(p.numel() for p in trained.model.parameters()) / 1e6
    note = f"{parameters:.3g} million weights, batches of {trained.rows}, {steps} steps in {took:.0f} s"
    yield Row(f"{trained.name}, rows a second", steps * trained.rows / took, "1/s", note=note)
    note = "of torch.mm in bfloat16; optimizer and data count as time, not as operations"
    yield Row(f"{trained.name}, share of the matrix rate", flops * steps / took / rate, note=note)
    some = min(SMOOTH, max(1, len(losses) // 2))
    first, last = (float(torch.stack(part).mean()) for part in (losses[:some], losses[-some:]))
    yield Row(f"{trained.name}, loss at the start", first, note=f"mean of {some} steps")
    yield Row(f"{trained.name}, loss at the end", last, note=f"mean of {some} steps")
    yield Row(f"{trained.name}, loss at the end over that at the start", last / first, "", at_most=1.0)
    if setting.device == "cuda":
        yield Row(f"{trained.name}, peak memory", torch.cuda.max_memory_allocated() / 1e9, "GB")


def run_steps(trained: Trained, batches: Iterator[Any], steps: int, folder: str, ends: float) -> list[Tensor]:
    """Run whole steps of the training loop, so many or until the time is over but one, and return their losses."""
    losses: list[Tensor] = []

    def loss(step: int) -> Tensor:
        if step == steps or (step and time.monotonic() > ends):
            raise EnoughSteps
        value = trained.loss(next(batches))
        losses.append(value.detach())
        return value

    with suppress(EnoughSteps):
        fit(
            trained.model, loss, folder, steps + 1, learning_rate=1e-3, muon=2e-3, checkpoint_every=MANY,
            progress=trained.name,
        )  # fmt: skip
    return losses


def count_step(trained: Trained, batch: dict[str, Any]) -> int:
    """Count the operations of the forward and backward pass over a batch."""
    device = next(trained.model.parameters()).device.type

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = trained.loss(batch)
        loss.backward()

    flops = count_flops(step).total
    trained.model.zero_grad()
    return flops


def drawn(trained: Trained, workers: int) -> DataLoader[Any]:
    """Return a loader that draws batches in other processes, which must not inherit a card that is in use."""
    data = Drawn(partial(trained.draw, trained.rows))
    context = "spawn" if workers else None
    return DataLoader(data, batch_size=None, shuffle=False, num_workers=workers, multiprocessing_context=context)


@contextmanager
def in_bfloat16(device: str) -> Iterator[None]:
    """Have accelerate train in bfloat16 on a device while the context lasts, whatever it was set to before."""
    wanted = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": str(device == "cpu").lower()}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    forget_settings()
    try:
        yield
    finally:
        forget_settings()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
