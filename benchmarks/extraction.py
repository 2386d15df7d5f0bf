"""The race of extraction: a bare forward pass, ours, `output_hidden_states`, nnsight and captum, on two real models.

    python -m bridgework.benchmarks.extraction       # half an hour on two cores; writes results/extraction.csv

Each contestant shows SmolLM2-135M and DINOv2-S the same 500 emoji in the same batches and, but for the bare pass, ends
with the mean over the words or patches of every layer. They take turns on a fifth of the stimuli at a time; times are
ratios to the bare pass. Memory is what a process of its own takes at its peak, above the loaded model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ..models.experts.opening import open_expert
from ..probes.extraction.extracting import extract
from ..probes.stimuli.sources import load_stimuli
from ..probes.stimuli.stimulus_set import Stimuli
from ..probes.subjects.subject import ForwardPass
from .growth import forget_peak, peak
from .support.inputs import machine

RESULTS = Path(__file__).with_name("results")
EXPERTS = ("smollm2-135m", "dinov2-s")
BATCH, PARTS = 20, 5
HELD = 100  # stimuli while memory is looked at

Contestant = Callable[[Any, Stimuli], Any]


def bare(expert: Any, stimuli: Stimuli) -> None:
    """Inputs are prepared and the model runs; nothing is kept."""
    for shown in _passes(expert, stimuli):
        shown.run()


def trunk(expert: Any, stimuli: Stimuli) -> None:
    """The same without the head that predicts words, which comes after the last layer."""
    head, expert.model = expert.model, expert.model.base_model
    try:
        bare(expert, stimuli)
    finally:
        expert.model = head


def ours(expert: Any, stimuli: Stimuli) -> Tensor:
    return next(iter(extract(expert, stimuli, batch_size=BATCH).values())).values


def native(expert: Any, stimuli: Stimuli) -> Tensor:
    """transformers' own hidden states, all held until the pass is over; the last is after the final norm."""
    kept = []
    for shown in _passes(expert, stimuli):
        states = expert.model(**_inputs(expert, shown), output_hidden_states=True).hidden_states
        kept.append(torch.stack([_mean(state, shown) for state in states]))
    return torch.cat(kept, 1)


def nnsight(expert: Any, stimuli: Stimuli) -> Tensor:
    """Interventions written as if inside the model, pooled there."""
    import nnsight

    wrapped = nnsight.NNsight(expert.model)
    layers = wrapped.get(expert.blocks[0].rpartition(".")[0])
    kept = []
    for shown in _passes(expert, stimuli):
        inputs, count = _inputs(expert, shown), len(expert.blocks)
        with wrapped.trace(**inputs):
            states = [_mean(layers[0].input, shown)]
            for at in range(count):
                states.append(_mean(layers[at].output, shown))
            pooled = nnsight.save(torch.stack(states))
        kept.append(pooled)
    return torch.cat(kept, 1)


def captum(expert: Any, stimuli: Stimuli) -> Tensor:
    """LayerActivation of all blocks at once; what enters the first block is not among them."""
    from captum.attr import LayerActivation

    blocks = [expert.model.get_submodule(path) for path in expert.blocks]
    kept = []
    for shown in _passes(expert, stimuli):
        inputs = _inputs(expert, shown)

        def forward(*values: Tensor, names: tuple[str, ...] = tuple(inputs)) -> Any:
            return expert.model(**dict(zip(names, values, strict=True)))

        states = LayerActivation(forward, blocks).attribute(tuple(inputs.values()))
        kept.append(torch.stack([_mean(state, shown) for state in states]))  # type: ignore[arg-type]
    return torch.cat(kept, 1)


CONTESTANTS: dict[str, Contestant] = {
    "bare": bare,
    "bare, without its head": trunk,
    "bridgework": ours,
    "output_hidden_states": native,
    "nnsight": nnsight,
    "captum": captum,
}


class _Called(Exception):
    """Carries what the model is called with."""


