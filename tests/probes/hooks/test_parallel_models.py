"""Two processes that hold parts of one model extract what the whole model gives, or all say one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.tests.probes import parallel_ranks
from bridgework.tests.probes.parallel_ranks import llama, mixtral, plain, subject, words

SCRIPT = Path(parallel_ranks.__file__)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The folder of what two processes extract. They use the machine's own sockets."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        folder = tmp_path_factory.mktemp("two")
        done = subprocess.run([*command, SCRIPT, folder], capture_output=True, text=True, env=environment, timeout=300)
        # Once in many runs a process is aborted while torch frees memory ("malloc()", exit code -6). That is no outcome
        # of ours: they start anew, once. Whatever ends with a Python error fails at once.
        if not re.search(r"exitcode\s*: -6", done.stderr):
            break
    assert not done.returncode, done.stderr[-3000:]
    return folder


def errors(folder: Path, rank: int) -> dict[str, str]:
    return json.loads((folder / f"errors-{rank}.json").read_text())


WHOLE = {
    "tensor parallel, the library's plan": llama,
    "experts dealt out": mixtral,
    "tensor parallel, torch's styles": llama,
    "FSDP2": llama,
    "FSDP2, copies of parts": llama,
    "DistributedDataParallel": llama,
    "sequence parallel, DTensors": plain,
    "sequence parallel, local tensors": plain,
}


@pytest.mark.parametrize("case", WHOLE)
def test_parts_give_what_the_whole_model_gives(two, case):
    assert case not in errors(two, 0) | errors(two, 1)
    found, wanted = Features.load(two / case)["text"], extract(subject(WHOLE[case]()), words(), batch_size=1)["text"]
    assert found.samples == wanted.samples
    torch.testing.assert_close(found.values, wanted.values, rtol=0, atol=1e-5)


def test_without_a_store_every_rank_has_the_features(two):
    wanted = extract(subject(llama()), words(3))["text"].values
    for rank in range(2):
        found = Features.load(two / f"no store, rank {rank}")["text"].values
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


REFUSED = {
    "width": r"layer 'layers.1' gives 4 tokens .* shapes \(1, 4, 8\), \(1, 4, 8\): its states are parts",
    "a stage of a pipeline": "is one stage of a pipeline, so that this rank has only some of its blocks",
    "other weights": "rank 1 has another 'model.norm' than rank 0",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_put_together_is_refused_on_all_ranks(two, case):
    for rank in range(2):
        assert re.search(REFUSED[case], errors(two, rank)[case])
    assert not list(two.glob(f"{case}/shard*"))


def test_an_error_on_one_rank_is_heard_on_the_other(two):
    assert errors(two, 0)["a full disk"] == "OSError: no space left"
    heard = errors(two, 1)["a full disk"]
    assert heard == "RuntimeError: rank 0 failed, and this one cannot end without it: OSError: no space left"
