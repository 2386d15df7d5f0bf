#!/usr/bin/env bash
# torch 2.13.0 (CPU), numpy 2.4.6.
#
# One would guess: a reduction with a wider dtype=, over features that are mapped from disk, converts a few values at a
# time, as the same call of NumPy does. So it takes next to no memory, however large the file is.
#
# What happens: torch's sum and mean with dtype=torch.float64, and vector_norm with dtype=torch.float32 over one axis,
# convert all values first. Of a file in half precision they take four times, and twice, its size. Without dtype= the
# sum takes nothing, and loses digits in half precision. NumPy's sum in float64 takes nothing.
#
# Seen (400,000 x 256 values in float16, 195 MiB; the peak of the process's own memory, in MiB):
#   torch, sum                             0
#   torch, sum in float64                781
#   torch, mean of columns in float64    781
#   torch, norms of rows in float32      392
#   NumPy, sum in float64                  0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q numpy==2.4.6
OMP_NUM_THREADS=1 "$work/venv/bin/python" - "$work/features.npy" <<'PYTHON'
import sys
import threading
from pathlib import Path

import numpy as np
import torch

torch.set_num_threads(1)
written = np.lib.format.open_memmap(sys.argv[1], mode="w+", dtype=np.float16, shape=(400_000, 256))
written[:] = 1
written.flush()
del written
array = np.load(sys.argv[1], mmap_mode="c")
features = torch.from_numpy(array)


def own_memory():
    """Return the MiB that the process holds without files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def peak(reduce):
    """Return how many MiB more than before a call takes at its peak."""
    before, seen, done = own_memory(), [], threading.Event()

    def look():
        while not done.wait(0.002):
            seen.append(own_memory())

    looking = threading.Thread(target=look)
    looking.start()
    reduce()
    done.set()
    looking.join()
    return max(seen) - before


size = array.nbytes / 2**20
found = {
    "torch, sum": peak(features.sum),
    "torch, sum in float64": peak(lambda: features.sum(dtype=torch.float64)),
    "torch, mean of columns in float64": peak(lambda: features.mean(0, dtype=torch.float64)),
    "torch, norms of rows in float32": peak(lambda: torch.linalg.vector_norm(features, dim=1, dtype=torch.float32)),
    "NumPy, sum in float64": peak(lambda: array.sum(dtype=np.float64)),
}
for name, taken in found.items():
    print(f"{name:36}{taken:5.0f}")
little = [found["torch, sum"], found["NumPy, sum in float64"]]
whole = [found["torch, sum in float64"], found["torch, mean of columns in float64"]]
if not (max(little) < size / 4 and min(whole) > 3 * size and found["torch, norms of rows in float32"] > 1.5 * size):
    sys.exit("changed: reductions in another dtype copy other amounts of what they reduce")
print("as described")
PYTHON