def _inputs(expert: Any, shown: ForwardPass) -> dict[str, Any]:
    """What a pass gives to the model."""

    def catch(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        raise _Called(kwargs)

    handle = expert.model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        shown.run()
    except _Called as called:
        return called.args[0]
    finally:
        handle.remove()
    raise RuntimeError("the pass did not call the model")


def _passes(expert: Any, stimuli: Stimuli) -> list[ForwardPass]:
    starts = range(0, len(stimuli), BATCH)
    return [expert.show(stimuli[at : at + BATCH], expert.modalities, expert.tasks[0], None) for at in starts]


def _mean(state: Tensor, shown: ForwardPass) -> Tensor:
    (mask,) = shown.tokens.values()
    assert mask is not None
    weight = (mask / mask.sum(1, keepdim=True)).to(state)  # (batch, token)
    return torch.einsum("btd,bt->bd", state, weight)


def by_length(samples: int) -> Stimuli:
    """The emoji, sorted as `extract` sorts them, so that all contestants have the same batches."""
    stimuli = load_stimuli("noto", samples)
    return Stimuli(sorted(stimuli, key=lambda s: len(s.text)), stimuli.name)


def race(name: str, samples: int, device: str) -> pd.DataFrame:
    """Times of all contestants, who take turns on each part of the stimuli; `differs` is the largest relative error."""
    expert, stimuli = open_expert(name), by_length(samples)
    expert.model.to(device)
    size = len(stimuli) // PARTS
    seconds, differs = dict.fromkeys(CONTESTANTS, 0.0), dict.fromkeys(CONTESTANTS, 0.0)
    with torch.inference_mode():
        for run in CONTESTANTS.values():
            run(expert, stimuli[:BATCH])  # libraries load and allocate on first use
        for part in tqdm(range(PARTS), desc=name):
            shown = stimuli[part * size : (part + 1) * size]
            wanted = ours(expert, shown)
            order = list(CONTESTANTS)[part:] + list(CONTESTANTS)[:part]
            for each in order:
                _wait(device)
                began = time.perf_counter()
                values = CONTESTANTS[each](expert, shown)
                _wait(device)
                seconds[each] += time.perf_counter() - began
                if values is not None:
                    layers = slice(-len(values), -1)  # all but the last, which transformers norms
                    error = (values[:-1].cpu() - wanted[layers]).abs().amax((1, 2)) / wanted[layers].abs().amax((1, 2))
                    differs[each] = max(differs[each], float(error.max()))
    rows = [
        {"expert": name, "contestant": each, "stimuli": size * PARTS, "seconds": round(seconds[each], 2)}
        | {"over bare": round(seconds[each] / seconds["bare"], 3), "differs": differs[each]}
        for each in CONTESTANTS
    ]
    return pd.DataFrame(rows)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def extra_memory(name: str, contestant: str, device: str) -> float:
    """MB that a process which runs one contestant alone takes at its peak, above what it held with the model loaded."""
    own = [sys.executable, "-m", "bridgework.benchmarks.extraction", "--alone", name, contestant, "--device", device]
    done = subprocess.run(own, capture_output=True, text=True, check=True)
    return round(float(done.stdout.split()[-1]), 1)


def alone(name: str, contestant: str, device: str) -> None:
    expert, stimuli = open_expert(name), by_length(HELD)
    expert.model.to(device)
    if device == "cpu":
        forget_peak()
    else:
        torch.cuda.reset_peak_memory_stats()
    before = peak() if device == "cpu" else torch.cuda.memory_allocated()
    with torch.inference_mode():
        kept = CONTESTANTS[contestant](expert, stimuli)
    after = peak() if device == "cpu" else torch.cuda.max_memory_allocated()
    del kept
    print((after - before) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--alone", nargs=2, metavar=("EXPERT", "CONTESTANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(*options.alone, device=options.device)
        return
    tables = []
    for name in EXPERTS:
        table = race(name, options.samples, options.device)
        table["extra MB"] = [extra_memory(name, each, options.device) for each in CONTESTANTS]
        tables.append(table)
    results = pd.concat(tables, ignore_index=True).assign(machine=machine(options.device))
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    results.to_csv(RESULTS / f"extraction{suffix}.csv", index=False)
    print(results.to_string(index=False))


if __name__ == "__main__":
    main()
