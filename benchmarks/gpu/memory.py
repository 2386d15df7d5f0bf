"""Check what helps where memory is short: batches that are halved, and blocks that lie on the CPU."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import dispatch_model
from torch import nn

from ...probes.extraction.extracting import extract
from ...probes.extraction.memory_shortage import free_memory
from ...probes.stimuli.stimulus_set import Stimuli
from ..support.inputs import clock
from .extraction import largest_difference
from .random_models import long_texts, text_expert
from .rows import Row
from .sizes import Setting

# Of the largest value of a layer: other batches add up in another order, the same batches do not.
ROUNDING, SAME = 1e-4, 1e-6


def measure(setting: Setting) -> Iterator[Row]:
    """Extract where a batch does not fit, and from a model that lies on two devices.

    Parameters
    ----------
    setting : Setting
        Sizes and device.

    Yields
    ------
    Row
        How often batches were halved, differences and times.
    """
    sizes, device = setting.sizes, setting.device
    expert = text_expert(sizes.text, device, torch.float32)
    texts = long_texts(2 * sizes.batch, sizes.joined)
    options: dict[str, Any] = {"batch_size": sizes.batch, "device": device}
    wanted = extract(expert, texts, **options)["text"].values
    with too_little(expert, texts, sizes.batch, device), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = extract(expert, texts, **options)["text"].values
    halved = [str(each.message) for each in said if "at once do not fit into memory" in str(each.message)]
    note = halved[0].splitlines()[0] if halved else "no batch was halved"
    yield Row("out of memory, batches halved", len(halved), "times", at_least=1, note=note)
    apart = largest_difference(found, wanted)
    yield Row("out of memory, difference", apart, "", at_most=ROUNDING, note="over the largest value of a layer")

    now = clock(device)
    began = now()
    extract(expert, texts, **options)
    whole = now() - began
    # On a card the deep half lies on the CPU; on a CPU it lies on disk, which accelerate fetches by the same hooks.
    near, far = (0, "cpu") if device == "cuda" else ("cpu", "disk")
    half, stack = len(expert.blocks) // 2, expert.blocks[0].rpartition(".")[0]
    places: dict[str, Any] = dict.fromkeys(parts_around(expert.model, stack), near)
    places |= {path: near if number < half else far for number, path in enumerate(expert.blocks)}
    with tempfile.TemporaryDirectory() as folder:
        expert.model.tie_weights()
        # From a model on the card accelerate would take the far weights as they are, and leave them there.
        expert.model = dispatch_model(expert.model.to("cpu"), places, offload_dir=folder, force_hooks=True)
        began = now()
        found = extract(expert, texts, batch_size=sizes.batch)["text"].values
        seconds = now() - began
    where = f"{half} of {len(expert.blocks)} blocks on {near}, the others on {far}"
    apart = largest_difference(found, wanted)
    yield Row("device map, difference from one device", apart, "", at_most=SAME, note=where)
    yield Row("device map, times as long as one device", seconds / whole, note=where)


@contextmanager
def too_little(expert: Any, texts: Stimuli, batch: int, device: str) -> Iterator[None]:
    """Leave so little memory that a whole batch does not fit, but half of it does.

    On a card torch may take as much as lies between what half and what a whole batch take. A CPU has no such limit, so
    a hook raises torch's own error.

    Parameters
    ----------
    expert : Any
        What reads.
    texts : Stimuli
        What is read.
    batch : int
        Texts in a batch.
    device : str
        "cuda" or "cpu".
    """
    if device != "cuda":

        def refuse(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if len(kwargs["input_ids"]) > batch // 2:
                raise torch.OutOfMemoryError("out of memory, as a card would say")

        handle = expert.model.register_forward_pre_hook(refuse, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        return
    free_memory()
    peaks = []
    for rows in (batch // 2, batch):
        torch.cuda.reset_peak_memory_stats()
        extract(expert, texts[:rows], batch_size=rows, device=device)
        peaks.append(torch.cuda.max_memory_reserved())
        free_memory()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(sum(peaks) / 2 / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def parts_around(model: nn.Module, stack: str) -> list[str]:
    """Return the paths of the largest modules around a stack of blocks that do not hold it."""
    around, holder = [], ""
    for name in stack.split("."):
        siblings = model.get_submodule(holder).named_children()
        around += [f"{holder}.{sibling}".lstrip(".") for sibling, _ in siblings if sibling != name]
        holder = f"{holder}.{name}".lstrip(".")
    return around
