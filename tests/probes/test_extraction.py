"""Extraction, on a subject small enough to compute by hand: what each pass sees, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bridgework.probes.extraction import extract, mismatched, noise_for
from bridgework.probes.stimuli import Stimuli, Stimulus
from bridgework.probes.subjects import Shown

DIM, IMAGE_TOKENS, TEXT_TOKENS = 6, 4, 5


class Block(nn.Module):
    """Mixes all tokens, and adds an own map of each."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.linear(states).tanh() + states.mean(1, keepdim=True)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(DIM, 2)

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            states = layer(states)
        return self.head(states)


@dataclass
class Toy:
    """Pixels are four image tokens, letters the text tokens, one to each; with timesteps, noise is mixed in."""

    model: Stack
    timed_tasks: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ("image", "text")
    tasks: tuple[str, ...] = ("understanding",)
    name: str = "toy"
    blocks: tuple[str, ...] = ("layers.0", "layers.1", "layers.2")
    run: Callable[..., Any] | None = None

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> Shown:
        states, tokens = [], {}
        before = 0
        if "image" in modalities:
            image = torch.stack([torch.tensor(np.asarray(s.image)).float()[0, :, :1] / 255 for s in stimuli])
            if timestep is not None:
                image = (1 - timestep) * image + timestep * noise_for([s.id for s in stimuli], (IMAGE_TOKENS, 1))
            states.append(image.expand(-1, -1, DIM))
            before = IMAGE_TOKENS
        if "text" in modalities:
            letters = torch.zeros(len(stimuli), TEXT_TOKENS, DIM)
            for row, stimulus in enumerate(stimuli):
                for column, letter in enumerate(stimulus.text):
                    letters[row, column] = torch.arange(DIM) * ord(letter) / 500
            states.append(letters)
        joined = torch.cat(states, 1)
        at = torch.arange(joined.shape[1])[None]
        lengths = torch.tensor([[before + len(s.text)] for s in stimuli])
        tokens = {"image": (at < before).expand(len(stimuli), -1), "text": (at >= before) & (at < lengths)}
        run = self.run or self.model
        return Shown(lambda: run(joined), {m: tokens[m] for m in modalities}, {})


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy(Stack())


@pytest.fixture
def swept(toy) -> Toy:
    toy.timed_tasks, toy.tasks = ("generation",), ("generation",)
    return toy


@pytest.fixture
def stimuli() -> Stimuli:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 1, IMAGE_TOKENS, 3), dtype=np.uint8)
    texts = ("a", "bc", "def", "ghij", "klmno", "p", "qr")
    return Stimuli([Stimulus(Image.fromarray(i), t, f"id {t}") for i, t in zip(images, texts, strict=True)], "letters")


def test_shapes_and_labels(toy, stimuli):
    features = extract(toy, stimuli, batch_size=3)
    assert set(features) == {"image", "text"}
    for modality, part in features.items():
        assert part.values.shape == (4, 7, DIM)
        assert part.values.dtype == torch.float32
        assert part.layers == ("embeddings", "0", "1", "2")
        assert part.depths == pytest.approx((0, 1 / 3, 2 / 3, 1))
        assert (part.modality, part.subject, part.task, part.pass_) == (modality, "toy", "understanding", "separate")
        assert (part.pooling, part.timesteps) == ("mean", ())
        assert part.samples == tuple(s.id for s in stimuli)
    told = features.provenance
    assert (told["stimuli"], told["stimuli_digest"], told["batch_size"]) == ("letters", stimuli.digest, 3)
    assert (told["task"], told["pass"], told["pooling"], told["dtype"]) == (
        "understanding",
        "separate",
        "mean",
        "float32",
    )
    assert told["versions"]["torch"] == torch.__version__
    assert json.loads(json.dumps(told)) == told


@torch.no_grad()
def test_the_mean_over_a_modalitys_own_tokens(toy, stimuli):
    text = extract(toy, stimuli)["text"].values
    for row, stimulus in enumerate(stimuli):
        states = torch.zeros(1, TEXT_TOKENS, DIM)
        for column, letter in enumerate(stimulus.text):
            states[0, column] = torch.arange(DIM) * ord(letter) / 500
        for layer in range(4):
            torch.testing.assert_close(text[layer, row], states[0, : len(stimulus.text)].mean(0))
            states = toy.model.layers[layer](states) if layer < 3 else states


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


