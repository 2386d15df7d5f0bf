"""Give the readers of files damaged and nonsensical files, and count what they do.

A reader returns a value, or raises one sentence of the package. Everything else is a finding: its file is kept in
benchmarks/robustness/seeds, where the tests read it again. Run by hand:

    python -m bridgework.benchmarks.robustness.file_fuzzer --minutes 10 --out benchmarks/results/fuzzing.csv
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import random
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ...models.training.recipe import Recipe
from ...probes.features.features import Features
from ...probes.features.layer_features import LayerFeatures
from ...probes.features.served_states import read_hidden_states
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.plans.evidence_files import read_evidence
from ...probes.plans.layouts import lay_out
from ...probes.stimuli.sources import load_stimuli
from ...tracebacks import _raised_by_check

SEEDS = Path(__file__).with_name("seeds")
SECONDS = 20  # processor time after which a reader hangs
NONSENSE = (
    None, True, False, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", "x", "../x", "\ud800", [], {}, [[]],
    {"a": 1}, [1, "a", None], "1e999", -0.0,
)  # fmt: skip


class Reader(NamedTuple):
    """What is given damaged files.

    Attributes
    ----------
    file : str
        The file that is damaged, relative to the folder.
    make : callable
        Writes the folder.
    read : callable
        Reads the folder, all of it.
    """

    file: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]


class Outcome(NamedTuple):
    """What became of one file.

    Attributes
    ----------
    kind : str
        "value", "refused" or "unhandled".
    said : str
        The error.
    """

    kind: str
    said: str = ""


def _features() -> Features:
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 4))).float()
    names = ("embeddings", "0"), (0.0, 1.0)
    ids = ("a", "b", "c")
    part = LayerFeatures(values, *names, "image", "toy", "understanding", "separate", "mean", (), ids)
    return Features({"image": part}, {"model": "toy"})


def _store(folder: Path) -> None:
    _features().save(folder / "store")


def _read_store(folder: Path) -> None:
    for part in Features.load(folder / "store").values():
        _ = part.values, part.origin


def _pictures(folder: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(folder / "a.png")
    Image.new("RGB", (2, 3), "blue").save(folder / "b.png")


def _metadata(folder: Path) -> None:
    _pictures(folder)
    rows = [{"file_name": f"{name}.png", "text": f"the picture {name}"} for name in "ab"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def _coco(folder: Path) -> None:
    _pictures(folder)
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("ab")]
    captions = [{"image_id": number, "caption": f"number {number}"} for number in range(2)]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": captions}), encoding="utf-8")


def _table(folder: Path) -> None:
    _pictures(folder)
    (folder / "table.csv").write_text("image,text\na.png,first\nb.png,second\n", encoding="utf-8")


def _plan(folder: Path) -> None:
    lay_out("soft", 4, 3, taps=[0, 2]).save(folder / "plan.json")


def _map(folder: Path) -> None:
    (folder / "map.csv").write_text("understanding layer,0,1\n0,0.1,0.2\n1,0.3,0.4\n", encoding="utf-8")
    attrs = {"metric": "cka", "samples": 9, "x_depths": [0.5, 1.0], "y_depths": [0.5, 1.0]}
    (folder / "map.json").write_text(json.dumps(attrs), encoding="utf-8")


def _divergence(folder: Path) -> None:
    fields = {"kind": "peak", "depth": 0.5, "low": 0.4, "high": 0.6, "reason": "so", "k": 3, "samples": 9}
    (folder / "apart.json").write_text(json.dumps(fields), encoding="utf-8")


def _recipe(folder: Path) -> None:
    text = "understanding: scenes-vlm\ngeneration: scenes-dit\nlayout: H\nsteps: 20\nbatch_size: 4\nseed: 0\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")


def _served(folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"hidden_states": torch.ones(3, 2, 4), "token_ids": torch.tensor([1, 2, 3])}
    save_file(tensors, folder / "a.safetensors")


READERS = {
    "plan": Reader("plan.json", _plan, lambda folder: BridgePlan.load(folder / "plan.json")),
    "recipe": Reader("recipe.yaml", _recipe, lambda folder: Recipe.load(str(folder / "recipe.yaml"))),
    "store index": Reader("store/features.json", _store, _read_store),
    "store shard": Reader("store/shard-00000.safetensors", _store, _read_store),
    "metadata": Reader("metadata.jsonl", _metadata, load_stimuli),
    "captions": Reader("coco.json", _coco, lambda folder: load_stimuli(folder / "coco.json")),
    "table": Reader("table.csv", _table, lambda folder: load_stimuli(folder / "table.csv")),
    "picture": Reader("a.png", _table, lambda folder: load_stimuli(folder / "table.csv")),
    "evidence map": Reader("map.csv", _map, lambda folder: read_evidence(folder / "map.csv")),
    "evidence attrs": Reader("map.json", _map, lambda folder: read_evidence(folder / "map.csv")),
    "evidence divergence": Reader("apart.json", _divergence, lambda folder: read_evidence(folder / "apart.json")),
    "served states": Reader("a.safetensors", _served, lambda folder: read_hidden_states(folder, (0, 1), 1)),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return a file with some bytes flipped, cut off, doubled or put in, or with other values in its JSON.

    Parameters
    ----------
    content : bytes
        A right file.
    rng : random.Random
        What decides.

    Returns
    -------
    bytes
        The damaged file.
    """
    if rng.random() < 0.6 and (changed := _changed_values(content, rng)) is not None:
        return changed
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(found) + 1)
        match rng.randrange(5):
            case 0 if place < len(found):
                found[place] ^= 1 << rng.randrange(8)
            case 1:
                del found[place:]
            case 2:
                found[place:place] = found[place : place + rng.randrange(1, 30)]
            case 3:
                found[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
            case _:
                del found[place : place + rng.randrange(1, 30)]
    return bytes(found)


def _changed_values(content: bytes, rng: random.Random) -> bytes | None:
    """Return JSON, or JSON lines, with one value replaced, left out or put in deep brackets; None for other files."""
    try:
        lines = content.decode().split("\n") if content.count(b"\n{") else [content.decode()]
        row = rng.randrange(len(lines))
        tree = [json.loads(lines[row])]
    except (ValueError, UnicodeDecodeError):
        return None
    parent, key = rng.choice(list(_places(tree)))
    match rng.randrange(6):
        case 0 if parent is not tree:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[rng.choice(("", "x", "format", "layers", "0"))] = rng.choice(NONSENSE)
        case 2 if isinstance(parent, dict):
            parent[f"{key}s"] = parent.pop(key)
        case 3:
            depth = rng.choice((3, 5_000))
            lines[row] = json.dumps(tree[0]).replace(json.dumps(parent[key]), "[" * depth + "]" * depth, 1)
            return "\n".join(lines).encode()
        case _:
            parent[key] = rng.choice(NONSENSE)
    lines[row] = json.dumps(tree[0])
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container with each of its keys."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def outcome(reader: Reader, content: bytes) -> Outcome:
    """Read a folder in which one file is replaced.

    Parameters
    ----------
    reader : Reader
        What reads.
    content : bytes
        The file.

    Returns
    -------
    Outcome
        What became of it.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz_") as name:
        folder = Path(name)
        reader.make(folder)
        (folder / reader.file).write_bytes(content)
        began = time.process_time()
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                reader.read(folder)
            except Exception as error:
                found = _judged(error)
            else:
                found = Outcome("value")
        if (taken := time.process_time() - began) > SECONDS:
            return Outcome("unhandled", f"it took {taken:.0f} s")
        return found


def _judged(error: Exception) -> Outcome:
    frames = error.__traceback__
    assert frames is not None
    while frames.tb_next is not None:
        frames = frames.tb_next
    text = str(error.args[0]) if error.args else ""
    own = _raised_by_check(error, frames) and text.strip() and "\n" not in text
    return Outcome("refused" if own else "unhandled", f"{type(error).__name__}: {error}")


def fuzz(name: str, seconds: float, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """Give one reader damaged files for some processor time.

    Parameters
    ----------
    name : str
        A name of `READERS`.
    seconds : float
        The processor time.
    seed : int
        What the damage is drawn from.
    keep : path, optional
        The folder that files of findings are written to.

    Returns
    -------
    dict
        reader, seconds, files, values, refused, unhandled, and found, what was unhandled.
    """
    reader, rng = READERS[name], random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        reader.make(Path(folder))
        right = (Path(folder) / reader.file).read_bytes()
    counts, found, began = {"value": 0, "refused": 0, "unhandled": 0}, {}, time.process_time()
    while time.process_time() - began < seconds:
        content = damaged(right, rng)
        kind, said = outcome(reader, content)
        counts[kind] += 1
        short = re.sub(r"/\S+|\d+", "", said)[:60]
        if kind == "unhandled" and short not in found:
            found[short] = said
            if keep is not None:
                (keep / f"{name.replace(' ', '-')}-{len(found)}").write_bytes(content)
    spent = round(time.process_time() - began, 1)
    named = {"values": counts["value"], "refused": counts["refused"], "unhandled": counts["unhandled"]}
    return {"reader": name, "seconds": spent, "files": sum(counts.values()), **named, "found": [*found.values()]}


def main(arguments: list[str] | None = None) -> None:
    """Fuzz all readers, write what was counted, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="The processor time of all readers together.")
    parser.add_argument("--seed", type=int, default=0, help="What the damage is drawn from.")
    parser.add_argument("--keep", type=Path, help="The folder that the files of findings are written to.")
    parser.add_argument("--out", type=Path, help="The CSV file to write.")
    given = parser.parse_args(arguments)
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in READERS:
        row = fuzz(name, 60 * given.minutes / len(READERS), given.seed, given.keep)
        for said in row.pop("found"):
            print(f"UNHANDLED {name}: {said[:300]}", flush=True)
        print(row, flush=True)
        rows.append(row)
    if given.out is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        given.out.write_text(text.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
