"""Time the way from two model folders and a table of images to the figures of a paper, in seconds of one CPU core.

    python -m bridgework.benchmarks.first_report     # writes benchmarks/results/first_report.csv

The folders are copies of the shipped experts, and the table is written from scenes, so that the command meets them as
it meets a user's own. Installation is not counted.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from ..models.experts.opening import CHECKPOINTS
from ..models.scenes.composing import scene_stimuli
from ..pair_report import ReportOptions, write_report
from ..probes.stimuli.sources import load_stimuli
from .support.inputs import machine

RESULTS = Path(__file__).with_name("results")
IMAGES = 96


def write_own_data(folder: Path, count: int) -> None:
    """Write two model folders, and a table of images with captions beside a folder of the images.

    Parameters
    ----------
    folder : Path
        Gets vlm/, dit/, images/ and captions.csv.
    count : int
        How many images.
    """
    for name, shipped in {"vlm": "scenes-vlm", "dit": "scenes-dit"}.items():
        shutil.copytree(CHECKPOINTS / shipped, folder / name)
    (folder / "images").mkdir()
    rows = []
    for number, stimulus in enumerate(scene_stimuli("evidence", count)):
        stimulus.image.save(folder / "images" / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "caption": stimulus.text})
    pd.DataFrame(rows).to_csv(folder / "captions.csv", index=False)


def main() -> None:
    """Write and print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_own_data(folder, IMAGES)
        began = time.process_time()
        stimuli = load_stimuli(folder / "captions.csv", root=folder / "images")
        options = ReportOptions(venue="cvpr")
        page = write_report(str(folder / "vlm"), str(folder / "dit"), stimuli, folder / "report", options)
        seconds = time.process_time() - began
        figures = len(list((page.parent / "figures").glob("*.pdf")))
    row = {"images": len(stimuli), "figures": figures, "cpu_seconds": round(seconds, 1), "machine": machine()}
    table = pd.DataFrame([row])
    table.to_csv(RESULTS / "first_report.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
