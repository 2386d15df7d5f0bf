"""Compare the cost of extraction by us, `output_hidden_states`, nnsight and captum with that of a bare forward pass.

    python -m bridgework.benchmarks.extraction     # half an hour on two cores; writes benchmarks/results/extraction.csv
    python -m bridgework.benchmarks.extraction --tolls     # ten minutes; writes benchmarks/results/extraction_tolls.csv

Each contestant shows SmolLM2-135M and DINOv2-S the same 500 emoji in the same batches and, except for the bare pass,
returns the mean over the words or patches of every layer. Ours looks for sinks among the words besides, and leaves them
out; features are compared with those of all words. Contestants take turns on a fifth of the stimuli at a time, and
times are ratios to the bare pass. Memory is the peak of a separate process, above the loaded model.

`--tolls` measures what a run costs besides its passes, in processor time, turn by turn: of `extract` over 100 captions,
beside passes without head, and of `AnyModel`, beside the described expert over the same pictures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ..models.experts.opening import open_expert
from ..probes.extraction.extracting import extract
from ..probes.stimuli.sources import load_stimuli
from ..probes.stimuli.stimulus_set import Stimuli, Stimulus
from ..probes.subjects.any_model import AnyModel
from ..probes.subjects.subject import ForwardPass
from .fusion import take_turns
from .growth import forget_peak, peak
from .support.inputs import machine

RESULTS = Path(__file__).with_name("results")
EXPERTS = ("smollm2-135m", "dinov2-s")
BATCH, PARTS = 20, 5
HELD = 100  # stimuli while memory is measured
OURS = "bridgework"
CAPTIONS, PICTURES, ROUNDS = 100, 60, 5  # of the tolls

Contestant = Callable[[Any, Stimuli], Any]


def bare(expert: Any, stimuli: Stimuli) -> None:
    """Prepare inputs and run the model; nothing is kept."""
    for forward_pass in _passes(expert, stimuli):
        forward_pass.run()


def trunk(expert: Any, stimuli: Stimuli) -> None:
    """Do the same without the head that predicts words, which comes after the last layer."""
    head, expert.model = expert.model, expert.model.base_model
    try:
        bare(expert, stimuli)
    finally:
        expert.model = head


def ours(expert: Any, stimuli: Stimuli) -> Tensor:
    """Extract features (layer, sample, dim) by `extract`."""
    return next(iter(extract(expert, stimuli, batch_size=BATCH).values())).values


def of_all_words(expert: Any, stimuli: Stimuli) -> Tensor:
    """Extract features (layer, sample, dim) as all other contestants do, sinks among them."""
    return next(iter(extract(expert, stimuli, batch_size=BATCH, sinks=True).values())).values


def native(expert: Any, stimuli: Stimuli) -> Tensor:
    """Pool transformers' own hidden states, all held until the pass is over; the last is after the final norm."""
    kept = []
    for forward_pass in _passes(expert, stimuli):
        states = expert.model(**_inputs(expert, forward_pass), output_hidden_states=True).hidden_states
        kept.append(torch.stack([_mean(state, forward_pass) for state in states]))
    return torch.cat(kept, 1)


def nnsight(expert: Any, stimuli: Stimuli) -> Tensor:
    """Pool inside nnsight's interventions, which are written as if they were part of the model."""
    import nnsight

    wrapped = nnsight.NNsight(expert.model)
    layers = wrapped.get(expert.blocks[0].rpartition(".")[0])
    kept = []
    for forward_pass in _passes(expert, stimuli):
        inputs, count = _inputs(expert, forward_pass), len(expert.blocks)
        with wrapped.trace(**inputs):
            states = [_mean(layers[0].input, forward_pass)]
            for index in range(count):
                states.append(_mean(layers[index].output, forward_pass))
            pooled = nnsight.save(torch.stack(states))
        kept.append(pooled)
    return torch.cat(kept, 1)


