"""Rows of other stimuli are not compared, whatever their ids say; controls are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridgework.probes.curves.curve import alignment_curve
from bridgework.probes.evidence.complementarity import complementarity_map
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.similarity.nulls import map_null
from bridgework.probes.similarity.scoring import similarity_map
from bridgework.probes.stimuli.controls import mismatched
from bridgework.probes.stimuli.sources import load_stimuli
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.tests.probes.toys import TEXTS, letters, open_toy

TEN = letters(*TEXTS)


class Rows:
    """A dataset of ten rows, in some order."""

    column_names = ("image", "text")

    def __init__(self, *order: int) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, row: int) -> dict[str, object]:
        return {"image": TEN[self.order[row]].image, "text": TEN[self.order[row]].text}


@pytest.fixture(scope="module")
def seen() -> Features:
    return extract(open_toy(), load_stimuli(Rows(*range(10))))


def other(stimuli: Stimuli) -> LayerFeatures:
    toy = open_toy()
    toy.name = "other"
    return extract(toy, stimuli)["text"]


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "in a store"])
def test_a_shuffled_dataset(seen, tmp_path, kept):
    shuffled = extract(open_toy(), load_stimuli(Rows(3, 1, 4, 0, 5, 9, 2, 6, 8, 7)), store=tmp_path if kept else None)
    assert shuffled["text"].samples == seen["text"].samples  # row numbers
    message = r"'0' has another image and another text in 'toy' than in 'toy' \(a dataset's ids are row numbers\)"
    for compare in (similarity_map, map_null, alignment_curve):
        with pytest.raises(ValueError, match=message):
            compare(seen["image"], shuffled["text"], "cka")
    with pytest.raises(ValueError, match=message):
        complementarity_map(seen["text"], shuffled["image"], seen["text"].layer("0"))


def test_one_row_that_was_replaced(seen):
    with pytest.raises(ValueError, match="'9' has another image and another text in 'toy' than in 'other'"):
        similarity_map(seen["image"], other(load_stimuli(Rows(*range(9), 0))), "cka")


def test_controls_and_selections_are_compared(seen):
    named = Stimuli([s._replace(id=str(i)) for i, s in enumerate(TEN)])
    for control in (
        named,
        mismatched(named),
        Stimuli([Stimulus(s.image.transpose(0), s.text, s.id) for s in named]),  # pictures in another style
        Stimuli([Stimulus(s.image, s.text.upper(), s.id) for s in named]),  # names in another language
    ):
        assert similarity_map(seen["image"], other(control), "cka").shape == (4, 4)
    order = [3, 1, 4, 0, 5, 9]
    some = [
        replace(part, values=part.values[:, order], samples=tuple(part.samples[i] for i in order))
        for part in seen.values()
    ]
    assert similarity_map(*some, metric="cka").shape == (4, 4)
