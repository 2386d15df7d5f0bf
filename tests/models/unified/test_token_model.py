"""One trunk on discrete image tokens: each code sees those before it, and a drawing is a function of id and caption."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.models.training.scene_batches import dit_batch
from bridgework.models.unified.codebook import fit_codebook
from bridgework.models.unified.token_model import UnifiedTokens
from bridgework.probes.plans.layouts import lay_out

PLANS = {"shared": lay_out("shared", 4, 4), "Y": lay_out("Y", 4, 4), "X": lay_out("X", 4, 4, ends=(1, 1))}


@pytest.fixture(scope="module")
def book():
    return fit_codebook(codes=32, images=40)


@pytest.fixture
def make(monkeypatch, book, tiny_vlm, tiny_dit):
    monkeypatch.setattr("bridgework.models.unified.token_model.fit_codebook", lambda codes: book)

    def build(plan) -> UnifiedTokens:
        torch.manual_seed(3)
        model = UnifiedTokens.from_experts(plan, tiny_vlm, tiny_dit, codes=32)
        torch.nn.init.normal_(model.codes.weight)
        return model

    return build


@pytest.fixture(params=PLANS)
def model(request, make) -> UnifiedTokens:
    return make(PLANS[request.param])


def codes(rows: int = 2) -> torch.Tensor:
    return torch.randint(0, 32, (rows, 63), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_each_code_sees_the_caption_and_those_before_it(model):
    text = model.condition(["a red circle", "two rings"])
    scores = model.following(text, codes())
    assert scores.shape == (2, 64, len(model.tokenizer) + 33)
    changed = codes()
    changed[:, 20] = (changed[:, 20] + 1) % 32
    moved = (model.following(text, changed) != scores).any(2).all(0)
    assert torch.equal(moved, torch.arange(64) > 20)
    other = model.following(model.condition(["a blue circle", "two crosses"]), codes())
    assert (other != scores).any(2).all()


def test_tasks_keep_to_their_blocks(make):
    model = make(PLANS["Y"])
    batch = dit_batch(0, 0, size=4)
    for term, branch, other in (("words", ".layers.3.", ".own_layers."), ("drawing", ".own_layers.3.", ".layers.3.")):
        model.zero_grad()
        model.losses(batch)[term].backward()
        moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any() and "language" in n}
        assert any(branch in name for name in moved)
        assert not any(other in name for name in moved)


@torch.no_grad()
def test_the_drawing_loss_is_that_of_the_codes_in_one_vocabulary(model):
    batch = dit_batch(0, 0, size=3)
    wanted = model.book.encode(batch["image"])
    scores = model.following(model.condition(batch["caption"]), wanted[:, :-1]).log_softmax(2)
    words = len(model.tokenizer)
    expected = -scores[..., words:].gather(2, wanted[..., None]).mean()
    torch.testing.assert_close(model.drawing_loss(batch), expected)
    ids = torch.tensor([[1, 7, 8]])
    assert model.read(ids, torch.ones_like(ids)).shape[2] == words + 33


def test_a_drawing_is_a_function_of_id_and_caption(model):
    captions, ids = ["a red circle", "two blue crosses and more", "a red circle"], ["one", "two", "three"]
    drawn = [np.asarray(image) for image in model.draw(captions, ids)]
    alone = np.asarray(model.draw(captions[:1], ids[:1])[0])
    assert drawn[0].shape == (32, 32, 3)
    assert np.array_equal(drawn[0], alone)
    assert np.array_equal(drawn[0], np.asarray(model.draw(captions[2:], ids[:1])[0]))
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], np.asarray(model.draw(captions[1:2], ids[:1])[0]))
    assert not np.array_equal(drawn[0], np.asarray(model.draw(captions[:1], ids[:1], guidance=30.0)[0]))


def test_codes_are_drawn_as_often_as_they_are_likely(make):
    """Every trunk behind blank embeddings says the same of all codes but for one, three times as likely."""
    model = make(PLANS["shared"])
    words = len(model.tokenizer)

    def following(text, codes, cache=None):
        scores = torch.zeros(len(text.ids), 1, words + 33)
        scores[..., words + 5] = np.log(3)
        return scores

    model.following = following
    images = model.draw(["a ring"] * 20, [str(number) for number in range(20)], guidance=1.0)
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1
    share = (model.book.encode(pixels) == 5).float().mean().item()
    assert share == pytest.approx(3 / 34, abs=0.025)  # 1280 codes: three standard errors


def test_saved_and_opened(make, tmp_path):
    model = make(PLANS["X"])
    model.save(tmp_path)
    again = UnifiedTokens.load(tmp_path)
    assert torch.equal(again.book.centres, model.book.centres)
    one, other = (np.asarray(each.draw(["a ring"], ["one"])[0]) for each in (model, again))
    assert np.array_equal(one, other)


def test_captions_without_ids_are_refused(make):
    with pytest.raises(ValueError, match="2 captions and 1 ids"):
        make(PLANS["shared"]).draw(["a ring", "a cross"], ["one"])
