"""What the experts' tasks are judged by, one number a sample, more being better: for `probes.attribute`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...probes.evidence.replay import Output
from ...probes.extraction.token_selection import token_positions
from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass


def answer_log_probability(tokenizer: Any, answers: Mapping[str, str] | None = None) -> Output:
    """The log-probability (nats) that a causal language model gives to the end of each text, summed over its tokens.

    answers : the end of the text, such as the answer after a question, by the stimulus's id; left out, all of it is
        meant. The model's result must have logits (batch, token, vocabulary) over the tokens of its hidden states.

    The output raises ValueError for a text that does not end with its answer, or that the subject shows as other
    tokens than the tokenizer's.
    """

    def output(result: Any, stimuli: Sequence[Stimulus], shown: ForwardPass) -> Tensor:
        tokens, logits = shown.tokens["text"], result.logits
        if tokens is None:
            raise ValueError("the subject does not say which tokens are text: their logits cannot be told apart")
        likely = logits.float().log_softmax(-1)
        rows = []
        for row, stimulus in enumerate(stimuli):
            answer = stimulus.text if answers is None else answers[stimulus.id]
            ids, wanted = (tokenizer(t, add_special_tokens=False).input_ids for t in (stimulus.text, answer))
            places = token_positions(tokens[row])
            if len(places) != len(ids):
                raise ValueError(f"{stimulus.text!r} is {len(ids)} tokens, but the subject shows {len(places)} of text")
            if not wanted or ids[-len(wanted) :] != wanted:
                raise ValueError(f"the text {stimulus.text!r} does not end with the tokens of its answer {answer!r}")
            of = likely[row] if tokens.dtype == torch.bool else likely.flatten(0, -2)
            before = places[-len(wanted) :].to(of.device) - 1  # each token is predicted by the one before
            rows.append(of[before, torch.tensor(wanted, device=of.device)].sum())
        return torch.stack(rows)

    return output


def minus_denoising_error(predicted: Tensor, stimuli: Sequence[Stimulus], shown: ForwardPass) -> Tensor:
    """Minus the mean squared error of the clean image (batch, channel, row, column), -1..1, that DitExpert predicts."""
    image = to_pixels([s.image for s in stimuli], predicted.shape[-1]).to(predicted)
    return -(predicted - image).square().mean((1, 2, 3))
