"""Rows of dialogues: labels on answers alone, and the answer read from where it would stand."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from bridgework.models.scenes.dialogues import (
    IGNORE,
    IMAGE,
    IMAGE_TOKENS,
    answer_loss,
    likeliest_answers,
    split_labels,
    tokenize_rows,
)

ROWS = [[("is there a ring ?", "yes"), ("how many rings ?", "two")], [("describe :", "a red circle")]]


def test_labels_stand_on_answers_and_the_end(tokenizer):
    rows = tokenize_rows(tokenizer, ROWS)
    assert {name: tuple(value.shape) for name, value in rows.items()} == dict.fromkeys(rows, rows["labels"].shape)
    for ids, labels, mask, row in zip(rows["input_ids"], rows["labels"], rows["attention_mask"], ROWS, strict=True):
        answers = " ".join(answer for _, answer in row)
        kept = labels != IGNORE
        assert torch.equal(ids[kept], labels[kept])
        assert tokenizer.decode(labels[kept], skip_special_tokens=True) == answers
        assert labels[mask.bool()][-1] == tokenizer.eos_token_id
        assert not kept[mask == 0].any()
        assert ids[0] == tokenizer.bos_token_id


def test_split_labels_leaves_the_rows_alone(tokenizer):
    rows = tokenize_rows(tokenizer, ROWS)
    inputs, labels = split_labels({**rows, "pixel_values": torch.zeros(1)}, torch.device("cpu"))
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values"}
    assert torch.equal(labels, rows["labels"])


def test_answer_loss_is_the_mean_over_answers_tokens(tokenizer):
    labels = tokenize_rows(tokenizer, ROWS)["labels"]
    logits = torch.randn(*labels.shape, len(tokenizer), generator=torch.Generator().manual_seed(0))
    likely = [
        F.log_softmax(logits[row, place - 1], -1)[labels[row, place]]
        for row, place in (labels != IGNORE).nonzero().tolist()
    ]
    torch.testing.assert_close(answer_loss(logits, labels), -torch.stack(likely).mean())


def test_answers_are_read_behind_their_question(tokenizer):
    """A model that says of every row its own last token of the question."""
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    questions = ["is there a ring ?", "how many rings", "what colour is the circle"]

    def read(ids, mask):
        assert ids[:, :17].tolist() == [[tokenizer.bos_token_id] + [image] * IMAGE_TOKENS] * 3
        return F.one_hot(ids, len(tokenizer)).float()

    assert likeliest_answers(tokenizer, questions, read) == ["?", "rings", "circle"]
