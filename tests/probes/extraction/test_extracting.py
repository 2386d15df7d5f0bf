"""Extraction, on a subject small enough to compute by hand: what each pass sees, and what becomes of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.extraction.provenance import fingerprint
from bridgework.probes.similarity.patches import match_patches
from bridgework.probes.similarity.scoring import similarity, similarity_map
from bridgework.probes.stimuli.controls import mismatched, noise_for
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.probes.subjects.subject import ForwardPass
from bridgework.tests.probes.toys import DIM, IMAGE_TOKENS, TEXT_TOKENS, Stack, Toy, letters


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
    return letters("a", "bc", "def", "ghij", "klmno", "p", "qr")


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


def test_the_model_is_as_it_was(toy, stimuli):
    toy.model.train()
    toy.model.layers[1].eval()
    toy.model.layers[2].linear.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in toy.model.state_dict().items()}
    flags = [m.training for m in toy.model.modules()], [p.requires_grad for p in toy.model.parameters()]
    seen: list[bool] = []
    toy.run = lambda states: seen.append(toy.model.training) or toy.model(states)
    extract(toy, stimuli)
    assert not any(seen)

    def fail(states: Tensor) -> None:
        raise KeyboardInterrupt

    toy.run = fail
    with pytest.raises(KeyboardInterrupt):
        extract(toy, stimuli)
    assert flags == ([m.training for m in toy.model.modules()], [p.requires_grad for p in toy.model.parameters()])
    assert all(torch.equal(before[name], tensor) for name, tensor in toy.model.state_dict().items())
    toy.run = None
    toy.model(torch.randn(1, 3, DIM)).sum().backward()  # nothing was made in inference mode


# Layers


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["embeddings", "1"], ("embeddings", "1")),
        (["2", "0"], ("0", "2")),
        (["layers.1"], ("1",)),
        (["embeddings"], ("embeddings",)),
    ],
)
def test_some_layers_alone(toy, stimuli, asked, names):
    whole, some = extract(toy, stimuli), extract(toy, stimuli, layers=asked)
    for modality, part in some.items():
        assert part.layers == names
        for at, name in enumerate(names):
            assert torch.equal(part.values[at], whole[modality].layer(name))
            assert part.depths[at] == whole[modality].depths[whole[modality].layers.index(name)]


def test_a_pass_ends_behind_the_deepest_layer(toy, stimuli):
    toy.model.layers[2].forward = toy.model.head.forward = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        extract(toy, stimuli)
    assert extract(toy, stimuli, layers=["1"])["text"].layers == ("1",)


@pytest.mark.parametrize("asked", [["3"], ["layers.7"], ["head"], [], "0"])
def test_layers_that_are_not_there(toy, stimuli, asked):
    with pytest.raises(ValueError, match=r"toy has no layer .* 0 to 2 or their paths|expected a list of names"):
        extract(toy, stimuli, layers=asked)


class Widening(Stack):
    """Twice as wide after each block, as hierarchical towers are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(DIM * 2**i, DIM * 2 ** (i + 1))) for i in range(3))
        self.head = nn.Linear(DIM * 8, 2)


def test_layers_of_unequal_width(toy, stimuli, tmp_path):
    toy.model = Widening()
    seen = extract(toy, stimuli, store=tmp_path / "store", cleaned=True)
    for part in (seen["text"], seen["text"].cleaned, extract(toy, stimuli)["text"]):
        assert part.widths == (DIM, 2 * DIM, 4 * DIM, 8 * DIM)
        assert part.values.shape == (4, 7, 8 * DIM)
        for at, name in enumerate(part.layers):
            assert part.layer(name).shape == (7, part.widths[at])
            assert torch.equal(part.values[at, :, : part.widths[at]], part.layer(name))
            assert not part.values[at, :, part.widths[at] :].any()
    heat = similarity_map(seen["text"], seen["image"], metric="cka")
    by_hand = similarity(seen["text"].layer("embeddings"), seen["image"].layer("2"), metric="cka")
    assert heat.loc["embeddings", "2"] == pytest.approx(by_hand, abs=1e-6)
    with pytest.raises(ValueError, match="dims differ"):
        similarity_map(seen["text"], seen["image"], metric="cosine")  # which zeros would have let pass


