"""Train one editing model and score it: one cell of the study, left in a file that a later call finds.

    python -m bridgework.studies.editing.edit_runs runs/editing            # all cells; stop it at any time
    python -m bridgework.studies.editing.edit_runs runs/editing --minutes 30

Cells are run seed by seed and layout by layout, so that a part of them is a comparison. `bridgework reproduce editing`
does the same, and gathers the tables.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from PIL import Image

from ...models.editing.editing_model import SOURCES, EditingModel, EditRequest
from ...models.evaluation.edit_scores import score_edits
from ...models.experts.opening import open_expert
from ...models.fusion.saved_model import describe_experts
from ...models.generation.flow import TIME_SPREAD, flow_loss
from ...models.generation.sampling import generate
from ...models.scenes.edits import EDIT_KINDS, Edit, render_edit
from ...models.scenes.scene import SIZE
from ...models.training.loop import fit
from ...probes.files import write_json, write_parquet
from ...probes.fingerprints.described_values import digest
from ...probes.stimuli.images import to_pixels
from ..settings import RESULTS
from . import edit_testbed as testbed
from .edit_testbed import FLOOR, LAYOUTS, MAIN, SEEDS, UNBRIDGED, edits, fuse

COMMITTED = RESULTS / "editing" / "edits.parquet"
HELD_OUT_SEED = 2**31  # no run has this seed
SCORES = ("change", "stay_objects", "stay_pixels", "success")


class EditCell(NamedTuple):
    """One run: a layout, the way its source enters, a seed, and what it is for.

    Attributes
    ----------
    layout : str
        A name of `LAYOUTS`.
    source : str
        A name of `SOURCES`.
    seed : int
        Of the first weights and of the batches.
    run : str
        `MAIN`, `FLOOR` or `UNBRIDGED`.
    """

    layout: str
    source: str
    seed: int
    run: str = MAIN


def edit_cells() -> list[EditCell]:
    """List all runs of the study, seed by seed and layout by layout, so that a part of them is a comparison.

    Returns
    -------
    list of EditCell
    """
    cells: list[EditCell] = []
    for seed in SEEDS:
        for layout in LAYOUTS:
            cells += [EditCell(layout, source, seed) for source in reversed(SOURCES)]
            cells.append(EditCell(layout, "both", seed, FLOOR))
        cells.append(EditCell("", "spatial", seed, UNBRIDGED))
    return cells


def config() -> str:
    """Return the hash of all that a run depends on but its cell.

    Returns
    -------
    str
        Sixteen digits.
    """
    constants = (
        "PROTOCOL", "STEPS", "BATCH", "PARAMETERS", "RATES", "ENTRY_RATES", "TUNING", "DROPOUT", "TIME_SHIFT",
        "DRAWN", "SAMPLING",
    )  # fmt: skip
    settings: dict[str, Any] = {name: getattr(testbed, name) for name in constants}
    asked = {part: digest([[e.source.caption, e.instruction] for e in edits(part)]) for part in testbed.POOL}
    return digest(settings | {"edits": asked, "experts": _described()})


@cache  # hashing both experts takes longer than all else here
def _described() -> list[dict[str, Any]]:
    return describe_experts([open_expert(testbed.UNDERSTANDING), open_expert(testbed.GENERATION)])


def tuned_rate(layout: str, folder: Path) -> float:
    """Return the learning rate of a layout: that of `RATES` with the lowest validation loss after a short run.

    Parameters
    ----------
    layout : str
        A name of `LAYOUTS`.
    folder : Path
        The folder of the study; what it holds is not run again.

    Returns
    -------
    float
    """
    losses = {}
    for rate in testbed.RATES:
        path = folder / "rates" / f"{layout.replace(' ', '-')}-{rate}.json"
        with _locked(path):
            if (kept := _kept(path)) is None:
                cell = EditCell(layout, testbed.TUNING["source"], testbed.TUNING["seed"])
                loss = _loss(train_editor(cell, folder, rate, testbed.TUNING["steps"]), "validation")
                write_json(path, kept := {"rate": rate, "loss": loss, "config": config()})
        losses[rate] = kept["loss"]
    return min(losses, key=lambda rate: losses[rate])


def _kept(path: Path) -> dict[str, Any] | None:
    """Return what a file holds of a run of this configuration."""
    row = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return row if row.get("config") == config() else None


def _locked(path: Path, timeout: float = -1) -> FileLock:
    """Return a lock for what is written to a file; processes that share a folder do not run the same."""
    lock = path.parents[1] / "locks" / f"{path.stem}.lock"
    for folder in (path.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    return FileLock(lock, timeout=timeout)


def run_edit_cell(cell: EditCell, folder: Path) -> dict[str, Any]:
    """Train and score one run, or return what an earlier call has left.

    Parameters
    ----------
    cell : EditCell
        The run.
    folder : Path
        The folder of the study. It gets the row, and a table with the drawn images beside it.

    Returns
    -------
    dict
        One row of edits.parquet (protocol.md).
    """
    path = cell_path(cell, folder)
    if (kept := _kept(path)) is not None:
        return kept
    rate = tuned_rate(cell.layout or LAYOUTS[0], folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    model = train_editor(cell, folder, rate, testbed.STEPS)
    trained = time.process_time() - began
    table = _draw(model, f"test {cell.seed}")
    means = {name: float(table[name].mean()) for name in SCORES}
    held = table["change"] * table["stay_objects"] * table["stay_pixels"]
    by_kind = {f"success of {kind}": float(found.mean()) for kind, found in table.groupby("kind")["success"]}
    row = {
        **cell._asdict(), "loss": _loss(model, "test"), **means, "score": float(held.mean()), **by_kind,
        "rate": rate, "steps": testbed.STEPS, "parameters": _count(model, cell), "edits": len(table),
        "step_seconds": round(trained / testbed.STEPS, 4), "seconds": round(time.process_time() - began, 1),
        "config": config(), "versions": _versions(), "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    write_parquet(path.with_suffix(".parquet"), table)
    write_json(path, row)
    return row


def cell_path(cell: EditCell, folder: Path) -> Path:
    """Return where the row of a run lies.

    Parameters
    ----------
    cell : EditCell
        The run.
    folder : Path
        The folder of the study.

    Returns
    -------
    Path
    """
    name = "-".join(str(part) for part in cell if part != "").replace(" ", "-").replace("'", "")
    return folder / "cells" / f"{name}.json"


def train_editor(cell: EditCell, folder: Path, rate: float, steps: int) -> EditingModel:
    """Train bridges and entry of a run on the part train.

    Parameters
    ----------
    cell : EditCell
        The run.
    folder : Path
        The folder of the study.
    rate : float
        The learning rate of the bridges' matrices; their vectors learn at twice the rate.
    steps : int
        Training steps.

    Returns
    -------
    EditingModel
        In evaluation mode. A training that was stopped goes on from its last checkpoint.
    """
    torch.manual_seed(cell.seed)
    model = EditingModel(fuse(cell.layout or LAYOUTS[0]), cell.source)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).train()
    trained: torch.nn.Module = model.trained()
    if cell.run == UNBRIDGED:
        model.fused.disabled_bridges = set(range(len(model.fused.bridges)))
        trained = torch.nn.ModuleDict({"entry": model.entry})  # type: ignore[dict-item]
    run = folder / "training" / f"{cell_path(cell, folder).stem}-{rate}-{steps}-{config()}"
    fit(
        trained, lambda step: flow_loss(model, edit_batch(step, cell.seed, cell.run == FLOOR)), run, steps,
        learning_rate=2 * rate, muon=rate, checkpoint_every=50, progress=cell_path(cell, folder).stem,
        lr_scale=lambda name: testbed.ENTRY_RATES.get(name, 2 * rate) / (2 * rate),
    )  # fmt: skip
    shutil.rmtree(run)  # it is scored at once
    return model.eval()


def edit_batch(step: int, seed: int, shuffled: bool) -> dict[str, Any]:
    """Draw a batch of edits of the training part, a function of seed and step alone.

    Parameters
    ----------
    step, seed : int
        The number of the batch, and the seed of the run.
    shuffled : bool
        Whether every source gets the instruction of another edit.

    Returns
    -------
    dict
        As `flow_loss` takes it: its captions are `EditRequest`s.
    """
    rng = np.random.default_rng((seed, step))
    chosen = [edits("train")[number] for number in rng.choice(len(edits("train")), testbed.BATCH, replace=False)]
    words = ["" if rng.random() < testbed.DROPOUT else edit.instruction for edit in chosen]
    return _noisy(rng, chosen, words[1:] + words[:1] if shuffled else words)


def _noisy(rng: np.random.Generator, chosen: Sequence[Edit], words: Sequence[str]) -> dict[str, Any]:
    count = len(chosen)
    pairs = [render_edit(edit, rng) for edit in chosen]
    requests = [EditRequest(source, said) for (source, _), said in zip(pairs, words, strict=True)]
    time = torch.from_numpy(1 / (1 + np.exp(-rng.normal(testbed.TIME_SHIFT, TIME_SPREAD, count)))).float()
    noise = torch.from_numpy(rng.standard_normal((count, 3, SIZE, SIZE), dtype=np.float32))
    return {
        "image": to_pixels([result for _, result in pairs], SIZE),
        "caption": requests,
        "time": time,
        "noise": noise,
    }


@torch.no_grad()
def _loss(model: EditingModel, part: str) -> float:
    """Return the loss on a part, of fixed images, times and noise."""
    rng, held = np.random.default_rng(HELD_OUT_SEED), edits(part)
    batches = [held[start : start + testbed.BATCH] for start in range(0, len(held), testbed.BATCH)]
    return float(np.mean([flow_loss(model, _noisy(rng, batch, [e.instruction for e in batch])) for batch in batches]))


def _draw(model: EditingModel, name: str) -> pd.DataFrame:
    """Draw and score test edits: a row for each, with source, truth and result as PNG."""
    each, rng = testbed.POOL["test"], np.random.default_rng(HELD_OUT_SEED + 1)
    chosen = [edits("test")[kind * each + n] for kind in range(len(EDIT_KINDS)) for n in range(testbed.DRAWN)]
    pairs = [render_edit(edit, rng) for edit in chosen]
    sources = [source for source, _ in pairs]
    requests = [EditRequest(source, edit.instruction) for source, edit in zip(sources, chosen, strict=True)]
    drawn = generate(model, requests, [f"{name} {number}" for number in range(len(chosen))], **testbed.SAMPLING)
    table = score_edits(chosen, sources, drawn)
    images = {"source_png": sources, "truth_png": [truth for _, truth in pairs], "result_png": drawn}
    return table.assign(**{column: list(map(_png, found)) for column, found in images.items()})


def _png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _count(model: EditingModel, cell: EditCell) -> int:
    trained = model.entry if cell.run == UNBRIDGED else model.trained()
    return sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad)  # type: ignore


def _versions() -> str:
    import diffusers
    import transformers

    return f"torch {torch.__version__}, transformers {transformers.__version__}, diffusers {diffusers.__version__}"


def restore(folder: Path) -> None:
    """Put the committed rows into a folder, so that they are not run again.

    Runs of the first seed whose drawings are shown are not among them: all their drawings are not committed.

    Parameters
    ----------
    folder : Path
        The folder of the study.
    """
    if not COMMITTED.is_file():
        return
    for line in pd.read_parquet(COMMITTED).to_json(orient="records", lines=True, double_precision=15).splitlines():
        row = json.loads(line)
        cell = EditCell(*(row[name] for name in EditCell._fields))
        path = cell_path(cell, folder)
        if not path.is_file() and (cell.seed != SEEDS[0] or cell.run != MAIN):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, row)


def run_edits(folder: Path, minutes: float | None = None) -> None:
    """Run the cells that are missing, one after another. Those that another process is running are left to it.

    Parameters
    ----------
    folder : Path
        The folder of the study.
    minutes : float, optional
        No cell is started after so many.
    """
    began = time.monotonic()
    restore(folder)
    for cell in edit_cells():
        if minutes is not None and time.monotonic() - began > 60 * minutes:
            return
        try:
            with _locked(cell_path(cell, folder), timeout=0):
                row = run_edit_cell(cell, folder)
        except Timeout:
            continue
        shown = " ".join(f"{name} {row[name]:.2f}" for name in (*SCORES, "score"))
        print(
            f"{cell.layout or '-'}, {cell.source}, seed {cell.seed}, {cell.run}: loss {row['loss']:.3f} {shown}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the module as a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; that of the process if left out.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of the study; what it holds is not run again")
    parser.add_argument("--minutes", type=float, help="start no cell after so many minutes")
    options = parser.parse_args(arguments)
    run_edits(options.folder, options.minutes)


if __name__ == "__main__":
    main()
