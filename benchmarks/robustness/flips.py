"""Flip one bit of every kind of file that the project writes, read it again, and see whether anybody notices.

    python -m bridgework.benchmarks.robustness.flips   # a minute; writes benchmarks/results/flips.csv

Every kind is written once, tiny. Then bits are drawn from a seed; after each flip the file is read as users read it. An
error or a warning notices; so does a text state that counts as missing and is read by the expert again. Tables that
people edit, and files of other programs, have no hash: docs/guarantees.md says which.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from ...models.evaluation.reporting import open_model
from ...models.experts.opening import open_expert
from ...models.fusion.text_states import TextStates, keep_text_states
from ...models.scenes.composing import scene_stimuli
from ...models.training.loop import fit
from ...models.training.recipe import Recipe, run_recipe
from ...models.unified.flow_model import UnifiedModel
from ...probes.extraction.extracting import extract
from ...probes.features.features import Features
from ...probes.files import read_parquet, write_csv, write_json, write_parquet
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.plans.layouts import lay_out
from ...probes.similarity.scoring import similarity_map
from ...probes.tensor_files import read_sealed, with_seal

RESULTS = Path(__file__).parents[1] / "results"
CAPTION = "a red circle"


class Kind(NamedTuple):
    """Hold one kind of file.

    Attributes
    ----------
    name : str
        What it is.
    folder, file : str
        Where it lies, below the folder of all files. A star stands for what differs from run to run.
    read : callable
        ``read(folder)`` reads it as users do, and returns whether something in it counted as missing.
    within : bytes
        A pattern of the bytes whose bits are flipped; without one, all of them are.
    """

    name: str
    folder: str
    file: str
    read: Callable[[Path], Any]
    within: bytes = b""


def write_all(folder: Path) -> None:
    """Write files of all kinds."""
    stimuli = scene_stimuli("evidence", 16)
    vlm = open_expert("scenes-vlm")
    features = extract(vlm, stimuli, layers=["embeddings", "1"], store=folder / "store")
    similarity_map(features["image"], features["text"], "cka", store=folder / "map")
    write_parquet(folder / "table" / "curve.parquet", pd.DataFrame({"score": np.random.default_rng(0).random(2000)}))
    write_json(folder / "losses" / "losses.json", with_seal({"losses": [0.5, 0.25], "made": {"layout": "last"}}))
    _fit(folder / "run")
    recipe = replace(Recipe.load("scenes"), layout="last", steps=1, batch_size=2, validate=0)
    fused = run_recipe(recipe, folder / "fused")
    fused.plan.save(folder / "plan" / "plan.json")
    trunk = UnifiedModel.from_experts(
        lay_out("shared", len(vlm.blocks), len(vlm.blocks)), vlm, open_expert("scenes-dit")
    )
    trunk.save(folder / "trunk")
    keep_text_states(vlm, [CAPTION], folder / "states")


def _fit(folder: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    fit(
        model, lambda step: model(torch.ones(2, 4)).square().mean(), folder, 2, learning_rate=0.1, muon=0.1, average=0.5
    )


def _load(folder: Path) -> None:
    for part in Features.load(folder).values():
        part.load()


def _map(folder: Path) -> None:
    features = Features.load(folder.parent / "store")
    similarity_map(features["image"], features["text"], "cka", store=folder)


def _states(folder: Path) -> bool:
    states = TextStates(folder)
    try:
        states.read(["", CAPTION], range(len([*folder.glob("captions-*/block-*.bin")])))
    except ValueError as error:
        if "is not kept" not in str(error):
            raise
        return True
    return not {"", CAPTION} <= set(states.captions)


def _rerun(folder: Path) -> None:
    recipe = replace(Recipe.load("scenes"), layout="last", steps=1, batch_size=2, validate=0)
    run_recipe(recipe, folder)


STATE = ("model", "optimizers", "average", "random-0")
KINDS = (
    Kind("shard of a store", "store", "shard-00000.safetensors", _load),
    Kind("index of a store", "store", "features.json", _load),
    Kind("scores of a map in parts", "map", "scores.safetensors", _map),
    Kind("record of a map in parts", "map", "made.json", _map),
    Kind("table of a study or a curve", "table", "curve.parquet", lambda f: read_parquet(f / "curve.parquet")),
    Kind("losses of a layout", "losses", "losses.json", lambda f: read_sealed(f / "losses.json")),
    *(Kind(f"checkpoint: {name}", "run", f"state/{name}.safetensors", _fit) for name in STATE),
    *(Kind(f"checkpoint: {name}", "run", f"state/{name}", _fit) for name in ("step.json", "log.jsonl", "hashes.json")),
    Kind("settings of a run", "fused", "run.json", _rerun),
    Kind("bridges of a saved model", "fused", "bridges.safetensors", open_model),
    Kind("plan of a saved model", "fused", "plan.json", open_model),
    Kind("recipe of a saved model", "fused", "recipe.json", open_model),
    Kind("plan", "plan", "plan.json", lambda f: BridgePlan.load(f / "plan.json")),
    Kind("weights of one trunk", "trunk", "unified.safetensors", open_model),
    Kind("settings of one trunk", "trunk", "unified.json", open_model),
    Kind("plan of one trunk", "trunk", "plan.json", open_model),
    Kind("config of one trunk", "trunk", "config.json", open_model),
    Kind("tokenizer of one trunk", "trunk", "tokenizer.json", open_model),
    Kind("index of text states", "states", "index.json", _states),
    Kind("captions of text states", "states", "captions-*/captions.jsonl", _states),
    Kind("rows of text states", "states", "captions-*/block-03.bin", _states),
    # What is JSON and a plan after the flip too: a digit that becomes another digit.
    Kind("digits of a plan", "plan", "plan.json", lambda f: BridgePlan.load(f / "plan.json"), rb"\d"),
)


def flip(kind: Kind, place: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Flip one bit of a copy of a kind's file, and read it.

    Parameters
    ----------
    kind : Kind
        The kind.
    place : Path
        The folder of all files.
    rng : Generator
        Draws the bit.

    Returns
    -------
    dict
        A row of the table.
    """
    folder = place / kind.folder
    (path,) = folder.glob(kind.file)
    whole = path.read_bytes()
    if kind.within:
        byte = int(rng.choice([found.start() for found in re.finditer(kind.within, whole)]))
        bit = 8 * byte + int(rng.integers(3))
    else:
        bit = int(rng.integers(8 * len(whole)))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    row = {"kind": kind.name, "file": path.name, "bytes": len(whole), "byte": bit // 8, "bit": bit % 8}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            said = "counts as missing" if kind.read(folder) is True else ""
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
    said = said or next((f"warning: {one.message}" for one in caught if issubclass(one.category, UserWarning)), "")
    path.write_bytes(whole)
    said = " ".join(said.replace(str(place), "").split())
    return row | {"noticed": bool(said), "said": said[:160]}


def measure(folder: Path, flips: int, seed: int = 0) -> pd.DataFrame:
    """Flip bits of every kind of file.

    Parameters
    ----------
    folder : Path
        Where to work.
    flips : int
        The flips of each kind.
    seed : int
        Of the bits.

    Returns
    -------
    DataFrame
        One row for each flip: kind, file, bytes, byte, bit, noticed, and said, the error or the warning.
    """
    write_all(folder)
    rows = []
    for number, kind in enumerate(tqdm(KINDS)):
        rng = np.random.default_rng([seed, number])
        rows += [flip(kind, folder, rng) for _ in range(flips)]
    return pd.DataFrame(rows)


def main() -> None:
    """Write and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.robustness.flips", description=__doc__)
    parser.add_argument("--flips", type=int, default=5, help="flips of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the bits")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where flips.csv is written")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        table = measure(folder, options.flips, options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_csv(options.results / "flips.csv", table)
    print(table.groupby("kind", sort=False)["noticed"].agg(["sum", "count"]))
    print(table[~table["noticed"]].to_string())


if __name__ == "__main__":
    main()