# Pooling


@torch.no_grad()
def test_first_last_and_all_tokens(toy, stimuli):
    first, last, every = (extract(toy, stimuli, pooling=kind, batch_size=3) for kind in ("first", "last", "none"))
    assert every["text"].values.shape == (4, 7, TEXT_TOKENS, DIM)
    assert torch.equal(every["text"].counts, torch.tensor([len(s.text) for s in stimuli]).expand(4, -1))
    assert every["image"].counts.unique().tolist() == [IMAGE_TOKENS]
    for row, stimulus in enumerate(stimuli):
        tokens = every["text"].layer("1")[row]
        count = len(stimulus.text)
        torch.testing.assert_close(tokens[0], first["text"].layer("1")[row])
        torch.testing.assert_close(tokens[count - 1], last["text"].layer("1")[row])
        assert not tokens[count:].any()
    mean = every["text"].values.sum(2) / every["text"].counts[..., None]
    torch.testing.assert_close(mean, extract(toy, stimuli)["text"].values)
    with pytest.raises(ValueError, match=r"keep several vectors of each sample \(pooling 'none'\): pool them first"):
        similarity_map(every["text"], every["text"])


def test_a_patch_grid_is_of_the_image(toy, stimuli):
    seen, whole = extract(toy, stimuli, pooling="grid:2"), extract(toy, stimuli)
    assert (seen["image"].pooling, seen["text"].pooling) == ("grid:2", "mean")
    assert seen["image"].values.shape == (4, 7, 2, 2, DIM)
    torch.testing.assert_close(seen["image"].values.mean((2, 3)), whole["image"].values)
    assert torch.equal(seen["text"].values, whole["text"].values)
    coarse = extract(toy, stimuli, pooling="grid:1")["image"].values
    x, y = match_patches(seen["image"].values, coarse)
    torch.testing.assert_close(x, y)
    with pytest.raises(ValueError, match="match_patches"):
        similarity_map(seen["image"], seen["image"])
    with pytest.raises(ValueError, match="no place on a patch grid"):
        extract(toy, stimuli, pooling="grid:2", special=True)


def test_chosen_tokens(toy, stimuli):
    every = extract(toy, stimuli, pooling="none")["image"].values
    some = extract(toy, stimuli, tokens={"image": [1, 3]})
    assert (some["image"].pooling, some["text"].pooling) == ("mean + chosen", "mean")
    torch.testing.assert_close(some["image"].values, every[:, :, [1, 3]].mean(2))
    with pytest.raises(ValueError, match="tokens of 'sound' are chosen, but toy has image, text"):
        extract(toy, stimuli, tokens={"sound": [0]})
    with pytest.raises(ValueError, match="do not fit a sample of 4 image tokens"):
        extract(toy, stimuli, tokens={"image": [4]})


def test_choosing_is_the_way_out_where_a_subject_cannot_tell(toy, stimuli, monkeypatch):
    plain, show = extract(toy, stimuli), toy.show
    monkeypatch.setattr(toy, "show", lambda *asked: show(*asked)._replace(tokens={}), raising=False)
    with pytest.raises(ValueError, match=r"toy does not say which tokens are image: choose them, such as tokens="):
        extract(toy, stimuli)
    chosen = extract(toy, stimuli, tokens={"image": slice(None), "text": [0]})
    assert torch.equal(chosen["image"].values, plain["image"].values)
    assert torch.equal(chosen["text"].values, extract_first(toy, stimuli))


def extract_first(toy: Toy, stimuli: Stimuli) -> Tensor:
    return extract(toy, stimuli, tokens={"image": [0], "text": [0]})["text"].values


def test_special_tokens_with_and_without(toy, stimuli):
    plain = extract(toy, stimuli)["text"].values
    with pytest.raises(ValueError, match="toy names no special tokens: leave special out"):
        extract(toy, stimuli, special=True)
    toy.first_letter_is_special = True
    without, together = extract(toy, stimuli)["text"], extract(toy, stimuli, special=True)["text"]
    assert together.pooling == "mean + special"
    torch.testing.assert_close(together.values[:, 1], plain[:, 1])  # two letters
    assert not torch.allclose(without.values[:, 1], plain[:, 1])


