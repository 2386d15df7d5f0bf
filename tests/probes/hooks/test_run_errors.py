"""A layer that never ran, or ran again: each cause has its sentence, with a remedy that `extract` has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BartConfig, BartModel, LlamaConfig, LlamaForCausalLM

from bridgework.models.towers.checkpointing import checkpoint_blocks
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.hooks.capturing import LayerNeverRan, LayerRanAgain, capture
from bridgework.tests.probes.toys import DIM, Block, Stack, Toy, letters

STIMULI = letters("ab", "cd", "ef")
TINY = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


class Towers(Stack):
    """A second stack that text does not use; blocks can be left out, or be run by their parts."""

    def __init__(self, skip: Callable[[int, int], bool] = lambda call, number: False, parts: bool = False) -> None:
        super().__init__()
        self.other = nn.ModuleList(Block() for _ in range(2))
        self.skip, self.parts, self.call = skip, parts, 0

    def forward(self, states: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            if not self.skip(len(states), number):
                states = states + layer.get_submodule("linear")(states) if self.parts else layer(states)
        return self.head(states)


def toy(**options: Any) -> Toy:
    torch.manual_seed(0)
    return Toy(Towers(**options), modalities=("text",))


NEVER: dict[str, tuple[Callable[[], Toy], str, str]] = {
    "a copy is called": (
        lambda: Toy(Towers(), modalities=("text",), run=Stack()),
        "'layers.0' never ran: Towers itself was not called",
        r"run\(\) call subject.model",
    ),
    "another tower": (
        lambda: Toy(Towers(), modalities=("text",), blocks=("other.0", "other.1")),
        "'other.0' never ran: this call runs no block of 'other', which serves another task, modality",
        r"stack=.*modalities=",
    ),
    "parts": (
        lambda: toy(parts=True),
        "'layers.0' never ran: its part 'layers.0.linear' ran",
        r"layers=\['layers.0.lin",
    ),
    "an early exit": (
        lambda: toy(skip=lambda batch, number: number > 1),
        "'layers.2' never ran: the pass ended behind 'layers.1', as early exits do",
        r"layers=\['layers.1'\]",
    ),
    "layerdrop": (
        lambda: toy(skip=lambda batch, number: number == 1),
        "'layers.1' never ran: 'layers.0' ran and it was skipped, as by layerdrop",
        r"layers=\['layers.0', 'layers.2'\]",
    ),
    "a cache of steps": (
        lambda: toy(skip=lambda batch, number: number == 1 and batch == 1),  # in the second batch
        "'layers.1' never ran: it ran in an earlier pass, and now its output was reused or left out",
        "layers=",
    ),
}


@pytest.mark.parametrize("cause", NEVER)
def test_why_a_layer_never_ran(cause):
    subject, what, remedy = NEVER[cause]
    with pytest.raises(LayerNeverRan, match=rf"{what}.*{remedy}"):
        extract(subject(), STIMULI, batch_size=2)


def test_layerdrop_of_a_model_in_training_mode():
    torch.manual_seed(0)
    small = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    model = BartModel(BartConfig(vocab_size=40, d_model=8, encoder_layerdrop=0.999, **small)).train()
    with (
        pytest.raises(LayerNeverRan, match=r"call model.eval\(\)|this call runs no block"),
        capture(model, ["encoder.layers.0", "encoder.layers.1"], stop=False),
    ):
        model(torch.tensor([[5, 6, 7]]))
    model.eval()
    with capture(model, ["encoder.layers.0", "encoder.layers.1"]) as taps:
        model(torch.tensor([[5, 6, 7]]))
    assert len(taps) == 2


def twice(change: Callable[[Tensor], list[Tensor]]) -> Toy:
    subject = toy()
    subject.run = lambda states: [subject.model(part) for part in change(states)]
    return subject


def tied() -> Toy:
    subject = toy()
    subject.model.layers[2] = subject.model.layers[0]
    return subject


def looped() -> Toy:
    subject = toy()
    plain = subject.model.forward
    subject.model.forward = lambda states: [plain(states) for _ in range(2)]  # type: ignore[method-assign]
    return subject


AGAIN: dict[str, tuple[Callable[[], Toy], str, str]] = {
    "tied": (tied, "'layers.0' and 'layers.2' are one module with tied weights", "calls='all'"),
    "looped": (looped, "the model runs it again within one call, as ALBERT", "calls='all'"),
    "guidance": (lambda: twice(lambda s: [s, 0 * s]), "as large a batch, as for the two halves", "switch guidance off"),
}


@pytest.mark.parametrize("cause", AGAIN)
def test_why_a_layer_ran_again(cause):
    subject, what, remedy = AGAIN[cause]
    with pytest.raises(LayerRanAgain, match=rf"ran twice: .*{what}.*{remedy}"):
        extract(subject(), STIMULI)
    if "calls" in remedy:
        assert extract(subject(), STIMULI, calls="all")["text"].layers[1] == "0@1"


def test_samples_one_by_one():
    subject = twice(lambda states: list(states.split(1)))
    with pytest.raises(ValueError, match=r"the model ran one sample at a time: .*batch_size=1"):
        extract(subject, STIMULI)
    assert extract(subject, STIMULI, batch_size=1)["text"].samples
    with (
        pytest.raises(LayerRanAgain, match=r"again with one sample, as for samples one by one.*batch_size=1"),
        capture(subject.model, ["layers.0"], stop=False),
    ):
        subject.model(torch.ones(1, 2, DIM))
        subject.model(torch.ones(1, 2, DIM))


@pytest.mark.parametrize("cache", [True, False])
def test_generation_is_named(cache):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    ids = torch.tensor([[5, 6, 7]])
    with (
        pytest.raises(
            LayerRanAgain, match=r"with 3 tokens and then with \d, as by generate.*extract\(\.\.\., generate=7"
        ),
        capture(model, ["model.layers.0"], stop=False),
    ):
        model.generate(ids, max_new_tokens=4, do_sample=False, use_cache=cache)


def test_checkpointed_blocks_that_run_again_in_a_backward_pass_are_read_once():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY)).train()
    checkpoint_blocks(model, use_reentrant=False)
    ids = torch.tensor([[5, 6, 7]])
    with capture(model, ["model.layers.0", "model.layers.1"], stop=False) as taps:
        model(ids, labels=ids).loss.backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None
    with capture(model.eval(), ["model.layers.0", "model.layers.1"]) as again:
        model(ids)
    assert all(torch.equal(taps[path], again[path]) for path in again)
