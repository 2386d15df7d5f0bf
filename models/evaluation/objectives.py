"""Turn the outputs of the experts into one number per sample, more being better: for `probes.attribute`."""

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
    """Return an output for `attribute`: the log-probability of the end of each text, summed over its tokens.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Tokenizer of a causal language model.
    answers : mapping of str to str, optional
        The end of the text, such as the answer to a question, by the stimulus's id. By default all of the text counts.

    Returns
    -------
    Output
        A function of the model's result, the stimuli and the forward pass that returns (sample,), in nats. The result
        must have logits (batch, token, vocabulary) over the tokens of the hidden states. The function raises
        ValueError for a text that does not end with its answer, or whose tokens in the forward pass are not the
        tokenizer's.
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
    """Return minus the mean squared error of the clean image that a generation expert predicts.

    Parameters
    ----------
    predicted : torch.Tensor
        The clean images that DitExpert predicts, (batch, channel, row, column) in -1..1.
    stimuli : sequence of Stimulus
        The images that were noised, with their captions.
    shown : ForwardPass
        Not used: every output of `attribute` takes it.

    Returns
    -------
    torch.Tensor
        (batch,).
    """
    image = to_pixels([s.image for s in stimuli], predicted.shape[-1]).to(predicted)
    return -(predicted - image).square().mean((1, 2, 3))