def test_raw_and_cleaned_side_by_side(toy, stimuli):
    with torch.no_grad():
        toy.model.layers[0].linear.bias[2] = 50.0  # tanh holds it: make it massive behind
    toy.model.layers[0].register_forward_hook(
        lambda module, args, output: output + 1e4 * nn.functional.one_hot(torch.tensor(2), DIM)
    )
    seen = extract(toy, stimuli, cleaned=True)
    assert torch.equal(seen["image"].values, extract(toy, stimuli)["image"].values)
    for modality, part in seen.items():
        cleaned = part.cleaned
        assert cleaned.pooling == "mean + cleaned"
        assert cleaned.layers == part.layers
        assert part.layer("0")[:, 2].min() > 9e3
        raw = part.layer("0").double()
        assert cleaned.values.shape == part.values.shape
        spread = cleaned.values.double().std(1, correction=0)
        constant = spread < 0.5
        assert torch.allclose(spread[~constant], torch.ones(1).double(), atol=1e-5)
        assert not cleaned.values.transpose(1, 2)[constant].any()
        assert torch.allclose(cleaned.values.mean(1), torch.zeros(1), atol=1e-5)
        assert not torch.allclose(cleaned.layer("0").double(), (raw - raw.mean(0)) / raw.std(0, correction=0)), modality
    assert extract(toy, stimuli)["image"].cleaned is None


