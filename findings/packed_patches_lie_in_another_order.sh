#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (CPU), the image processors of Qwen2-VL and PaddleOCR-VL.
#
# One would guess: `image_grid_thw` and a merge size of 2 mean the same in each family that has them, so the rows of
# `pixel_values` can be unfolded into rows and columns in one way.
#
# What happens: both processors pack the patches of a picture into rows, with the same grid (1, rows, columns) and the same
# merge size. Qwen2-VL lists them group by group, the four patches of each 2 x 2 group that is merged later one behind the
# other. PaddleOCR-VL lists them row by row. Nothing in the outputs says which.
#
# Seen (the places of the first eight rows of pixel_values in a picture of 4 x 8 patches, row:column):
#   Qwen2VL      0:0 0:1 1:0 1:1 0:2 0:3 1:2 1:3
#   PaddleOCRVL  0:0 0:1 0:2 0:3 0:4 0:5 0:6 0:7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 pillow
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from PIL import Image
from transformers import PaddleOCRVLImageProcessorPil, Qwen2VLImageProcessorPil

PATCH, ROWS, COLUMNS = 14, 4, 8
number = np.arange(ROWS * COLUMNS, dtype=np.uint8).reshape(ROWS, COLUMNS)  # each patch has a shade of its own
picture = Image.fromarray(np.kron(number, np.ones((PATCH, PATCH), np.uint8))).convert("RGB")
options = {"patch_size": PATCH, "merge_size": 2, "do_resize": False, "do_normalize": False, "do_rescale": False}
SEEN = {
    "Qwen2VL": "0:0 0:1 1:0 1:1 0:2 0:3 1:2 1:3",
    "PaddleOCRVL": "0:0 0:1 0:2 0:3 0:4 0:5 0:6 0:7",
}

found = {}
for name, kind in (("Qwen2VL", Qwen2VLImageProcessorPil), ("PaddleOCRVL", PaddleOCRVLImageProcessorPil)):
    made = kind(**options)(picture, return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, ROWS, COLUMNS]], made["image_grid_thw"]
    shades = made["pixel_values"].flatten(1)[:, 0].round().int().tolist()
    found[name] = " ".join(f"{shade // COLUMNS}:{shade % COLUMNS}" for shade in shades[:8])
    print(f"{name:12} {found[name]}")
if found != SEEN:
    sys.exit("the processors list patches in another order than seen")
PYTHON
