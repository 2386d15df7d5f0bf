"""Extraction, on a subject small enough to compute by hand: labels, options, layers, and the model left as it was."""

from __future__ import annotations

import json

import accelerate
import pytest
import torch
from torch import Tensor, nn

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.fingerprints.running_state import fingerprint
from bridgework.probes.similarity.scoring import similarity, similarity_map
from bridgework.tests.probes.toys import DIM, Stack


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
    provenance = features.provenance
    expected = {"stimuli": "letters", "stimuli_digest": stimuli.digest, "batch_size": 3, "dtype": "float32"}
    expected |= {"task": "understanding", "pass": "separate", "pooling": "mean"}
    assert expected.items() <= provenance.items()
    assert provenance["versions"]["torch"] == torch.__version__
    assert json.loads(json.dumps(provenance)) == provenance


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "generation"}, "unknown task 'generation': toy has understanding"),
        ({"task": "chess"}, "unknown task 'chess'"),
        ({"timesteps": (0.5,)}, "toy takes no timesteps"),
    ],
)
def test_wrong_options_are_refused(toy, stimuli, options, message):
    with pytest.raises(ValueError, match=message):
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
        for index, name in enumerate(names):
            assert torch.equal(part.values[index], whole[modality].layer(name))
            assert part.depths[index] == whole[modality].depths[whole[modality].layers.index(name)]


def test_a_pass_ends_behind_the_deepest_layer(toy, stimuli):
    toy.model.layers[2].forward = toy.model.head.forward = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        extract(toy, stimuli)
    assert extract(toy, stimuli, layers=["1"])["text"].layers == ("1",)


@pytest.mark.parametrize("asked", [["3"], ["layers.7"], ["tail"], [], "0"])
def test_layers_that_are_not_there(toy, stimuli, asked):
    with pytest.raises(ValueError, match=r"toy has no layer .* 0 to 2, their paths|expected a list of names"):
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
        for index, name in enumerate(part.layers):
            assert part.layer(name).shape == (7, part.widths[index])
            assert torch.equal(part.values[index, :, : part.widths[index]], part.layer(name))
            assert not part.values[index, :, part.widths[index] :].any()
    heat = similarity_map(seen["text"], seen["image"], metric="cka")
    by_hand = similarity(seen["text"].layer("embeddings"), seen["image"].layer("2"), metric="cka")
    assert heat.loc["embeddings", "2"] == pytest.approx(by_hand, abs=1e-6)
    with pytest.raises(ValueError, match="dims differ"):
        similarity_map(seen["text"], seen["image"], metric="cosine")  # which zeros would have let pass


def test_autocast(toy, stimuli):
    plain, low = extract(toy, stimuli)["text"], extract(toy, stimuli, precision="bf16")["text"]
    assert low.values.dtype == torch.float32
    assert not torch.equal(plain.values[1], low.values[1])
    torch.testing.assert_close(plain.values, low.values, rtol=0.05, atol=0.05)
    with pytest.raises(ValueError, match=r"unknown precision 'half': expected one of bf16, fp16"):
        extract(toy, stimuli, precision="half")


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
