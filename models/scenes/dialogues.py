"""Turn questions and answers about scenes into rows of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

IMAGE = "<image>"
IMAGE_TOKENS = 16  # (32 / 8)^2 vision patches
IGNORE = -100  # the label that transformers' losses skip


def question_prompt(question: str, caption: str | None = None) -> str:
    """A question about an image, or about a caption that stands in the image's place."""
    return f"{IMAGE * IMAGE_TOKENS}{question}" if caption is None else f"{caption} : {question}"


def tokenize_rows(tokenizer: PreTrainedTokenizerFast, rows: list[list[tuple[str, str]]]) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels (row, token) of dialogues, each a list of (prompt, answer) turns.

    Right padded, one end token after the last answer; labels only on the answers and the end.
    """
    sides = [[text for turn in row for text in turn] for row in rows]  # prompt, answer, prompt, answer, ...
    pieces = iter(tokenizer([text for side in sides for text in side], add_special_tokens=False).input_ids)
    tokens, targets = [], []
    for side in sides:
        ids, labels = [tokenizer.bos_token_id], [IGNORE]
        for number in range(len(side)):
            piece = next(pieces)
            ids += piece
            labels += piece if number % 2 else [IGNORE] * len(piece)
        tokens.append(torch.tensor([*ids, tokenizer.eos_token_id]))
        targets.append(torch.tensor([*labels, tokenizer.eos_token_id]))
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(row) for row in tokens], batch_first=True)
    ids = pad(tokens, batch_first=True, padding_value=tokenizer.pad_token_id)
    return {"input_ids": ids, "attention_mask": mask, "labels": pad(targets, batch_first=True, padding_value=IGNORE)}


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens: full captions, which teach the vision tower, weigh most."""
    return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORE)