def captum(expert: Any, stimuli: Stimuli) -> Tensor:
    """Pool captum's LayerActivation of all blocks at once, which lacks what enters the first block."""
    from captum.attr import LayerActivation

    blocks = [expert.model.get_submodule(path) for path in expert.blocks]
    kept = []
    for forward_pass in _passes(expert, stimuli):
        inputs = _inputs(expert, forward_pass)

        def forward(*values: Tensor, names: tuple[str, ...] = tuple(inputs)) -> Any:
            return expert.model(**dict(zip(names, values, strict=True)))

        states = LayerActivation(forward, blocks).attribute(tuple(inputs.values()))
        kept.append(torch.stack([_mean(state, forward_pass) for state in states]))  # type: ignore[arg-type]
    return torch.cat(kept, 1)


CONTESTANTS: dict[str, Contestant] = {
    "bare": bare,
    "bare, without its head": trunk,
    OURS: ours,
    "output_hidden_states": native,
    "nnsight": nnsight,
    "captum": captum,
}


class _Called(Exception):
    """Carries the arguments of the model's call."""


def _inputs(expert: Any, forward_pass: ForwardPass) -> dict[str, Any]:
    """Return the arguments that a pass gives to the model."""

    def catch(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        raise _Called(kwargs)

    handle = expert.model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        forward_pass.run()
    except _Called as called:
        return called.args[0]
    finally:
        handle.remove()
    raise RuntimeError("the pass did not call the model")


def _passes(expert: Any, stimuli: Stimuli) -> list[ForwardPass]:
    starts = range(0, len(stimuli), BATCH)
    return [expert.show(stimuli[start : start + BATCH], expert.modalities, expert.tasks[0], None) for start in starts]


def _mean(state: Tensor, forward_pass: ForwardPass) -> Tensor:
    """Average a state (batch, token, dim) over the tokens of the pass's modality."""
    (mask,) = forward_pass.tokens.values()
    assert mask is not None
    weight = (mask / mask.sum(1, keepdim=True)).to(state)  # (batch, token)
    return torch.einsum("btd,bt->bd", state, weight)


def by_length(samples: int) -> Stimuli:
    """Return so many emoji, sorted as `extract` sorts them, so that all contestants have the same batches."""
    stimuli = load_stimuli("noto", samples)
    return Stimuli(sorted(stimuli, key=lambda s: len(s.text)), stimuli.name)


def race(name: str, samples: int, device: str) -> pd.DataFrame:
    """Time all contestants, which take turns on each part of the stimuli.

    Parameters
    ----------
    name : str
        The expert.
    samples : int
        How many emoji.
    device : str
        "cpu" or "cuda".

    Returns
    -------
    DataFrame
        One row per contestant. Columns: expert, contestant, stimuli, seconds, over bare (ratio to the bare pass),
        differs (the largest relative error beside ours of all words, 0 for ours).
    """
    expert, stimuli = open_expert(name), by_length(samples)
    expert.model.to(device)
    size = len(stimuli) // PARTS
    seconds, differs = dict.fromkeys(CONTESTANTS, 0.0), dict.fromkeys(CONTESTANTS, 0.0)
    with torch.inference_mode():
        for run in CONTESTANTS.values():
            run(expert, stimuli[:BATCH])  # libraries load and allocate on first use
        for part in tqdm(range(PARTS), desc=name):
            some = stimuli[part * size : (part + 1) * size]
            wanted = of_all_words(expert, some)
            order = list(CONTESTANTS)[part:] + list(CONTESTANTS)[:part]
            for contestant in order:
                _wait(device)
                began = time.perf_counter()
                values = CONTESTANTS[contestant](expert, some)
                _wait(device)
                seconds[contestant] += time.perf_counter() - began
                if values is not None and contestant != OURS:
                    layers = slice(-len(values), -1)  # all but the last, which transformers norms
                    error = (values[:-1].cpu() - wanted[layers]).abs().amax((1, 2)) / wanted[layers].abs().amax((1, 2))
                    differs[contestant] = max(differs[contestant], float(error.max()))
    rows = [
        {"expert": name, "contestant": contestant, "stimuli": size * PARTS, "seconds": round(seconds[contestant], 2)}
        | {"over bare": round(seconds[contestant] / seconds["bare"], 3), "differs": differs[contestant]}
        for contestant in CONTESTANTS
    ]
    return pd.DataFrame(rows)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def extra_memory(name: str, contestant: str, device: str) -> float:
    """Return the peak memory in MB of a process that runs one contestant alone, above that with the model loaded."""
    own = [sys.executable, "-m", "bridgework.benchmarks.extraction", "--alone", name, contestant, "--device", device]
    done = subprocess.run(own, capture_output=True, text=True, check=True)
    return round(float(done.stdout.split()[-1]), 1)


def alone(name: str, contestant: str, device: str) -> None:
    """Run one contestant and print the MB that it took at its peak."""
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


def as_any_model(expert: Any) -> AnyModel:
    """Return a vision expert's model as one that nobody described."""

    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Any]:
        return dict(expert.processor([stimulus.image for stimulus in stimuli], return_tensors="pt"))

    return AnyModel(expert.model, inputs, expert.blocks[0].rpartition(".")[0], modalities=("image",))


