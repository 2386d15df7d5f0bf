"""Every tiny model: its stacks, where tokens stand in them, agreement with native hidden states, overhead of capture.

python -m bridgework.benchmarks.zoo        # a minute; writes benchmarks/results/zoo.csv
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..probes.hooks.block_stacks import find_stacks
from ..probes.hooks.capturing import EMBEDDINGS, capture
from ..probes.subjects.token_movement import Stream
from ..probes.subjects.token_streams import find_streams
from .support.tiny_built import Built
from .support.tiny_models import ZOO

RESULTS = Path(__file__).parent / "results"
ROUNDS = 20


def survey(names: list[str] | None = None, rounds: int = ROUNDS) -> pd.DataFrame:
    """One row for each stack of each model.

    Columns: model, family, stack, blocks, shape (of what enters it), tokens (of each kind and stream, in the order of
    the sequence), between (whether the model changes states between blocks), native (how many hidden states of the
    model's own are equal bit for bit, of how many), norm (what its last hidden state is normed by); once for a model,
    pooled (the time of a forward pass in which every layer of every stack is pooled, over that of a bare one) and added
    (microseconds a block), the best of `rounds`.
    """
    rows: list[dict[str, Any]] = []
    for name in tqdm(names or list(ZOO)):
        torch.manual_seed(0)
        family, build = ZOO[name]
        built = build()
        built.model.eval()
        with torch.no_grad():
            rows += [{"model": name, "family": family} | row for row in _stacks(built)]
            if rounds:
                rows[-1] |= overhead(built, rounds)
    return pd.DataFrame(rows)


def _stacks(built: Built) -> Iterator[dict[str, Any]]:
    streams = find_streams(built.model, built.inputs)
    natives = native_states(built)
    for path, blocks in find_stacks(built.model).items():
        row: dict[str, Any] = {"stack": path, "blocks": len(blocks)}
        if path not in streams:
            yield row | {"tokens": "does not run in this pass"}
            continue
        with capture(built.model, [EMBEDDINGS, *blocks], stop=False) as taps:
            built.model(**built.inputs)
        states = list(taps.values())
        row |= {"shape": "; ".join(str(tuple(s.shape)) for s in streams[path].values())}
        row |= {"tokens": told(streams[path]), "between": changed_between(built, blocks, states)}
        yield row | compared(built.model, states, natives)


def told(streams: Mapping[str | None, Stream]) -> str:
    """The kinds of tokens of the first sample in the order in which they stand, as "3 text, 16 image, 5 text"."""
    parts = []
    for name, stream in streams.items():
        at = sorted((int(i), kind) for kind, each in stream.positions.items() for i in each[0] if i >= 0)
        runs: list[list[Any]] = []
        for _, kind in at:
            if runs and runs[-1][1] == kind:
                runs[-1][0] += 1
            else:
                runs.append([1, kind])
        parts.append((f"{name}: " if name else "") + ", ".join(f"{count} {kind}" for count, kind in runs))
    return "; ".join(parts)


def changed_between(built: Built, blocks: list[str], states: list[Any]) -> str:
    """The blocks before which the model changes the stream (DeepStack's additions, a patch embedding of each stage)."""
    changed = []
    for number, block in enumerate(blocks[1:], start=1):
        with capture(built.model, [EMBEDDINGS, block]) as taps:
            built.model(**built.inputs)
        if not _equal(taps[EMBEDDINGS], states[number]):
            changed.append(str(number))
    return ", ".join(changed)


def native_states(built: Built) -> list[tuple[Tensor, ...]]:
    """Every tuple of hidden states that the model gives out by itself."""
    found: list[tuple[Tensor, ...]] = []

    def collect(output: Any) -> None:
        for name, value in output.items() if isinstance(output, Mapping) else ():
            if isinstance(value, tuple) and "hidden_states" in name and all(isinstance(v, Tensor) for v in value):
                found.append(value)
            collect(value)

    def ask(call: Callable[..., Any], **inputs: Any) -> None:
        try:
            collect(call(**inputs, output_hidden_states=True))
        except TypeError:  # it has no such argument
            collect(call(**inputs))

    ask(built.model, **built.inputs)
    if built.vision:
        collect(built.vision())
    return found


def compared(model: nn.Module, states: list[Any], natives: list[tuple[Tensor, ...]]) -> dict[str, Any]:
    """How many of the native hidden states of a stack, embeddings included, are ours bit for bit; `states` are ours."""
    for theirs in natives:
        if len(theirs) == len(states) and isinstance(states[0], Tensor) and _equal(theirs[0], states[0]):
            same = [_equal(a, b) for a, b in zip(theirs, states, strict=True)]
            inside = tuple(f"{block}." for blocks in find_stacks(model).values() for block in blocks)
            over = ((p, m) for p, m in model.named_modules() if not p.startswith(inside))
            norms = [p for p, m in over if not same[-1] and _gives(m, states[-1], theirs[-1])]
            norm = norms[-1] if norms else ""
            return {"native": f"{sum(same) + bool(norm)} of {len(same)}", "norm": norm}
    return {"native": "", "norm": ""}


def _gives(module: nn.Module, state: Tensor, wanted: Tensor) -> bool:
    if not type(module).__name__.endswith(("LayerNorm", "RMSNorm")):
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.shape == state.shape[-1:] and _equal(module(state), wanted)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and all(_equal(one[name], other[name]) for name in one if name in other)
    return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)


def overhead(built: Built, rounds: int) -> dict[str, float]:
    """What pooling every layer adds to a forward pass: as a ratio, and in microseconds a block."""
    blocks = [blocks for blocks in find_stacks(built.model).values() if _runs(built, blocks)]

    def bare() -> None:
        built.model(**built.inputs)

    def ours() -> None:
        with ExitStack() as stack:
            for each in blocks:
                stack.enter_context(capture(built.model, [EMBEDDINGS, *each], keep=_mean, stop=False))
            built.model(**built.inputs)

    times: dict[Callable[[], None], list[float]] = {bare: [], ours: []}
    for _ in range(rounds):
        for run, each in times.items():
            began = time.perf_counter()
            run()
            each.append(time.perf_counter() - began)
    without, pooled = min(times[bare]), min(times[ours])
    return {"pooled": round(pooled / without, 2), "added": round((pooled - without) / sum(map(len, blocks)) * 1e6)}


def _runs(built: Built, blocks: list[str]) -> bool:
    ran = []
    handle = built.model.get_submodule(blocks[0]).register_forward_hook(lambda *_: ran.append(True))
    built.model(**built.inputs)
    handle.remove()
    return bool(ran)


def _mean(path: str, stream: str | None, state: Tensor) -> Tensor:
    return state.float().mean(1)


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    table = survey()
    table.to_csv(RESULTS / "zoo.csv", index=False)
    with pd.option_context("display.width", 250, "display.max_colwidth", 60, "display.max_rows", None):
        print(table.fillna("").to_string(index=False))


if __name__ == "__main__":
    main()
