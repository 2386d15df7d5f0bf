"""Sinks among text tokens: found by the sample alone, left out of means, kept where they are asked for, and named."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.extraction.pooling import pool
from bridgework.probes.extraction.token_selection import find_tokens
from bridgework.probes.features.features import Features
from bridgework.probes.subjects.sink_tokens import SinkRule, find_sinks
from bridgework.tests.probes.toys import Toy, letters, open_toy

RULE = SinkRule(typical=1.0)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)


def states() -> Tensor:
    """Words of norm 1: a sink in the first sample and in the last; the third is nothing but one."""
    values = torch.nn.functional.normalize(torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    values[0, 1] *= 150
    values[2, 0] *= 150
    values[3, 0] *= 6
    values[~MASK] = torch.nan
    return values


def test_a_mean_leaves_sinks_out_and_never_everything():
    values = states()
    pooled = pool(values, find_tokens("text", MASK, 4), sinks=RULE)
    by_hand = [values[0, [0, 2]].mean(0), values[1].mean(0), values[2, 0], values[3, 1]]
    torch.testing.assert_close(pooled.values, torch.stack(by_hand))
    assert pooled.norms is not None
    torch.testing.assert_close(pooled.norms, torch.tensor([[1, 1, 1], [1, 1, 0], [150, 150, 0], [1, 1, 1.0]]))


def test_states_in_float64_are_pooled_too():
    rows = torch.rand(2, 3, 4, dtype=torch.float64)
    one, other = (find_sinks(each, None, SinkRule()) for each in (rows, rows.float()))
    assert torch.allclose(one[1], other[1])


def test_a_sample_alone_is_pooled_as_in_its_batch():
    values = states()
    together = pool(values, find_tokens("text", MASK, 4), sinks=RULE).values
    for place in range(4):
        alone = pool(values[place : place + 1], find_tokens("text", MASK[place : place + 1], 1), sinks=RULE).values
        torch.testing.assert_close(alone[0], together[place])


@pytest.mark.parametrize(
    ("typical", "norms", "out"),
    [
        (1.0, [1, 4.1, 1], 1),
        (1.0, [1, 3.9, 1], 0),
        (1.0, [1, 9, 9], 2),
        (1.0, [0.2, 1, 1], 0),
        (2.0, [1, 6, 1], 0),  # long beside its neighbours, and no longer than words of other texts
        (0.1, [1, 3, 1], 0),  # the model was steered: all words are longer than they were
        (None, [1, 7.9, 1], 0),
        (None, [1, 8.1], 1),
        (None, [0, 9, 0], 0),
        (1.0, [1, float("inf"), 1], 0),  # is refused later, and not left out
    ],
)
def test_what_is_a_sink(typical, norms, out):
    rows = torch.tensor(norms)[None, :, None].float()
    assert find_sinks(rows, None, SinkRule(typical))[1][0, 2] == out


@pytest.mark.parametrize("pooling", ["none", "first", "last"])
def test_other_poolings_keep_every_token(pooling):
    values, tokens = states(), find_tokens("text", MASK, 4)
    found = pool(values, tokens, pooling, sinks=RULE)
    assert torch.equal(found.values, pool(values, tokens, pooling).values)
    assert found.norms is not None
    assert found.norms[:, 1].round().tolist() == {
        "none": [150, 1, 150, 6], "first": [1, 1, 150, 6], "last": [1, 1, 150, 1],
    }[pooling]  # fmt: skip


@dataclass
class Sinking(Toy):
    """The letter x is a sink from block 1 on."""

    typical_norms: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.layers[1].register_forward_hook(lambda _, args, output: torch.where(self.x(output), 1e4, output))
        self.model.layers[0].register_forward_pre_hook(lambda _, args: self.see(args[0]))

    def see(self, state: Tensor) -> None:
        self.seen = (state[..., 1:2] * 500).round() == ord("x")

    def x(self, output: Tensor) -> Tensor:
        return self.seen.expand_as(output)


def sinking() -> Sinking:
    return Sinking(open_toy().model, modalities=("text",))


def test_extract_leaves_them_out_and_says_whose_they_are(tmp_path):
    stimuli = letters("abxd", "bcd", "x", "cd", "ab")
    with pytest.warns(UserWarning) as said:
        found = extract(sinking(), stimuli, batch_size=2, layers=["embeddings", "0", "1"], store=tmp_path)["text"]
    left_out, kept = (str(warning.message) for warning in said)
    assert left_out.startswith("1 of 5 texts ('abxd') hold words that toy makes sinks")
    assert "at layer 1:" in left_out
    assert "1 of 5 texts ('x') are pooled with a sink of toy, at layer 1," in kept
    assert "open_expert(..., front=...)" in kept
    assert float(found.values[2, 0].norm()) < 100 < float(found.values[2, 2].norm())
    with pytest.warns(UserWarning, match="1 of 5 texts"):  # a store that is there says it again
        extract(sinking(), stimuli, batch_size=2, layers=["embeddings", "0", "1"], store=tmp_path)
    assert Features.load(tmp_path).provenance["sinks"] is False


@pytest.mark.parametrize("kept", [{"sinks": True}, {"special": True}])
def test_sinks_that_are_asked_for_stay(kept):
    subject = sinking()
    subject.first_letter_is_special = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extract(subject, letters("abxd", "bcd"), **kept)["text"]
    assert float(found.values[2, 0].norm()) > 1000
    assert found.pooling == f"mean + {next(iter(kept))}"


def test_a_model_without_sinks_is_read_as_before():
    subject = open_toy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_ever = extract(subject, letters("abcd", "e", "fg"))
    kept = extract(subject, letters("abcd", "e", "fg"), sinks=True)
    assert all(torch.equal(as_ever[m].values, kept[m].values) for m in ("image", "text"))
