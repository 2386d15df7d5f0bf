"""Passes: what each of them sees, and what happens where a model does not run as expected."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel, LlamaConfig, LlamaForCausalLM

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.probes.subjects.subject import ForwardPass
from bridgework.tests.probes.toys import DIM, IMAGE_TOKENS, Block, Stack, Toy, letters


def with_texts(stimuli: Stimuli, texts: Sequence[str]) -> Stimuli:
    return Stimuli([s._replace(text=t) for s, t in zip(stimuli, texts, strict=True)])


def with_images(stimuli: Stimuli) -> Stimuli:
    return Stimuli([s._replace(image=Image.new("RGB", s.image.size, (i, 9, 9))) for i, s in enumerate(stimuli)])


def test_separate_passes_do_not_see_the_other_modality(toy, stimuli):
    plain = extract(toy, stimuli)
    worded = extract(toy, with_texts(stimuli, "tuvwxyz"))
    drawn = extract(toy, with_images(stimuli))
    assert torch.equal(plain["image"].values, worded["image"].values)
    assert not torch.equal(plain["text"].values, worded["text"].values)
    assert torch.equal(plain["text"].values, drawn["text"].values)
    assert not torch.equal(plain["image"].values, drawn["image"].values)


def test_a_joint_pass_mixes_them(toy, stimuli):
    separate, joint = extract(toy, stimuli), extract(toy, stimuli, joint=True)
    worded = extract(toy, with_texts(stimuli, "tuvwxyz"), joint=True)
    assert joint["image"].pass_ == joint["text"].pass_ == "joint"
    assert torch.equal(separate["image"].values[0], joint["image"].values[0])  # nothing is mixed before the blocks
    for layer in range(1, 4):
        assert not torch.allclose(separate["image"].values[layer], joint["image"].values[layer])
        assert not torch.allclose(joint["image"].values[layer], worded["image"].values[layer])


def test_timesteps(swept, stimuli):
    sweep = extract(swept, stimuli, timesteps=(0.2, 0.8))
    assert sweep["image"].values.shape == (2, 4, 7, DIM)
    assert sweep["image"].timesteps == (0.2, 0.8)
    assert sweep["image"].task == "generation"
    assert not torch.allclose(sweep["image"].values[0], sweep["image"].values[1])
    for index, time in enumerate((0.2, 0.8)):
        one = extract(swept, stimuli, timesteps=(time,))
        assert one["image"].values.shape == (4, 7, DIM)
        for modality in ("image", "text"):
            assert torch.equal(one[modality].values, sweep[modality].values[index])


def test_text_alone_is_shown_at_pure_noise_whatever_the_sweep(swept, stimuli):
    """A subject whose text depends on the timestep that it is asked for: a sweep gives what one timestep gives."""
    show, asked = swept.show, []

    def timed(batch: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float) -> ForwardPass:
        asked.append((modalities, timestep))
        shown = show(batch, modalities, task, timestep)
        bias = 0.0 if "image" in modalities else timestep

        def once() -> None:
            handle = swept.model.layers[0].register_forward_pre_hook(lambda module, given: (given[0] + bias,))
            try:
                shown.run()
            finally:
                handle.remove()

        return shown._replace(run=once)

    swept.show = timed  # type: ignore[method-assign]
    sweep = extract(swept, stimuli, timesteps=(0.2, 0.8))
    assert asked[:3] == [(("image",), 0.2), (("image",), 0.8), (("text",), 1.0)]
    assert asked[3:] == [(("image",), 0.8), (("image",), 0.2), (("text",), 1.0)]  # one stimulus again
    for index, time in enumerate((0.2, 0.8)):
        one = extract(swept, stimuli, timesteps=(time,))
        for modality in ("image", "text"):
            assert torch.equal(one[modality].values, sweep[modality].values[index])


class Guided(Stack):
    """Runs all of its blocks, then all of them again, as guidance does."""

    def __init__(self, again: int) -> None:
        super().__init__()
        self.again = again

    def forward(self, states: Tensor) -> Tensor:
        for _ in range(self.again):
            super().forward(states)
        return states


@pytest.mark.parametrize("layers", [None, ["0"], ["2"]])
def test_a_model_that_runs_its_blocks_twice_is_not_read_at_the_first(stimuli, layers):
    toy = Toy(Guided(2))
    with pytest.raises(RuntimeError, match=r"layer 'layers\.\d' ran twice"):
        extract(toy, stimuli, layers=layers)
    toy.model.again = 1  # type: ignore[assignment]
    assert extract(toy, stimuli, layers=layers)["text"].samples


def test_albert_shares_one_block():
    size = {"vocab_size": 99, "embedding_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    model = AlbertModel(AlbertConfig(**size, num_hidden_layers=3))

    def inputs(batch: Sequence[Stimulus], *_: Any) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([[ord(letter) % 99 for letter in s.text] for s in batch])}

    subject = AnyModel(model, inputs, modalities=("text",))
    with pytest.raises(RuntimeError, match=r"layer 'encoder\.albert_layer_groups\.0' ran twice"):
        extract(subject, letters("ab", "cd"))


def test_the_first_batch_runs_to_the_end_and_the_others_do_not(toy, stimuli):
    heads: list[int] = []
    toy.model.head.register_forward_hook(lambda module, given, out: heads.append(len(out)))
    part = extract(toy, stimuli, batch_size=3)
    assert heads == [3, 3, 1, 1]  # of either modality, and of the stimulus that is shown again
    whole = extract(toy, stimuli)
    for modality in part:
        torch.testing.assert_close(part[modality].values, whole[modality].values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [TypeError("no decoder inputs"), torch.OutOfMemoryError("CUDA out of memory")])
def test_what_fails_behind_the_deepest_layer_is_not_needed(toy, stimuli, error):
    before = extract(toy, stimuli)

    def fail(*_: Any) -> None:
        raise error

    toy.model.head.register_forward_pre_hook(fail)
    after = extract(toy, stimuli)
    assert all(torch.equal(after[modality].values, before[modality].values) for modality in before)
    assert "notes" not in after.provenance
    toy.model.layers[2].register_forward_pre_hook(fail)
    with pytest.raises((type(error), MemoryError)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extract(toy, stimuli)


class Pair(nn.Module):
    """A block with two streams, or with one for both; `ended` returns None for the text, as SD3's last block does."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(DIM, DIM), kind

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Any:
        text, image = self.linear(encoder_hidden_states), self.linear(hidden_states).sin()
        if self.kind == "joined":
            return torch.cat([text, image], 1)
        return (None if self.kind == "ended" else text), image


