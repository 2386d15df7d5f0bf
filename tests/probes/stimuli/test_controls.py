"""Controls: mismatched captions, and noise that belongs to an id."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.probes.stimuli.controls import mismatched, noise_for
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.tests.probes.toys import letters


@pytest.fixture
def stimuli() -> Stimuli:
    return letters("a", "bc", "def", "ghij", "klmno", "p", "qr")


@pytest.mark.parametrize("count", [2, 3, 7])
def test_mismatched_leaves_none_with_its_own_text(stimuli, count):
    shown = stimuli[:count]
    wrong = mismatched(shown)
    assert sorted(s.text for s in wrong) == sorted(s.text for s in shown)
    assert not [one for one, other in zip(shown, wrong, strict=True) if one.text == other.text]
    assert [s.id for s in wrong] == [s.id for s in shown]
    assert all(np.array_equal(np.asarray(a.image), np.asarray(b.image)) for a, b in zip(shown, wrong, strict=True))
    assert wrong.digest != shown.digest
    assert wrong.digest == mismatched(shown).digest
    assert wrong.name == "letters mismatched"


def test_one_stimulus_cannot_be_mismatched(stimuli):
    with pytest.raises(ValueError, match="give at least two"):
        mismatched(stimuli[:1])


def test_noise_belongs_to_the_id():
    noise = noise_for(["a", "b", "a"], (3, 20, 20))
    assert noise.shape == (3, 3, 20, 20)
    assert noise.dtype == torch.float32
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1], noise_for(["b"], (3, 20, 20))[0])
    assert abs(float((noise[0] * noise[1]).mean())) < 0.1
    assert float(noise[0].mean()) == pytest.approx(0, abs=0.1)
    assert float(noise[0].std()) == pytest.approx(1, abs=0.1)
