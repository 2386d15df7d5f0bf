"""Jobs: batches that depend on the whole set alone, and the provenance of tokens."""

from __future__ import annotations

import pytest
import torch

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.extraction.jobs import BATCHES, prepare_job, shard_count
from bridgework.probes.extraction_options import ExtractionOptions
from bridgework.tests.probes.toys import letters, many, open_toy


@pytest.mark.parametrize("pooling", ["mean", "none"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_stimulus_is_in_one_batch_of_one_shard(batch_size, pooling):
    job = prepare_job(open_toy(), many(), ExtractionOptions(batch_size=batch_size, pooling=pooling))
    assert len(job) == shard_count(40, batch_size, pooling)
    dealt = [job._batches(number) for number in range(len(job))]
    assert max(len(batches) for batches in dealt) <= (BATCHES if pooling == "mean" else 1)
    assert sorted(place for batches in dealt for batch in batches for place in batch) == list(range(40))
    assert all(len(batch) == batch_size for batches in dealt[:-1] for batch in batches)


def test_without_text_the_order_is_that_of_the_stimuli():
    toy = open_toy()
    toy.modalities = ("image",)
    pairs = ExtractionOptions(batch_size=2)
    assert prepare_job(toy, letters("ccc", "a", "bb"), pairs).batches == ((0, 1), (2,))
    assert prepare_job(open_toy(), letters("ccc", "a", "bb", "d"), pairs).batches == ((1, 3), (2, 0))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_batches_of_nothing(batch_size):
    with pytest.raises((ValueError, TypeError), match="expected a whole number of at least 1"):
        prepare_job(open_toy(), many(), ExtractionOptions(batch_size=batch_size))


@pytest.mark.parametrize("mask", [[True, False, True], torch.tensor([True, False, True])])
@pytest.mark.parametrize("positions", [[1, 0, 1], torch.tensor([1, 0, 1])])
def test_masks_and_positions_are_told_apart(mask, positions, tmp_path):
    """Three letters: the first and the last, or the second, the first and the second again."""
    stimuli = letters("abc", "def")
    extract(open_toy(), stimuli, tokens={"text": mask}, store=tmp_path)
    job = prepare_job(open_toy(), stimuli, ExtractionOptions(tokens={"text": mask}))
    assert job.provenance["tokens"] == {"text": [True, False, True]}
    extract(open_toy(), stimuli, tokens={"text": list(mask)}, store=tmp_path)
    with pytest.raises(ValueError, match=r"made differently \(tokens\.text: expected \[1, 0, 1\], got \[true, false"):
        extract(open_toy(), stimuli, tokens={"text": positions}, store=tmp_path)
