"""Batches: their order, and what happens where memory does not suffice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.subject import ForwardPass
from bridgework.tests.probes.toys import Toy


def test_features_do_not_depend_on_batches_or_order(swept, stimuli):
    whole = extract(swept, stimuli, timesteps=(0.5,), batch_size=7)
    dealt = extract(swept, stimuli, timesteps=(0.5,), batch_size=2)
    order = [4, 2, 6, 0, 1, 5, 3]
    shuffled = extract(swept, Stimuli([stimuli[i] for i in order]), timesteps=(0.5,), batch_size=3)
    for modality in whole:
        torch.testing.assert_close(whole[modality].values, dealt[modality].values, rtol=0, atol=1e-5)
        torch.testing.assert_close(whole[modality].values[:, order], shuffled[modality].values, rtol=0, atol=1e-5)


def limited(toy: Toy, most: int, error: BaseException) -> list[int]:
    """Let the toy fit at most so many stimuli at once; returns the list of the sizes that it was given."""
    sizes: list[int] = []

    def run(states: Tensor) -> Tensor:
        sizes.append(len(states))
        if len(states) > most:
            raise error
        return toy.model(states)

    toy.run = run
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_is_halved_where_memory_is_short(swept, stimuli, error):
    whole = extract(swept, stimuli, timesteps=(0.2, 0.8), batch_size=7)
    sizes = limited(swept, 2, error)
    with pytest.warns(UserWarning, match=r"stimuli at once do not fit into memory .*: continuing with"):
        halved = extract(swept, stimuli, timesteps=(0.2, 0.8), batch_size=7)
    assert sizes[:3] == [7, 4, 2]
    assert max(sizes[3:]) == 2  # and it does not try more again
    for modality in whole:
        torch.testing.assert_close(whole[modality].values, halved[modality].values, rtol=0, atol=1e-5)
        assert halved[modality].samples == whole[modality].samples
    assert halved.provenance["notes"] == {"0": {"halved": {"0": [2, 2, 2, 1]}}}
    assert "notes" not in whole.provenance


def test_one_stimulus_that_does_not_fit(toy, stimuli):
    limited(toy, 0, MemoryError("no room"))
    with (
        pytest.warns(UserWarning, match="continuing with [421]"),
        pytest.raises(MemoryError, match=r"stimulus 'id a' alone does not fit into memory with toy \(no room\): open"),
    ):
        extract(toy, stimuli)


def test_other_errors_do_not_halve(toy, stimuli):
    sizes = limited(toy, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        extract(toy, stimuli)
    assert sizes == [7]


def test_batches_are_sorted_by_length(toy, stimuli):
    seen: list[list[str]] = []
    show = toy.show

    def recorded(batch: Sequence[Stimulus], *asked: Any) -> ForwardPass:
        seen.append([s.text for s in batch])
        return show(batch, *asked)

    toy.show = recorded  # type: ignore[method-assign]
    found = extract(toy, stimuli, batch_size=3)
    assert seen[::2] == [["a", "p", "bc"], ["qr", "def", "ghij"], ["klmno"], ["qr"]]  # the last is shown again
    assert found["text"].samples == tuple(s.id for s in stimuli)
