"""Small pictures, and a folder of them, for the tests of stimuli."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (12, 8)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def write_folder(folder: Path, count: int = 3) -> Path:
    lines = []
    for i in range(count):
        picture(i).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"caption {i}"}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder
