"""A process takes its own GPU, and a device that is not there is refused by name at every public door."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.probes import attention_mass, attribute, check_model, similarity_map
from bridgework.probes.workers.devices import chosen_device, local_device

from ..toys import TEXTS, letters, open_toy


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    assert local_device() in ("cpu", "cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "6")
    assert local_device() == chosen_device("auto") == "cuda:2"
    assert chosen_device("cuda:3") == "cuda:3"
    with pytest.raises(ValueError, match="device is 'cuda:4', and torch finds 4 GPUs"):
        chosen_device("cuda:4")


@pytest.mark.parametrize(("device", "says"), [("cuda", "torch finds no GPU"), ("gpu", "expected 'auto'")])
def test_a_device_that_is_not_there_is_refused_at_the_door(device, says, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    toy, stimuli, layers = open_toy(), letters(*TEXTS), np.random.default_rng(0).standard_normal((2, 10, 3))
    for call in (
        lambda: similarity_map(layers, layers, "cka", device=device),
        lambda: attention_mass(toy, stimuli, device=device),
        lambda: attribute(toy, stimuli, lambda *_: torch.zeros(1), device=device),
        lambda: check_model(toy, stimuli, device=device),
    ):
        with pytest.raises(ValueError, match=f"device is '{device}'.*{says}"):
            call()