def test_features_do_not_depend_on_batches_or_order(swept, stimuli):
    whole = extract(swept, stimuli, timesteps=(0.5,), batch_size=7)
    dealt = extract(swept, stimuli, timesteps=(0.5,), batch_size=2)
    order = [4, 2, 6, 0, 1, 5, 3]
    shuffled = extract(swept, Stimuli([stimuli[i] for i in order]), timesteps=(0.5,), batch_size=3)
    for modality in whole:
        torch.testing.assert_close(whole[modality].values, dealt[modality].values, rtol=0, atol=1e-5)
        torch.testing.assert_close(whole[modality].values[:, order], shuffled[modality].values, rtol=0, atol=1e-5)


def test_noise_belongs_to_the_id():
    noise = noise_for(["a", "b", "a"], (3, 20, 20))
    assert noise.shape == (3, 3, 20, 20)
    assert noise.dtype == torch.float32
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1], noise_for(["b"], (3, 20, 20))[0])
    assert abs(float((noise[0] * noise[1]).mean())) < 0.1
    assert float(noise[0].mean()) == pytest.approx(0, abs=0.1)
    assert float(noise[0].std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"task": "generation"}, "unknown task 'generation': toy has understanding"),
        ({"task": "chess"}, "unknown task 'chess'"),
        ({"timesteps": (0.5,)}, "toy takes no timesteps"),
    ],
)
def test_wrong_options_are_refused(toy, stimuli, options, told):
    with pytest.raises(ValueError, match=told):
        extract(toy, stimuli, **options)


def test_a_task_must_be_chosen_where_there_are_two(toy, stimuli):
    toy.tasks = ("understanding", "generation")
    with pytest.raises(ValueError, match="unknown task None: toy has understanding, generation"):
        extract(toy, stimuli)
    assert extract(toy, stimuli, task="generation")["text"].task == "generation"


def test_wrong_timesteps_are_refused(swept, stimuli):
    with pytest.raises(ValueError, match="toy needs timesteps, such as"):
        extract(swept, stimuli)
    for times in ((0.0,), (0.5, 1.2), (-0.1,), (float("nan"),)):
        with pytest.raises(ValueError, match=r"timesteps .* must lie in 0 .* to 1"):
            extract(swept, stimuli, timesteps=times)


def test_one_modality_has_no_joint_pass(toy, stimuli):
    toy.modalities = ("text",)
    assert set(extract(toy, stimuli)) == {"text"}
    with pytest.raises(ValueError, match="toy sees text alone: it has no joint pass"):
        extract(toy, stimuli, joint=True)


@pytest.mark.parametrize(("layer", "told"), [(1, "layers.1"), (2, "layers.2")])
def test_hidden_states_that_are_not_finite(toy, stimuli, layer, told):
    toy.model.layers[layer].linear.weight.data[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=f"layer '{told}' of toy gave NaN or infinity"):
        extract(toy, stimuli)


def test_a_mask_that_does_not_fit(toy, stimuli):
    toy.run = lambda states: toy.model(states[:, 1:])
    with pytest.raises(ValueError, match=r"layer 'embeddings' has hidden states .* \(7, 3, 6\), but the image mask is"):
        extract(toy, stimuli)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_extraction_leaves_the_model_alone(toy, stimuli, error):
    def fail(states: Tensor) -> None:
        toy.model.layers[0](states)
        raise error("stop")

    toy.run = fail
    with pytest.raises(error, match="stop"):
        extract(toy, stimuli)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in toy.model.modules())
    toy.run = None
    assert torch.isfinite(extract(toy, stimuli)["text"].values).all()


@pytest.mark.parametrize("count", [2, 3, 7])
def test_mismatched_leaves_none_with_its_own_text(stimuli, count):
    shown = stimuli[:count]
    wrong = mismatched(shown)
    assert sorted(s.text for s in wrong) == sorted(s.text for s in shown)
    assert not [one for one, other in zip(shown, wrong, strict=True) if one.text == other.text]
    assert [s.id for s in wrong] == [s.id for s in shown]
    assert all(np.array_equal(np.asarray(a.image), np.asarray(b.image)) for a, b in zip(shown, wrong, strict=True))
    assert wrong.digest != shown.digest
    assert wrong.digest == mismatched(shown).digest
    assert wrong.name == "letters mismatched"


def test_one_stimulus_cannot_be_mismatched(stimuli):
    with pytest.raises(ValueError, match="give at least two"):
        mismatched(stimuli[:1])
