"""The checks of a model: a sound one passes all, and each fault fails the check that is meant for it."""

from __future__ import annotations

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from bridgework.models import open_expert
from bridgework.probes.checks.model_checks import FAILS, PASSES, UNKNOWN, check_model
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.models.tiny_folders import tokenizer, write

from ..toys import TEXTS, Toy, letters, open_toy

SURE = {"blocks", "runs", "repeats", "alone", "no trace"}
UNSEEN = {"padding side", "hidden states"}  # a toy has no tokenizer, and returns no hidden states


def verdicts(toy: Toy | AnyModel, stimuli: Stimuli | None = None) -> dict[str, set[str]]:
    """The verdicts on each check, over all kinds of passes."""
    table = check_model(toy, stimuli or letters(*TEXTS))
    assert (table.loc[table["verdict"] == FAILS, "remedy"] != "").all()
    assert table.attrs["not_checked"]
    return {name: set(rows["verdict"]) for name, rows in table.groupby("check")}


def test_a_sound_model_passes_and_what_cannot_be_seen_is_unknown():
    toy = open_toy().model.train()
    found = verdicts(Toy(toy))
    assert {name for name, seen in found.items() if seen == {PASSES}} == SURE
    assert {name for name, seen in found.items() if seen == {UNKNOWN}} == UNSEEN
    assert toy.training


def test_kinds_of_passes_and_what_they_show():
    table = check_model(open_toy(), letters(*TEXTS)).query("check == 'runs'")
    assert list(table["shown"]) == ["understanding, image and text", "understanding, image with text"]
    assert set(table["found"]) == {"4 layers, 4 image tokens; 4 layers, 1 text tokens"}
    timed = Toy(open_toy().model, timed_tasks=("generation",), tasks=("understanding", "generation"))
    assert len(check_model(timed, letters(*TEXTS)).query("check == 'alone' and verdict == 'passes'")) == 4


class Fault(nn.Module):
    """Stands in front of a toy's second block."""

    def __init__(self, block: nn.Module, kind: str) -> None:
        super().__init__()
        self.block, self.kind = block, kind

    def forward(self, states: Tensor) -> Tensor:
        if self.kind == "draws":
            states = states + torch.randn_like(states)
        elif self.kind == "mixes the batch":
            states = states + states.mean(0, keepdim=True)
        elif self.kind == "hooks itself":
            self.block.register_forward_hook(lambda *_: None)
        elif self.kind == "breaks":
            states = states / 0
        return self.block(states)


@pytest.mark.parametrize(
    ("kind", "fails", "unknown"),
    [
        ("draws", {"repeats"}, {"alone", "no trace"}),
        ("mixes the batch", {"alone"}, set()),
        ("hooks itself", {"no trace"}, set()),
        ("breaks", {"runs"}, set()),
    ],
)
def test_each_fault_fails_its_check(kind, fails, unknown):
    toy = open_toy()
    toy.model.layers[1] = Fault(toy.model.layers[1], kind)
    found = verdicts(toy)
    assert {name for name, seen in found.items() if FAILS in seen} == fails
    assert {name for name, seen in found.items() if UNKNOWN in seen} - {"blocks"} == unknown | UNSEEN


def test_hooks_that_transformers_sets_in_a_first_pass_are_no_trace(tmp_path):
    """LLaVA asks its vision tower for hidden states, which is then hooked by transformers for good."""
    write("LlavaForConditionalGeneration", tmp_path)
    table = check_model(open_expert(tmp_path), letters("a red circle", "a ring")).set_index("check")
    assert table.loc["no trace", "verdict"] == PASSES


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_of_a_language_model_that_counts_from_the_first_column(side):
    torch.manual_seed(0)
    words = tokenizer()
    words.padding_side = side
    model = t.GPT2Model(t.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=len(words), n_positions=32)).eval()

    def inputs(stimuli, modalities, task, timestep):
        return dict(words([s.text for s in stimuli], padding=True, return_tensors="pt"))

    stimuli = letters("red", "a red circle", "two blue squares and a green circle", "a circle")
    table = check_model(AnyModel(model, inputs, modalities=("text",)), stimuli).set_index("check")
    wrong = FAILS if side == "left" else PASSES
    assert table.loc["padding side", "verdict"] == table.loc["alone", "verdict"] == wrong
    assert f"set to {side}; left differs by" in table.loc["padding side", "found"]
    assert table.loc["hidden states", "verdict"] == PASSES
    assert table.loc["hidden states", "found"].endswith("its last one is final_norm")