@pytest.mark.parametrize("pooling", ["none", "grid:2"])
def test_z_scores_leave_padding_out(toy, stimuli, pooling):
    seen = extract(toy, stimuli, cleaned=True, pooling=pooling)["text" if pooling == "none" else "image"].cleaned
    for at, _ in enumerate(seen.layers):
        rows = seen.values[at].flatten(1, -2)
        if pooling == "none":
            there = torch.arange(rows.shape[1]) < seen.counts[at][:, None]
            assert not rows[~there].any()
            rows = rows[there]
        assert torch.allclose(rows.reshape(-1, DIM).mean(0), torch.zeros(DIM), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_that_is_kept(toy, stimuli, dtype):
    whole, half = extract(toy, stimuli)["text"], extract(toy, stimuli, dtype=dtype)["text"]
    assert half.values.dtype == dtype
    assert torch.equal(half.values, whole.values.to(dtype))
    heat = similarity_map(half, half, metric="cka")
    assert np.allclose(np.diag(heat), 1, atol=1e-5)
    with pytest.raises(ValueError, match=r"dtype is torch.float64: expected torch.float32, float16 or bfloat16"):
        extract(toy, stimuli, dtype=torch.float64)


def test_what_does_not_fit_the_dtype_is_told(toy, stimuli):
    toy.model.layers[1].register_forward_hook(lambda module, args, output: output * 1e6)
    with pytest.raises(FloatingPointError, match=r"'layers.1' of toy is too large for torch.float16, first for"):
        extract(toy, stimuli, dtype=torch.float16)
    assert torch.isfinite(extract(toy, stimuli, dtype=torch.bfloat16)["image"].values).all()


def test_autocast(toy, stimuli):
    plain, low = extract(toy, stimuli)["text"], extract(toy, stimuli, precision="bf16")["text"]
    assert low.values.dtype == torch.float32
    assert not torch.equal(plain.values[1], low.values[1])
    torch.testing.assert_close(plain.values, low.values, rtol=0.05, atol=0.05)
    with pytest.raises(ValueError, match=r"precision is 'half': expected bf16, fp16, or None"):
        extract(toy, stimuli, precision="half")


def test_the_first_stimulus_with_nan_is_named(toy, stimuli):
    def spoil(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        output = output.clone()
        output[4:, 0] = float("inf")
        return output

    toy.modalities = ("image",)
    toy.model.layers[1].register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match=r"layer 'layers.1' of toy .* first for stimulus 'id klmno'"):
        extract(toy, stimuli)


def test_guidance_is_named_where_it_doubles_the_batch(toy, stimuli):
    toy.run = lambda states: toy.model(torch.cat([states, states]))
    with pytest.raises(ValueError, match=r"layer 'embeddings' has hidden states .* twice .* classifier-free guidance"):
        extract(toy, stimuli)


# Memory


def limited(toy: Toy, most: int, error: BaseException) -> list[int]:
    """Let the toy fit at most so many stimuli at once; returns the list of the sizes that it was given."""
    sizes: list[int] = []

    def run(states: Tensor) -> Tensor:
        sizes.append(len(states))
        if len(states) > most:
            raise error
        return toy.model(states)

    toy.run = run
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_is_halved_where_memory_is_short(swept, stimuli, error):
    whole = extract(swept, stimuli, timesteps=(0.2, 0.8), batch_size=7)
    sizes = limited(swept, 2, error)
    with pytest.warns(UserWarning, match=r"stimuli at once do not fit into memory .*: continuing with"):
        halved = extract(swept, stimuli, timesteps=(0.2, 0.8), batch_size=7)
    assert sizes[:3] == [7, 4, 2]
    assert max(sizes[3:]) == 2  # and it does not try more again
    for modality in whole:
        torch.testing.assert_close(whole[modality].values, halved[modality].values, rtol=0, atol=1e-5)
        assert halved[modality].samples == whole[modality].samples
    assert halved.provenance["notes"] == {"0": {"halved": {"0": [2, 2, 2, 1]}}}
    assert "notes" not in whole.provenance


def test_one_stimulus_that_does_not_fit(toy, stimuli):
    limited(toy, 0, MemoryError("no room"))
    with (
        pytest.warns(UserWarning, match="continuing with [421]"),
        pytest.raises(MemoryError, match=r"stimulus 'id a' alone does not fit into memory with toy \(no room\): open"),
    ):
        extract(toy, stimuli)


def test_other_errors_do_not_halve(toy, stimuli):
    sizes = limited(toy, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        extract(toy, stimuli)
    assert sizes == [7]


def test_batches_are_sorted_by_length(toy, stimuli):
    seen: list[list[str]] = []
    show = toy.show

    def recorded(batch: Sequence[Stimulus], *asked: Any) -> ForwardPass:
        seen.append([s.text for s in batch])
        return show(batch, *asked)

    toy.show = recorded  # type: ignore[method-assign]
    found = extract(toy, stimuli, batch_size=3)
    assert seen[::2] == [["a", "p", "bc"], ["qr", "def", "ghij"], ["klmno"]]
    assert found["text"].samples == tuple(s.id for s in stimuli)


# accelerate


def test_an_offloaded_model_stays_where_it_is(toy, stimuli):
    plain, weights = extract(toy, stimuli), fingerprint(toy.model)
    accelerate.cpu_offload(toy.model, execution_device=torch.device("cpu"))
    assert {p.device.type for p in toy.model.parameters()} == {"meta"}
    seen = extract(toy, stimuli)
    assert {p.device.type for p in toy.model.parameters()} == {"meta"}
    assert fingerprint(toy.model) == weights
    for modality in plain:
        assert torch.equal(plain[modality].values, seen[modality].values)
    with pytest.raises(ValueError, match="accelerate has laid out toy over devices: leave device at 'auto'"):
        extract(toy, stimuli, device="cpu")


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


# Passes that are not what they seem


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
    assert asked == [(("image",), 0.2), (("image",), 0.8), (("text",), 1.0)]
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
    assert heads == [3, 3]  # of either modality
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


@pytest.mark.parametrize("layers", [None, ["2"]])
def test_tokens_that_do_not_fit_the_deepest_layer_are_told(toy, stimuli, layers):
    """Although nothing behind it is needed."""
    toy.model.layers[2].register_forward_hook(lambda module, given, out: torch.cat([out, out], 1))
    with pytest.raises(ValueError, match=r"layer 'layers\.2' has hidden states of shape .* but the image mask"):
        extract(toy, stimuli, layers=layers)
