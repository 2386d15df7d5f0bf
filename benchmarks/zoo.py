"""Survey tiny models: their stacks, the tokens in them, agreement with native hidden states, overhead of capture.

python -m bridgework.benchmarks.zoo     # a minute; writes benchmarks/results/zoo.csv
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
    """Survey every stack of every model.

    Parameters
    ----------
    names : list of str, optional
        Names of `ZOO`; all by default.
    rounds : int
        Repetitions of the timing, of which the best counts; 0 leaves the timing out.

    Returns
    -------
    DataFrame
        One row per stack. Columns: model, family, stack, blocks, shape (of what enters it), tokens (of each kind and
        stream, in the order of the sequence), between (the blocks before which the model changes states), native (how
        many of the model's own hidden states are equal bit for bit, of how many), norm (the module that norms its last
        hidden state); once per model, pooled (the time of a forward pass in which every layer of every stack is pooled,
        over that of a bare one) and added (microseconds a block).
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
    """Yield the row of every stack of a model."""
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
        row |= {"tokens": token_order(streams[path]), "between": changed_between(built, blocks, states)}
        yield row | compared(built.model, states, natives)


def token_order(streams: Mapping[str | None, Stream]) -> str:
    """Describe the kinds of tokens of the first sample in their order, as "3 text, 16 image, 5 text".

    Parameters
    ----------
    streams : mapping
        The streams of a stack, by name.

    Returns
    -------
    str
        The description, one part per stream.
    """
    parts = []
    for name, stream in streams.items():
        kinds = sorted((int(i), kind) for kind, places in stream.positions.items() for i in places[0] if i >= 0)
        runs: list[list[Any]] = []
        for _, kind in kinds:
            if runs and runs[-1][1] == kind:
                runs[-1][0] += 1
            else:
                runs.append([1, kind])
        parts.append((f"{name}: " if name else "") + ", ".join(f"{count} {kind}" for count, kind in runs))
    return "; ".join(parts)


def changed_between(built: Built, blocks: list[str], states: list[Any]) -> str:
    """Return the blocks before which a model changes the stream, as DeepStack or a patch embedding of a stage does.

    Parameters
    ----------
    built : Built
        The model.
    blocks : list of str
        Paths of the blocks of one stack.
    states : list
        What enters the first block, and the output of every block.

    Returns
    -------
    str
        Numbers of blocks.
    """
    changed = []
    for number, block in enumerate(blocks[1:], start=1):
        with capture(built.model, [EMBEDDINGS, block]) as taps:
            built.model(**built.inputs)
        if not _equal(taps[EMBEDDINGS], states[number]):
            changed.append(str(number))
    return ", ".join(changed)


def native_states(built: Built) -> list[tuple[Tensor, ...]]:
    """Return every tuple of hidden states that the model returns by itself."""
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
    """Count the native hidden states of a stack, embeddings included, that are equal to ours bit for bit.

    Parameters
    ----------
    model : nn.Module
        The model.
    states : list
        Our hidden states.
    natives : list of tuple
        What `native_states` returns.

    Returns
    -------
    dict
        native ("5 of 5") and norm (the module that norms the last hidden state), empty where nothing is native.
    """
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
    """Return whether a module is a norm that maps the state to what is wanted."""
    if not type(module).__name__.endswith(("LayerNorm", "RMSNorm")):
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.shape == state.shape[-1:] and _equal(module(state), wanted)


def _equal(one: Any, other: Any) -> bool:
    """Return whether two states are equal bit for bit, stream by stream."""
    if isinstance(one, dict):
        return isinstance(other, dict) and all(_equal(one[name], other[name]) for name in one if name in other)
    return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)


def overhead(built: Built, rounds: int) -> dict[str, float]:
    """Time what pooling every layer adds to a forward pass.

    Parameters
    ----------
    built : Built
        The model.
    rounds : int
        Repetitions, of which the best counts.

    Returns
    -------
    dict
        pooled, as a ratio, and added, in microseconds a block.
    """
    stacks = [blocks for blocks in find_stacks(built.model).values() if _runs(built, blocks)]

    def bare() -> None:
        built.model(**built.inputs)

    def ours() -> None:
        with ExitStack() as captures:
            for blocks in stacks:
                captures.enter_context(capture(built.model, [EMBEDDINGS, *blocks], keep=_mean, stop=False))
            built.model(**built.inputs)

    times: dict[Callable[[], None], list[float]] = {bare: [], ours: []}
    for _ in range(rounds):
        for run, seconds in times.items():
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
    without, pooled = min(times[bare]), min(times[ours])
    return {"pooled": round(pooled / without, 2), "added": round((pooled - without) / sum(map(len, stacks)) * 1e6)}


def _runs(built: Built, blocks: list[str]) -> bool:
    """Return whether a stack runs in a forward pass."""
    ran = []
    handle = built.model.get_submodule(blocks[0]).register_forward_hook(lambda *_: ran.append(True))
    built.model(**built.inputs)
    handle.remove()
    return bool(ran)


def _mean(path: str, stream: str | None, state: Tensor) -> Tensor:
    return state.float().mean(1)


def main() -> None:
    """Write and print the table."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    table = survey()
    table.to_csv(RESULTS / "zoo.csv", index=False)
    with pd.option_context("display.width", 250, "display.max_colwidth", 60, "display.max_rows", None):
        print(table.fillna("").to_string(index=False))


if __name__ == "__main__":
    main()
