"""What holds for every test: no network, one thread, no window."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

BLOCK = Path(__file__).parent / "block"

# Before torch, transformers or a notebook kernel starts.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BLOCK), os.environ.get("PYTHONPATH")]))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MPLBACKEND", None)  # notebook kernels would inherit it and draw nothing inline
runpy.run_path(str(BLOCK / "sitecustomize.py"))

import matplotlib  # noqa: E402

matplotlib.use("agg")


def pytest_addoption(parser):
    parser.addoption("--all-notebooks", action="store_true", help="run the long notebooks in JupyterLab as well")
