"""Pooling in an extraction: tokens, grids, cleaned features and dtypes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.similarity.patches import match_patches
from bridgework.probes.similarity.scoring import similarity_map
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.tests.probes.toys import DIM, IMAGE_TOKENS, TEXT_TOKENS, Toy


@torch.no_grad()
def test_the_mean_over_a_modalitys_own_tokens(toy, stimuli):
    text = extract(toy, stimuli)["text"].values
    for row, stimulus in enumerate(stimuli):
        states = torch.zeros(1, TEXT_TOKENS, DIM)
        for column, letter in enumerate(stimulus.text):
            states[0, column] = torch.arange(DIM) * ord(letter) / 500
        for layer in range(4):
            torch.testing.assert_close(text[layer, row], states[0, : len(stimulus.text)].mean(0))
            states = toy.model.layers[layer](states) if layer < 3 else states


@torch.no_grad()
def test_first_last_and_all_tokens(toy, stimuli):
    first, last, every = (extract(toy, stimuli, pooling=kind, batch_size=3) for kind in ("first", "last", "none"))
    assert every["text"].values.shape == (4, 7, TEXT_TOKENS, DIM)
    assert torch.equal(every["text"].counts, torch.tensor([len(s.text) for s in stimuli]).expand(4, -1))
    assert every["image"].counts.unique().tolist() == [IMAGE_TOKENS]
    for row, stimulus in enumerate(stimuli):
        tokens = every["text"].layer("1")[row]
        count = len(stimulus.text)
        torch.testing.assert_close(tokens[0], first["text"].layer("1")[row])
        torch.testing.assert_close(tokens[count - 1], last["text"].layer("1")[row])
        assert not tokens[count:].any()
    mean = every["text"].values.sum(2) / every["text"].counts[..., None]
    torch.testing.assert_close(mean, extract(toy, stimuli)["text"].values)
    with pytest.raises(ValueError, match=r"keep several vectors of each sample \(pooling 'none'\): pool them first"):
        similarity_map(every["text"], every["text"], "cka")


def test_a_patch_grid_is_of_the_image(toy, stimuli):
    seen, whole = extract(toy, stimuli, pooling="grid:2"), extract(toy, stimuli)
    assert (seen["image"].pooling, seen["text"].pooling) == ("grid:2", "mean")
    assert seen["image"].values.shape == (4, 7, 2, 2, DIM)
    torch.testing.assert_close(seen["image"].values.mean((2, 3)), whole["image"].values)
    assert torch.equal(seen["text"].values, whole["text"].values)
    coarse = extract(toy, stimuli, pooling="grid:1")["image"].values
    x, y = match_patches(seen["image"].values, coarse)
    torch.testing.assert_close(x, y)
    assert torch.equal(match_patches(seen["image"], coarse)[0], x)
    with pytest.raises(ValueError, match=r"x holds features pooled by 'mean', which have no rows and columns: extract"):
        match_patches(whole["image"], coarse)
    with pytest.raises(ValueError, match="the features are of different stimuli"):
        match_patches(seen["image"], extract(toy, stimuli[::-1], pooling="grid:2")["image"])
    with pytest.raises(ValueError, match="match_patches"):
        similarity_map(seen["image"], seen["image"], "cka")
    with pytest.raises(ValueError, match="no place on a patch grid"):
        extract(toy, stimuli, pooling="grid:2", special=True)


def test_chosen_tokens(toy, stimuli):
    every = extract(toy, stimuli, pooling="none")["image"].values
    some = extract(toy, stimuli, tokens={"image": [1, 3]})
    assert (some["image"].pooling, some["text"].pooling) == ("mean + chosen", "mean")
    torch.testing.assert_close(some["image"].values, every[:, :, [1, 3]].mean(2))
    with pytest.raises(ValueError, match="tokens of 'sound' are chosen: expected some of image, text"):
        extract(toy, stimuli, tokens={"sound": [0]})
    with pytest.raises(ValueError, match="do not fit a sample of 4 image tokens"):
        extract(toy, stimuli, tokens={"image": [4]})


def test_choosing_is_the_way_out_where_a_subject_cannot_tell(toy, stimuli, monkeypatch):
    plain, show = extract(toy, stimuli), toy.show
    monkeypatch.setattr(toy, "show", lambda *asked: show(*asked)._replace(tokens={}), raising=False)
    with pytest.raises(
        ValueError,
        match=r"toy does not say which tokens are image: leave 'image' out .* choose the tokens, such as tokens=",
    ):
        extract(toy, stimuli)
    chosen = extract(toy, stimuli, tokens={"image": slice(None), "text": [0]})
    assert torch.equal(chosen["image"].values, plain["image"].values)
    assert torch.equal(chosen["text"].values, extract_first(toy, stimuli))


def extract_first(toy: Toy, stimuli: Stimuli) -> Tensor:
    return extract(toy, stimuli, tokens={"image": [0], "text": [0]})["text"].values


def test_special_tokens_with_and_without(toy, stimuli):
    plain = extract(toy, stimuli)["text"].values
    with pytest.raises(ValueError, match="toy names no special tokens: leave special out"):
        extract(toy, stimuli, special=True)
    toy.first_letter_is_special = True
    without, together = extract(toy, stimuli)["text"], extract(toy, stimuli, special=True)["text"]
    assert together.pooling == "mean + special"
    torch.testing.assert_close(together.values[:, 1], plain[:, 1])  # two letters
    assert not torch.allclose(without.values[:, 1], plain[:, 1])


def test_raw_and_cleaned_side_by_side(toy, stimuli):
    with torch.no_grad():
        toy.model.layers[0].linear.bias[2] = 50.0  # tanh holds it: make it massive behind
    toy.model.layers[0].register_forward_hook(
        lambda module, args, output: output + 1e4 * nn.functional.one_hot(torch.tensor(2), DIM)
    )
    seen = extract(toy, stimuli, cleaned=True)
    assert torch.equal(seen["image"].values, extract(toy, stimuli)["image"].values)
    for modality, part in seen.items():
        cleaned = part.cleaned
        assert cleaned.pooling == "mean + cleaned"
        assert cleaned.layers == part.layers
        assert part.layer("0")[:, 2].min() > 9e3
        raw = part.layer("0").double()
        assert cleaned.values.shape == part.values.shape
        spread = cleaned.values.double().std(1, correction=0)
        constant = spread < 0.5
        assert torch.allclose(spread[~constant], torch.ones(1).double(), atol=1e-5)
        assert not cleaned.values.transpose(1, 2)[constant].any()
        assert torch.allclose(cleaned.values.mean(1), torch.zeros(1), atol=1e-5)
        assert not torch.allclose(cleaned.layer("0").double(), (raw - raw.mean(0)) / raw.std(0, correction=0)), modality
    assert extract(toy, stimuli)["image"].cleaned is None


@pytest.mark.parametrize("pooling", ["none", "grid:2"])
def test_z_scores_leave_padding_out(toy, stimuli, pooling):
    seen = extract(toy, stimuli, cleaned=True, pooling=pooling)["text" if pooling == "none" else "image"].cleaned
    for index, _ in enumerate(seen.layers):
        rows = seen.values[index].flatten(1, -2)
        if pooling == "none":
            there = torch.arange(rows.shape[1]) < seen.counts[index][:, None]
            assert not rows[~there].any()
            rows = rows[there]
        assert torch.allclose(rows.reshape(-1, DIM).mean(0), torch.zeros(DIM), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_that_is_kept(toy, stimuli, dtype):
    whole, half = extract(toy, stimuli)["text"], extract(toy, stimuli, dtype=dtype)["text"]
    assert half.values.dtype == dtype
    assert torch.equal(half.values, whole.values.to(dtype))
    heat = similarity_map(half, half, metric="cka")
    assert np.allclose(np.diag(heat), 1, atol=1e-5)
    with pytest.raises(ValueError, match=r"dtype is torch.float64: expected torch.float32, float16 or bfloat16"):
        extract(toy, stimuli, dtype=torch.float64)


def test_what_does_not_fit_the_dtype_is_reported(toy, stimuli):
    toy.model.layers[1].register_forward_hook(lambda module, args, output: output * 1e6)
    with pytest.raises(FloatingPointError, match=r"'layers.1' of toy is too large for torch.float16, first for"):
        extract(toy, stimuli, dtype=torch.float16)
    assert torch.isfinite(extract(toy, stimuli, dtype=torch.bfloat16)["image"].values).all()
