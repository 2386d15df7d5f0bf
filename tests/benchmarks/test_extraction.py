"""The race of extraction compares like with like: all contestants that keep features end with the same."""

from __future__ import annotations

import pytest
import torch

from bridgework.benchmarks.extraction import BATCH, CONTESTANTS, by_length, of_all_words
from bridgework.models import open_expert


@pytest.fixture(scope="module")
def expert():
    return open_expert("minilm-l6")


@pytest.mark.filterwarnings("ignore::UserWarning")  # nnsight: BERT has parts named `output`
@pytest.mark.parametrize("contestant", ["output_hidden_states", "nnsight", "captum"])
def test_contestants_agree(expert, contestant):
    stimuli = by_length(BATCH + 3)
    with torch.inference_mode():
        wanted, values = of_all_words(expert, stimuli), CONTESTANTS[contestant](expert, stimuli)
    torch.testing.assert_close(values, wanted[-len(values) :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("contestant", ["bare", "bare, without its head"])
def test_bare_passes_run_every_batch_and_leave_the_expert_alone(expert, contestant):
    runs, model = [], expert.model
    handle = model.base_model.register_forward_hook(lambda *_: runs.append(1))
    try:
        assert CONTESTANTS[contestant](expert, by_length(BATCH + 3)) is None
    finally:
        handle.remove()
    assert len(runs) == 2
    assert expert.model is model