def tolls(captions: int = CAPTIONS, pictures: int = PICTURES, rounds: int = ROUNDS) -> pd.DataFrame:
    """Time what extraction costs besides its passes, in processor time of one thread.

    Parameters
    ----------
    captions, pictures : int
        How many stimuli the language model and the vision transformer are shown.
    rounds : int
        How many rounds, of which the best counts.

    Returns
    -------
    DataFrame
        Columns: expert, contestant, stimuli, seconds, ratio and on top (seconds) beside the expert's first row.
        "AnyModel, remembered" has seen the layout in an earlier run, as in every batch but the first.
    """
    language, vision = open_expert(EXPERTS[0]), open_expert(EXPERTS[1])
    some, images, remembering = by_length(captions), load_stimuli("noto", pictures), as_any_model(vision)
    texts = {"bare, without its head": lambda: trunk(language, some), OURS: lambda: ours(language, some)}
    shown = {
        "described": lambda: ours(vision, images),
        "AnyModel, remembered": lambda: ours(remembering, images),
        "AnyModel, new": lambda: ours(as_any_model(vision), images),
    }
    rows = []
    with torch.inference_mode():
        for name, count, contestants in ((EXPERTS[0], captions, texts), (EXPERTS[1], pictures, shown)):
            best = take_turns(contestants, rounds)
            first = next(iter(best.values()))
            for contestant, seconds in best.items():
                said = {"expert": name, "contestant": contestant, "stimuli": count, "seconds": round(seconds, 3)}
                rows.append(said | {"ratio": round(seconds / first, 3), "on top": round(seconds - first, 3)})
    return pd.DataFrame(rows)


def main() -> None:
    """Run the race, and write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--alone", nargs=2, metavar=("EXPERT", "CONTESTANT"), help=argparse.SUPPRESS)
    parser.add_argument("--tolls", action="store_true", help="measure what a run costs besides its passes")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of --tolls")
    options = parser.parse_args()
    if options.tolls:
        torch.set_num_threads(1)
        table = tolls(rounds=options.rounds).assign(machine=machine())
        table.to_csv(RESULTS / "extraction_tolls.csv", index=False)
        print(table.to_string(index=False))
        return
    if options.alone:
        alone(*options.alone, device=options.device)
        return
    tables = []
    for name in EXPERTS:
        table = race(name, options.samples, options.device)
        table["extra MB"] = [extra_memory(name, contestant, options.device) for contestant in CONTESTANTS]
        tables.append(table)
    results = pd.concat(tables, ignore_index=True).assign(machine=machine(options.device))
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    results.to_csv(RESULTS / f"extraction{suffix}.csv", index=False)
    print(results.to_string(index=False))


if __name__ == "__main__":
    main()
