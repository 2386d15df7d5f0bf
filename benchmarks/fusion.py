"""Measure what bridges cost: without arithmetic of their own, over sampling steps, and from layout to layout.

    python -m bridgework.benchmarks.fusion     # ten minutes on an idle core; writes benchmarks/results/fusion_*.csv
    python -m bridgework.benchmarks.fusion --only text_states

Everything that is compared takes turns in one run, in an order that rotates, and the best round counts. Seconds are
processor time of one thread, so other processes on the machine do not count.

fusion_overhead   two towers with hooks that exchange states at every block, without the bridges' arithmetic, against
                  the two bare forward passes; and, beside it, with bridges behind gates at 0
fusion_sampling   sampling images with understanding states computed once, against computing them at every step
fusion_layouts    dense, H and double fusion on the same experts: time of a step, memory, FLOPs of attention
fusion_text_states  a training step that reads text states from disk, and one that runs the understanding expert, over
                  one forward and backward pass of the generation expert, all of whose weights get gradients
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..models.bridges.bridge import Bridge, KeysValues, Visibility
from ..models.costs.step_costs import costs, count_flops
from ..models.experts.opening import open_expert
from ..models.fusion.fused_model import FusedModel
from ..models.fusion.text_states import keep_text_states
from ..models.generation.flow import flow_loss
from ..models.generation.sampling import generate
from ..models.scenes.composing import scene_stimuli
from ..models.towers.attention_masks import one_image, text_after
from ..models.towers.visiting import visiting
from ..models.training.scene_batches import dit_batch
from ..probes.hooks.attention_calls import AttentionCall
from ..probes.plans.choosing import choose_bridges
from ..probes.plans.layouts import lay_out
from .support.inputs import machine

RESULTS = Path(__file__).with_name("results")
GENERATION = "scenes-dit"
TOWERS = {"scenes-vlm": 32, "smollm2-135m": 8}  # understanding experts, and how many samples make 50 ms of both passes
LEVELS = {"block outputs": "double fusion", "attention": "dense"}
PUBLISHED = "attention, H as published"
LAYOUTS = ("H", "dense", "double fusion")
BATCH = 32

Run = Callable[[], Any]


class Nothing(Bridge):
    """A bridge without arithmetic: it receives the other tower's states and returns its own tower's."""

    def forward(self, step: str, *args: Any) -> Any:
        """Run a step, without the conversions of `Bridge`."""
        return getattr(self, step)(*args)

    def keys_values(self, side: int, own: Tensor | AttentionCall) -> KeysValues:
        """Return the tower's states as keys and values."""
        return KeysValues(own.key, own.value) if isinstance(own, AttentionCall) else KeysValues(own, own)

    def attend(
        self, side: int, own: Tensor | AttentionCall, mine: KeysValues, other: KeysValues, visibility: Visibility
    ) -> Tensor:
        """Return the tower's own result."""
        return own.own if isinstance(own, AttentionCall) else own


class Again:
    """A fused model that runs the understanding tower at every sampling step.

    Parameters
    ----------
    fused : FusedModel
        The model, which runs it once by itself.
    """

    def __init__(self, fused: FusedModel) -> None:
        self.name, self.device, self.size, self.fused = fused.name, fused.device, fused.size, fused

    def condition(self, captions: Sequence[str]) -> list[str]:
        """Keep the captions for `predict`."""
        return list(captions)

    def predict(self, noisy: Tensor, text: list[str], time: Tensor) -> Tensor:
        """Run both towers."""
        return self.fused.predict(noisy, self.fused.condition(text), time)


