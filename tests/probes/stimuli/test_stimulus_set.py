"""A set of stimuli: what it guarantees, and what it refuses."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from PIL import Image

from bridgework.probes.stimuli.sources import load_stimuli
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.tests.probes.stimuli.pictures import picture, write_folder


def test_set_is_a_sequence_and_slices_are_sets(noto):
    few = noto[:20]
    assert isinstance(few, Stimuli) and len(few) == 20 and few.name == "noto"
    assert isinstance(few[3], Stimulus) and few[3] == noto[3] and few[-1] == noto[19]
    image, text, id = few[0]
    assert (image, text, id) == (few[0].image, few[0].text, few[0].id)
    assert [s.id for s in few[::-2]] == [few[i].id for i in range(19, -1, -2)]
    with pytest.raises(IndexError):
        few[20]


def test_digest_follows_ids_texts_pixels_and_order():
    base = [Stimulus(picture(0), "a", "0"), Stimulus(picture(1), "b", "1")]
    digest = Stimuli(base).digest
    assert len(bytes.fromhex(digest)) == 32
    assert Stimuli(base, name="another").digest == digest == Stimuli([*base, (picture(2), "c", "2")])[:2].digest
    one_pixel = picture(0)
    one_pixel.putpixel((11, 7), (1, 2, 3))
    reshaped = Image.frombytes("RGB", (8, 12), picture(0).tobytes())
    others = [
        [base[0]._replace(image=one_pixel), base[1]],
        [base[0]._replace(image=reshaped), base[1]],
        [base[0]._replace(text="A"), base[1]],
        [base[0]._replace(id="00"), base[1]],
        [base[0]._replace(text="b"), base[1]._replace(text="a")],
        base[::-1],
        base[:1],
    ]
    assert len({digest, *(Stimuli(other).digest for other in others)}) == len(others) + 1


def test_one_sample_is_a_set():
    assert len(Stimuli([Stimulus(picture(), "a", "0")])) == 1


def test_sets_can_be_sent_to_workers(tmp_path):
    for stimuli in (load_stimuli("noto", limit=3), load_stimuli(write_folder(tmp_path))):
        copy = ForkingPickler.loads(ForkingPickler.dumps(stimuli))
        assert copy.digest == stimuli.digest and copy[2].image.tobytes() == stimuli[2].image.tobytes()


def test_transparent_images_are_laid_over_white():
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    clear = Image.new("LA", (1, 1), (0, 0))
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    palette.info["transparency"] = 0
    samples = Stimuli([(half, "half", "0"), (clear, "clear", "1"), (palette, "palette", "2")])
    assert [s.image.getpixel((0, 0)) for s in samples] == [(255, 127, 127), (255, 255, 255), (255, 255, 255)]
    assert {s.image.mode for s in samples} == {"RGB"}


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_that_pil_would_clip_are_refused(mode):
    with pytest.raises(ValueError, match=f"sample 0 has mode '{mode}': expected 8 bits"):
        Stimuli([(Image.new(mode, (2, 2), 1000), "deep", "0")])


@pytest.mark.parametrize(
    ("sample", "kind", "message"),
    [
        ((picture(), 7, "1"), TypeError, "caption of sample 1 is a int: expected one string"),
        ((picture(), ["a", "b"], "1"), TypeError, "caption of sample 1 is a list"),
        ((picture(), " ", "1"), ValueError, "caption of sample 1 is blank"),
        ((np.zeros((2, 2, 3)), "a", "1"), TypeError, r"image of sample 1 is a ndarray: expected a PIL\.Image"),
        ((picture(), "a", 1), TypeError, "id of sample 1 is a int: expected a string"),
        ((picture(), "a"), TypeError, r"sample 1 is a tuple: expected a Stimulus\(image, text, id\)"),
        ((picture(1), "b", "0"), ValueError, "hold the id '0' twice"),
    ],
)
def test_bad_samples(sample, kind, message):
    with pytest.raises(kind, match=message):
        Stimuli([(picture(), "a", "0"), sample])


def test_empty_set():
    with pytest.raises(ValueError, match="stimuli 'mine' are empty: expected at least one image"):
        Stimuli([], name="mine")
    with pytest.raises(ValueError, match="are empty"):
        Stimuli([(picture(), "a", "0")])[1:]
