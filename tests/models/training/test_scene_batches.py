"""Batches of scenes, their labels, and the losses over them."""

from __future__ import annotations

import torch
from torch import Tensor

from bridgework.models.generation.flow import MIN_TIME, velocity_loss
from bridgework.models.scenes.dialogues import IGNORE, answer_loss, tokenize_rows
from bridgework.models.scenes.scene import COLOURS, COUNTS, PLURAL, SHAPES
from bridgework.models.training.scene_batches import dit_batch, vlm_batch
from bridgework.probes.stimuli.sources import load_stimuli


def test_batches_are_a_function_of_seed_and_step(tokenizer):
    emoji = load_stimuli("noto", limit=20)
    for make in (
        lambda step, seed: dit_batch(step, seed, emoji, size=6),
        lambda step, seed: vlm_batch(step, seed, emoji, tokenizer, size=6),
    ):
        first, again, later, other = make(3, 0), make(3, 0), make(4, 0), make(3, 1)
        assert set(first) == set(again)
        for name, value in first.items():
            same = [torch.equal(value, batch[name]) if isinstance(value, Tensor) and value.shape == batch[name].shape
                    else value is batch[name] or (isinstance(value, list) and value == batch[name])
                    for batch in (again, later, other)]  # fmt: skip
            assert same[0], name
            if name in ("noise", "time", "image", "pixel_values", "input_ids"):
                assert not same[1], name
                assert not same[2], name


def test_labels_are_on_the_answers_alone(tokenizer):
    rows = tokenize_rows(
        tokenizer, [[("is there a ring ?", "no")], [("how many red crosses ?", "four"), ("is there a cross ?", "yes")]]
    )
    expected = (["no", "</s>"], ["four", "yes", "</s>"])
    texts = ("<s> is there a ring ? no </s>", "<s> how many red crosses ? four is there a cross ? yes </s>")
    for row, (answers, text) in enumerate(zip(expected, texts, strict=True)):
        ids, labels, mask = (rows[name][row] for name in ("input_ids", "labels", "attention_mask"))
        assert tokenizer.convert_ids_to_tokens(labels[labels != IGNORE].tolist()) == answers
        assert torch.equal(ids[labels != IGNORE], labels[labels != IGNORE])
        assert tokenizer.convert_ids_to_tokens(ids[mask == 1].tolist()) == text.split()
        assert (ids[mask == 0] == 0).all()


def test_the_loss_of_answers_by_hand():
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORE, IGNORE, 3, 1]])
    expected = -(logits[0, 1].log_softmax(-1)[3] + logits[0, 2].log_softmax(-1)[1]) / 2
    torch.testing.assert_close(answer_loss(logits, labels), expected)


def test_the_velocity_loss_is_the_velocitys():
    """With z = t noise + (1 - t) image, the velocity dz/dt = noise - image is (z - image) / t."""
    image, guess, noise = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([0.3, 0.9])
    t = time[:, None, None, None]
    noisy = t * noise + (1 - t) * image
    torch.testing.assert_close((noisy - image) / t, noise - image)
    expected = ((noisy - guess) / t - (noise - image)).square().mean()
    torch.testing.assert_close(velocity_loss(guess, image, time), expected)
    early = velocity_loss(guess, image, torch.tensor([1e-6, 1e-6]))
    torch.testing.assert_close(early, velocity_loss(guess, image, torch.full((2,), MIN_TIME)))


def test_every_scene_word_is_one_token(tokenizer):
    words = [*SHAPES, *PLURAL.values(), *COLOURS, *COUNTS, "left", "above", "yes", "no"]
    for word in words:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        assert tokenizer.convert_ids_to_tokens(ids) == [word]