class Pairs(nn.Module):
    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Pair(kind) for kind in kinds)

    def forward(self, states: Tensor) -> None:
        image, text = torch.zeros(len(states), IMAGE_TOKENS, DIM), states
        for layer in self.layers:
            out = layer(hidden_states=image, encoder_hidden_states=text)
            image, text = (image, text) if isinstance(out, Tensor) else (out[1], text if out[0] is None else out[0])


@pytest.mark.parametrize(
    ("kinds", "stream", "names"),
    [
        (("dual", "dual", "ended"), "text", ("embeddings", "0", "1")),
        (("dual", "ended", "dual"), "text", "layer 'layers.1' of toy has no text states, others have"),
        (("dual", "dual", "joined"), "text", "layer 'layers.2' of toy has no text states"),
        (("joined", "dual", "joined"), None, "layer 'layers.1' of toy has no text states"),
    ],
)
def test_a_layer_without_a_modality_is_named_unless_its_stream_has_ended(stimuli, kinds, stream, names):
    toy = Toy(Pairs(*kinds), modalities=("text",))  # type: ignore[arg-type]
    show = toy.show

    def streamed(*asked: Any) -> ForwardPass:
        shown = show(*asked)
        tokens = {"text": None if stream is None else shown.tokens["text"]}
        return shown._replace(streams={"text": stream}, tokens=tokens)

    toy.show = streamed  # type: ignore[method-assign]
    if isinstance(names, str):
        with pytest.raises(ValueError, match=names):
            extract(toy, stimuli)
    else:
        assert extract(toy, stimuli)["text"].layers == names


