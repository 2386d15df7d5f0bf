"""Turn questions and answers about scenes into rows of tokens, and score what a model answers."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...probes.arguments import checked

IMAGE = "<image>"
IMAGE_TOKENS = 16  # (32 / 8)^2 vision patches
IGNORE = -100  # the label that transformers' losses skip


def question_prompt(question: str, caption: str | None = None) -> str:
    """Return the prompt of a question about an image, or about a caption that stands in the image's place.

    Parameters
    ----------
    question : str
        As `compose_question` writes it.
    caption : str, optional
        What is asked about instead of an image.

    Returns
    -------
    str
    """
    return f"{IMAGE * IMAGE_TOKENS}{question}" if caption is None else f"{caption} : {question}"


def tokenize_rows(tokenizer: Any, rows: Sequence[Sequence[tuple[str, str]]]) -> dict[str, Tensor]:
    """Tokenize dialogues, right padded, with labels on the answers.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        With tokens for begin, end and padding.
    rows : sequence of sequence of (str, str)
        Each dialogue is a list of turns, (prompt, answer).

    Returns
    -------
    dict
        "input_ids", "attention_mask" and "labels", each (row, token). One end token follows the last answer. Labels are
        `IGNORE` but on the answers and the end.
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
    return {
        "input_ids": pad_sequence(tokens, batch_first=True, padding_value=tokenizer.pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
        "labels": pad_sequence(targets, batch_first=True, padding_value=IGNORE),
    }


def split_labels(rows: Mapping[str, Tensor], device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Move tokenized dialogues to a device and take the labels out of the model's inputs.

    Parameters
    ----------
    rows : mapping
        What `tokenize_rows` returns, with further inputs such as "pixel_values".
    device : torch.device
        Where the model computes.

    Returns
    -------
    inputs : dict
        Everything but the labels.
    labels : Tensor
        (row, token).
    """
    inputs = {name: value.to(device) for name, value in rows.items()}
    labels = inputs.pop("labels")
    return inputs, labels


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of the answers' tokens, each predicted by the token before it.

    Parameters
    ----------
    logits : Tensor
        (row, token, vocabulary).
    labels : Tensor
        (row, token), `IGNORE` where no answer stands.

    Returns
    -------
    Tensor
        A scalar, nats a token.

    Notes
    -----
    The mean is over tokens: full captions, which teach the vision tower, weigh most.
    """
    return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORE)


def check_questions(images: Sequence[Image.Image], questions: Sequence[str]) -> None:
    """Raise the error that says what is wrong with images and the questions about them.

    Parameters
    ----------
    images : sequence of PIL.Image.Image
        The images.
    questions : sequence of str
        A question about each image.

    Raises
    ------
    TypeError
        They are no images, or no sequence of texts.
    ValueError
        There are none, or another number of questions than of images.
    """
    checked("questions", questions, Sequence[str])
    if not isinstance(images, Sequence) or not all(isinstance(image, Image.Image) for image in images):
        raise TypeError(f"images are {reprlib.repr(images)}: expected a sequence of PIL images")
    if len(images) != len(questions):
        raise ValueError(f"expected a question about each image, got {len(images)} images, {len(questions)} questions")


def likeliest_answers(tokenizer: Any, questions: Sequence[str], read: Callable[[Tensor, Tensor], Tensor]) -> list[str]:
    """Return the one-word answer to a question about each image: the likeliest next token.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        The model's own.
    questions : sequence of str
        One for each image.
    read : callable
        Runs the model: `read(input_ids, attention_mask)`, both (row, token), returns logits (row, token, vocabulary).

    Returns
    -------
    list of str
    """
    rows = tokenize_rows(tokenizer, [[(question_prompt(question), "")] for question in questions])
    last = rows["attention_mask"].sum(1) - 2  # the empty answer's end token stands one further
    logits = read(rows["input_ids"], rows["attention_mask"])
    return tokenizer.convert_ids_to_tokens(logits[torch.arange(len(last)), last].argmax(-1).tolist())