def take_turns(
    contestants: Mapping[Any, Run], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[Any, float]:
    """Return the best time of each contestant; the first round, which warms up, does not count.

    Parameters
    ----------
    contestants : mapping
        What is timed, by name.
    rounds : int
        How many rounds count.
    clock : callable
        Returns the time in seconds: that of the processor, or of the wall where another device works.

    Returns
    -------
    dict
        Seconds by name.
    """
    names = list(contestants)
    best = dict.fromkeys(names, float("inf"))
    for number in tqdm(range(1 + rounds), leave=False):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            contestants[name]()
            if number:
                best[name] = min(best[name], clock() - start)
    return best


def passes(experts: tuple[Any, Any], samples: int) -> tuple[Run, Run, Tensor]:
    """Prepare one forward pass of either expert: captions for one, as many noisy images for the other.

    Parameters
    ----------
    experts : tuple
        Understanding and generation expert.
    samples : int
        How many captions and images.

    Returns
    -------
    understand, generate_ : callable
        The passes.
    words : Tensor
        Which tokens of the understanding expert are the captions' (sample, token).
    """
    understanding, generation = experts
    prepared = understanding.show(scene_stimuli("validation", samples), ("text",), "understanding", None)
    noisy, text = torch.randn(samples, *generation.size), generation.encode([""] * samples)
    words = prepared.tokens["text"] | prepared.special["text"]
    return prepared.run, lambda: generation.predict(noisy, text, torch.full((samples,), 0.5)), words


def bridged(fused: FusedModel, runs: tuple[Run, Run], words: Tensor, both_ways: bool) -> tuple[Any, Any]:
    """Run both towers with their bridges: in two passes, or in lockstep.

    Parameters
    ----------
    fused : FusedModel
        The towers and bridges.
    runs : tuple of callable
        Their forward passes.
    words : Tensor
        Which tokens of the understanding expert are the captions' (sample, token).
    both_ways : bool
        Whether the towers run in lockstep.

    Returns
    -------
    tuple
        Results of the understanding and of the generation tower.
    """
    if both_ways:
        places = text_after(words, 1), one_image(len(words), 0, False, fused.device)
        return fused.together(*runs, places)
    results: list[Any] = []
    states = fused.read(lambda: results.append(runs[0]()), words)
    with fused.reading(states):
        return results[0], runs[1]()


def hooked(fused: FusedModel, runs: tuple[Run, Run]) -> tuple[Any, Any]:
    """Run both towers with hooks at every bridged block that change nothing, and return both results."""
    results = []
    for side, run in enumerate(runs):
        visits = {pair[side]: lambda state: None for pair in fused.plan.pairs}
        with visiting(fused.towers[side], visits, fused.inside):
            results.append(run())
    return results[0], results[1]


@torch.inference_mode()
def overhead(name: str, samples: int, rounds: int = 15) -> pd.DataFrame:
    """Time two towers that are bridged at every block, and their bare forward passes.

    Parameters
    ----------
    name : str
        The understanding expert.
    samples, rounds : int
        How many captions, and how many rounds.

    Returns
    -------
    DataFrame
        Columns: towers, at (block outputs, attention, or attention in the published plan of H), ways, what (nothing,
        hooks, no-op bridges, gated bridges), seconds, over_bare, bridges; understanding_seconds and
        generation_seconds of the bare passes.
    """
    experts = open_expert(name), open_expert(GENERATION)
    depths = len(experts[0].blocks), len(experts[1].blocks)
    understand, generate_, words = passes(experts, samples)
    both = understand, generate_
    runs: dict[Any, Run] = {}
    for level, layout in LEVELS.items():
        plan = lay_out(layout, *depths, matching="repeat", both_ways=True)
        gated, noop = FusedModel(*experts, plan).eval(), FusedModel(*experts, plan).eval()
        noop.bridges = nn.ModuleList(Nothing() for _ in plan.pairs)
        runs[level, "-", "hooks"] = lambda fused=noop: hooked(fused, both)
        for ways, both_ways in (("one way", False), ("both ways", True)):
            for what, fused in (("no-op bridges", noop), ("gated bridges", gated)):
                runs[level, ways, what] = lambda f=fused, b=both_ways: bridged(f, both, words, b)
    published = FusedModel(*experts, lay_out("H", *depths)).eval()
    runs[PUBLISHED, "one way", "gated bridges"] = lambda: bridged(published, both, words, False)
    alone = {"understanding": understand, "generation": generate_}
    bare: dict[Any, Run] = {("-", "-", "nothing"): lambda: (understand(), generate_())}
    seconds = take_turns({**alone, **bare, **runs}, rounds)
    apart = {f"{side}_seconds": seconds.pop(side) for side in alone}
    rows = [
        {"at": level, "ways": ways, "what": what, "seconds": taken} for (level, ways, what), taken in seconds.items()
    ]
    table = pd.DataFrame(rows)
    table.insert(0, "towers", f"{name} + {GENERATION}")
    table["over_bare"] = table["seconds"] / table["seconds"].iloc[0]
    counts = [len(published.plan.pairs) if at == PUBLISHED else max(depths) for at in table["at"]]
    return table.assign(bridges=counts, samples=samples, rounds=rounds, **apart)


def sampling(name: str, samples: int, steps: int = 16, rounds: int = 3) -> pd.DataFrame:
    """Time sampling with understanding states computed once and reused, and computed at every step.

    Parameters
    ----------
    name : str
        The understanding expert.
    samples, steps, rounds : int
        How many images, sampling steps and rounds.

    Returns
    -------
    DataFrame
        One row. Columns: towers, samples, steps, once_seconds, again_seconds, times_as_long, rounds.
    """
    experts = open_expert(name), open_expert(GENERATION)
    fused = FusedModel(*experts, lay_out("H", len(experts[0].blocks), len(experts[1].blocks))).eval()
    stimuli = scene_stimuli("validation", samples)
    captions, ids = [s.text for s in stimuli], [s.id for s in stimuli]
    contestants: dict[str, Run] = {
        "once": lambda: generate(fused, captions, ids, steps),
        "again": lambda: generate(Again(fused), captions, ids, steps),
    }
    seconds = take_turns(contestants, rounds)
    row = {"towers": f"{name} + {GENERATION}", "samples": samples, "steps": steps, "once_seconds": seconds["once"]}
    row |= {"again_seconds": seconds["again"], "times_as_long": seconds["again"] / seconds["once"], "rounds": rounds}
    return pd.DataFrame([row])


def layouts(samples: int = BATCH, rounds: int = 9) -> pd.DataFrame:
    """Compare dense, H and double fusion between the same experts: as published, and all with the pairs of H.

    Parameters
    ----------
    samples, rounds : int
        The batch size, and how many rounds.

    Returns
    -------
    DataFrame
        Columns: layout, pairs, bridges and what `costs` reports; over_bare_attention, forward_attention_flops over
        those of the two experts alone (row "none"), of which what is more than 1 is the bridges'; over_first,
        step_seconds over those of H.
    """
    experts = open_expert("scenes-vlm"), open_expert(GENERATION)
    depths = len(experts[0].blocks), len(experts[1].blocks)
    batch = dit_batch(0, 0, size=samples, time_shift=1.1)
    plans = {("published", layout): lay_out(layout, *depths) for layout in LAYOUTS}
    like = plans["published", "H"]
    plans |= {("those of H", layout): replace(like, layout=layout) for layout in LAYOUTS[1:]}
    rows: list[dict[str, Any]] = []
    steps: dict[str, Run] = {}
    for (pairs, layout), plan in plans.items():
        torch.manual_seed(0)
        fused = FusedModel(*experts, plan)
        rows.append({"pairs": pairs, "bridges": len(plan.pairs), **costs(fused, batch, rounds=1)})
        steps[f"{pairs}, {layout}"] = training_step(fused, batch)
    seconds = take_turns(steps, rounds)
    table = pd.DataFrame(rows).assign(step_seconds=list(seconds.values()), rounds=rounds)
    with torch.no_grad():
        understand, generate_, _ = passes(experts, samples)
        bare = count_flops(lambda: (understand(), generate_()))
    none = {"layout": "none", "pairs": "-", "bridges": 0, "batch_size": samples, "forward_flops": bare.total}
    none["forward_attention_flops"] = bare.attention
    table = pd.concat([pd.DataFrame([none]), table], ignore_index=True)
    table["over_bare_attention"] = table["forward_attention_flops"] / bare.attention
    table["over_first"] = table["step_seconds"] / table["step_seconds"].iloc[1]
    return table


def text_states(name: str = "smollm2-135m", samples: int = BATCH, rounds: int = 5) -> pd.DataFrame:
    """Compare training steps that read text states from disk with steps that run the understanding expert.

    Parameters
    ----------
    name : str
        The understanding expert.
    samples, rounds : int
        The batch size, and how many rounds.

    Returns
    -------
    DataFrame
        Columns: towers, what, bridges, samples, seconds, over_own (seconds over those of the generation expert's own
        forward and backward pass), rounds.
    """
    understanding, generation = experts = open_expert(name), open_expert(GENERATION)
    batch = dit_batch(0, 0, size=samples, time_shift=1.1)
    steps: dict[Any, Run] = {("its own pass", 0): lambda: own_pass(generation, batch)}
    with tempfile.TemporaryDirectory() as folder:
        states = keep_text_states(understanding, batch["caption"], folder)
        for bridges in (1, 4):
            plan = choose_bridges(
                rule="middle", bridges=bridges, layers=(len(understanding.blocks), len(generation.blocks))
            )
            for what, read in (("from disk", states), ("by the expert", None)):
                fused = FusedModel(*experts, replace(plan, layout="double fusion")).read_text_from(read).train()
                steps[what, bridges] = training_step(fused, batch)
        seconds = take_turns(steps, rounds)
    rows = [{"what": what, "bridges": bridges, "seconds": taken} for (what, bridges), taken in seconds.items()]
    table = pd.DataFrame(rows)
    table.insert(0, "towers", f"{name} + {GENERATION}")
    table["over_own"] = table["seconds"] / table["seconds"].iloc[0]
    return table.assign(samples=samples, rounds=rounds)


def own_pass(generation: Any, batch: dict[str, Any]) -> None:
    """Run the generation expert forward and backward by itself, with gradients of all its weights."""
    generation.model.requires_grad_(True)
    flow_loss(generation, batch).backward()
    generation.model.zero_grad()
    generation.model.requires_grad_(False)


def training_step(fused: FusedModel, batch: dict[str, Any]) -> Run:
    """Return a function that computes the loss, its gradients and AdamW's update of the bridges."""
    optimizer = torch.optim.AdamW(fused.bridges.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        fused.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Write and print the tables."""
    measures: dict[str, Callable[[], pd.DataFrame]] = {
        "overhead": lambda: pd.concat([overhead(name, samples) for name, samples in TOWERS.items()]),
        "sampling": lambda: pd.concat([sampling("scenes-vlm", 16), sampling("smollm2-135m", 4)]),
        "layouts": layouts,
        "text_states": text_states,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(measures), help="One table. (default: all)")
    only = parser.parse_args().only
    for name in [only] if only else measures:
        table = measures[name]().assign(machine=machine())
        table.to_csv(RESULTS / f"fusion_{name}.csv", index=False, float_format="%.6g")
        print(table.to_string(index=False))


if __name__ == "__main__":
    main()