def test_a_mask_that_does_not_fit(toy, stimuli):
    toy.run = lambda states: toy.model(states[:, 1:])
    with pytest.raises(ValueError, match=r"layer 'embeddings' has hidden states .* \(7, 3, 6\), but the image mask is"):
        extract(toy, stimuli)


@pytest.mark.parametrize("layers", [None, ["2"]])
def test_tokens_that_do_not_fit_the_deepest_layer_are_told(toy, stimuli, layers):
    """Although nothing behind it is needed."""
    toy.model.layers[2].register_forward_hook(lambda module, given, out: torch.cat([out, out], 1))
    with pytest.raises(ValueError, match=r"layer 'layers\.2' has hidden states of shape .* but the image mask"):
        extract(toy, stimuli, layers=layers)


def test_guidance_is_named_where_it_doubles_the_batch(toy, stimuli):
    toy.run = lambda states: toy.model(torch.cat([states, states]))
    with pytest.raises(ValueError, match=r"layer 'embeddings' has hidden states .* twice .* classifier-free guidance"):
        extract(toy, stimuli)


@pytest.mark.parametrize(("layer", "path"), [(1, "layers.1"), (2, "layers.2")])
def test_hidden_states_that_are_not_finite(toy, stimuli, layer, path):
    toy.model.layers[layer].linear.weight.data[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=f"layer '{path}' of toy gave NaN or infinity"):
        extract(toy, stimuli)


def test_the_first_stimulus_with_nan_is_named(toy, stimuli):
    def spoil(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        output = output.clone()
        output[4:, 0] = float("inf")
        return output

    toy.modalities = ("image",)
    toy.model.layers[1].register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match=r"layer 'layers.1' of toy .* first for stimulus 'id klmno'"):
        extract(toy, stimuli)


class Looped(nn.Module):
    """Two blocks in front, two in a loop whose turns the input chooses, two behind."""

    def __init__(self, turns: str) -> None:
        super().__init__()
        self.prelude, self.core, self.coda = (nn.ModuleList(Block() for _ in range(2)) for _ in range(3))
        self.turns = turns

    def forward(self, states: Tensor) -> Tensor:
        turns = {"one": 1, "two": 2, "length": 1 + int((states != 0).any(-1).sum() > 2)}[self.turns]
        for block in self.prelude:
            states = block(states)
        for _ in range(turns):
            for block in self.core:
                states = block(states)
        for block in self.coda:
            states = block(states)
        return states


def looped(turns: str, stacks: Sequence[str] = ("prelude", "core", "coda")) -> Toy:
    torch.manual_seed(0)
    model: Any = Looped(turns)
    blocks = tuple(f"{stack}.{number}" for stack in stacks for number in range(2))
    return Toy(model, modalities=("text",), blocks=blocks)


@pytest.mark.parametrize("layers", [None, ["1"], ["0"]])
@pytest.mark.parametrize("stacks", [("prelude", "core", "coda"), ("core",)])
def test_a_loop_that_begins_behind_the_first_batch_is_no_single_layer(stacks, layers):
    subject = looped("length", stacks)
    if layers is None or stacks == ("core",):
        with pytest.raises(RuntimeError, match=r"layer 'core\.\d' ran twice: .* within one call, .* calls='all'"):
            extract(subject, letters("a", "b", "cde", "fgh"), layers=layers, batch_size=2)
    one = looped("one", stacks)
    assert torch.equal(
        extract(subject, letters("a", "b"), layers=layers, batch_size=1)["text"].values,
        extract(one, letters("a", "b"), layers=layers, batch_size=1)["text"].values,
    )


def test_every_turn_of_a_loop_is_a_layer(tmp_path):
    subject = looped("two")
    stimuli = letters("a", "bc", "def")
    features = extract(subject, stimuli, calls="all", store=tmp_path)["text"]
    turns = ("2@1", "3@1", "2@2", "3@2")
    assert features.layers == ("embeddings", "0", "1", *turns, "4", "5")
    assert features.depths == tuple(number / 8 for number in range(9))
    states = subject.show(list(stimuli), ("text",), "understanding", None)
    given: list[Tensor] = []
    subject.model.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    states.run()
    state = given[0]
    blocks = [subject.model.get_submodule(subject.blocks[n]) for n in (0, 1, 2, 3, 2, 3, 4, 5)]
    for name, block in zip(features.layers[1:], blocks, strict=True):
        state = block(state)
        for row, text in enumerate(stimuli.texts):
            torch.testing.assert_close(features.layer(name)[row], state[row, : len(text)].mean(0))
    again = extract(looped("two"), stimuli, calls="all", store=tmp_path)["text"]  # nothing runs but the check
    assert again.layers == features.layers and torch.equal(again.values, features.values)
    part = extract(subject, stimuli, calls=2, layers=["2@2", "5"])["text"]
    assert part.layers == ("2@2", "5") and part.depths == (5 / 8, 1.0)
    assert torch.equal(part.layer("2@2"), features.layer("2@2"))


def test_turns_that_do_not_fit_are_refused():
    stimuli = letters("a", "b", "cde", "fgh")
    with pytest.raises(ValueError, match=r"another number of times for stimulus 'id cde'.* take as many turns"):
        extract(looped("length"), stimuli, calls="all", batch_size=2)
    with pytest.raises(ValueError, match=r"calls is 3, but a block of toy ran 2 times .* calls=2 or 'all'"):
        extract(looped("two"), stimuli, calls=3)
    with pytest.raises(ValueError, match=r"layer '2@3' is asked for, but 'core.0' of toy ran 2 times"):
        extract(looped("two"), stimuli, calls="all", layers=["2@3"])
    with pytest.raises(ValueError, match="unknown calls 'many': expected one of all"):
        extract(looped("two"), stimuli, calls="many")


def test_the_turns_of_albert_are_its_hidden_states():
    size = {"vocab_size": 99, "embedding_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    model = AlbertModel(AlbertConfig(**size, num_hidden_layers=3)).eval()

    def inputs(batch: Sequence[Stimulus], *_: Any) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([[ord(letter) % 99 for letter in s.text] for s in batch])}

    stimuli = letters("ij", "kl")
    features = extract(AnyModel(model, inputs, modalities=("text",)), stimuli, calls="all")["text"]
    with torch.no_grad():
        native = model(**inputs(list(stimuli)), output_hidden_states=True).hidden_states
    assert features.layers == ("embeddings", "0@1", "0@2", "0@3")
    for ours, theirs in zip(features.values, native, strict=True):
        torch.testing.assert_close(ours, theirs.mean(1))


def test_a_whole_pass_predicts_behind_one_token_unless_the_head_is_read():
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).eval()
    predicted: list[int] = []
    model.lm_head.register_forward_hook(lambda module, args, output: predicted.append(output.shape[1]))

    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Any]:
        return {"input_ids": torch.tensor([[*map(ord, s.text)] for s in stimuli])}

    subject, texts = AnyModel(model, inputs, modalities=("text",)), letters("abc", "bcd", "cde")
    extract(subject, texts, batch_size=2)
    assert set(predicted[-2:]) == {1}
    read = extract(subject, texts, layers=["lm_head"], batch_size=2)["text"].values[0]
    with torch.no_grad():
        torch.testing.assert_close(read, model(**inputs(texts)).logits.mean(1))
