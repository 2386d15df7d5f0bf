"""One stimulus is shown again, alone: what differs is one error, and what is right passes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel, RwkvConfig, RwkvModel

from bridgework.probes.extraction import checking
from bridgework.probes.extraction.checking import StimulusDiffers, batch_to_check
from bridgework.probes.extraction.extracting import extract, extract_cached
from bridgework.probes.features.features import Features
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.probes.toys import Count, Toy, contents, letters, many, open_toy

FEW = ("a", "bc", "def", "ghij", "klmno")


def always(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output


def altered(alter: Callable[[nn.Module, Any, Tensor], Tensor], block: int = 1, timed: bool = False) -> Toy:
    toy = open_toy()
    toy.timed_tasks = toy.tasks if timed else ()
    toy.model.layers[block].register_forward_hook(alter)
    return toy


def every_second(times: dict[str, Any]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A cache of steps: every second pass reuses what a block gave in the pass before."""

    def reuse(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        times["pass"] = times.get("pass", -1) + 1
        if times["pass"] % 2 and times["kept"].shape == output.shape:
            return times["kept"]
        times["kept"] = output
        return output

    return reuse


def drifting() -> Callable[[nn.Module, Any, Tensor], Tensor]:
    passes = [0]

    def drift(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        passes[0] += 1
        return output + passes[0] // 4  # as a loop that runs once more behind the first batches

    return drift


WRONG: dict[str, tuple[Callable[[], Toy], dict[str, Any], str]] = {
    "the batch changes a stimulus": (
        lambda: altered(lambda module, inputs, output: output + output.mean(0, keepdim=True)), {},
        "batch changes it: left padding",
    ),
    "padding changes a stimulus": (
        lambda: altered(lambda module, inputs, output: output * (output.abs().sum(-1) > 0).sum()), {},
        "batch changes it",
    ),
    "drawn at random": (
        lambda: altered(lambda module, inputs, output: nn.functional.dropout(output)), {}, "draws at random",
    ),
    "a pass changes the next": (lambda: altered(drifting()), {"batch_size": 2}, "a pass changes the next"),
    "a cache of steps": (
        lambda: altered(every_second({}), timed=True), {"timesteps": (0.2, 0.9)}, "alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "options", "cause"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_a_difference_is_one_error_with_its_cause(make, options, cause, pooling):
    with pytest.raises(StimulusDiffers, match=cause) as caught:
        extract(make(), letters(*FEW), pooling=pooling, **options)
    text = str(caught.value)
    assert "layer 'layers.1' of toy holds other" in text
    assert "for stimulus 'id " in text
    assert "differ by" in text
    assert "check=False" in text
    assert "\n" not in text
    features = extract(make(), letters(*FEW), pooling=pooling, check=False, **options)
    assert features.provenance["notes"]["0"]["check"] is False


@pytest.mark.parametrize(
    "options",
    [
        {}, {"joint": True}, {"pooling": "none"}, {"pooling": "last"}, {"cleaned": True},
        {"pooling": "none", "cleaned": True}, {"batch_size": 2}, {"batch_size": 1}, {"layers": ["1"]},
        {"pooling": "grid:2"}, {"timesteps": (0.2, 0.5, 0.9)}, {"dtype": torch.float16}, {"dtype": torch.bfloat16},
        {"precision": "bf16"}, {"tokens": {"text": slice(0, 1)}}, {"tokens": {"image": [True, False, True, False]}},
        {"timesteps": (0.4,), "pooling": "none", "joint": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_right_passes(options, monkeypatch):
    compared: list[int] = []
    differences = checking.differences

    def counted(*given: Any) -> list[tuple[str, float]]:
        found = list(differences(*given))
        compared.append(len(found))
        return found

    monkeypatch.setattr(checking, "differences", counted)
    toy = open_toy()
    toy.timed_tasks = toy.tasks if "timesteps" in options else ()
    features = extract(toy, letters(*FEW), **options)
    states = 2 * len(features["text"].layers) * (2 if options.get("cleaned") else 1)
    assert compared == [states]
    assert "notes" not in features.provenance


def test_it_costs_one_pass_of_one_stimulus():
    toy = open_toy()
    shown: list[int] = []
    toy.model.layers[0].register_forward_hook(lambda module, inputs, output: shown.append(len(output)))
    extract(toy, many(), batch_size=8)
    assert shown[-2:] == [1, 1]  # a pass of either modality
    assert shown[:-2] == [8] * 10
    shown.clear()
    extract(toy, many(), batch_size=8, check=False)
    assert shown == [8] * 10


def test_a_store_is_checked_by_a_row_that_it_holds(tmp_path, monkeypatch):
    """The record of the model is blind here, so that only the passes can tell."""
    monkeypatch.setattr("bridgework.probes.extraction.jobs.made_of", lambda *_: {"blind": True})
    toy = open_toy()
    extract(toy, letters(*FEW), batch_size=1, store=tmp_path)
    before = contents(tmp_path)
    extract(toy, letters(*FEW), batch_size=1, store=tmp_path)
    with torch.no_grad():
        toy.model.get_parameter("layers.2.linear.bias").add_(0.01)
    with pytest.raises(StimulusDiffers, match=r"layer 'layers\.2' of toy .* changed since the store was made"):
        extract(toy, letters(*FEW), batch_size=1, store=tmp_path)
    assert contents(tmp_path) == before
    extract(toy, letters(*FEW), batch_size=1, store=tmp_path, check=False)
    assert contents(tmp_path) == before


def test_before_an_extraction_resumes_a_row_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("bridgework.probes.extraction.jobs.made_of", lambda *_: {"blind": True})
    toy = open_toy()
    toy.show = Count(toy.show, 40, stop)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        extract(toy, many(), batch_size=1, store=tmp_path)
    files = set(contents(tmp_path))
    other = open_toy()
    with torch.no_grad():
        other.model.get_parameter("layers.0.linear.bias").add_(0.01)
    with pytest.raises(StimulusDiffers, match="changed since the store was made"):
        extract(other, many(), batch_size=1, store=tmp_path)
    assert set(contents(tmp_path)) == files
    shown: list[int] = []
    last = open_toy()
    last.model.layers[0].register_forward_hook(lambda module, inputs, output: shown.append(len(output)))
    extract(last, many(), batch_size=1, store=tmp_path)
    assert len(shown) == 2 * (1 + 24 + 1)  # a row of the store, three shards, a row of this run


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_stores_with_and_without_the_check_are_the_same_store(tmp_path):
    toy = open_toy()
    first = extract_cached(tmp_path, toy, letters(*FEW), check=False)
    again = extract_cached(tmp_path, toy, letters(*FEW))
    (store,) = (tmp_path / "features").iterdir()
    for features in (first, again, Features.load(store)):
        assert features.provenance["notes"] == {"0": {"check": False}}
    extract(toy, letters(*FEW), store=tmp_path / "checked")
    index = json.loads((tmp_path / "checked" / "features.json").read_text())
    assert index["shards"][0]["notes"] == {}


def test_what_cannot_be_shown_alone_is_shown_with_its_batch():
    def pairs(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if len(output) == 1:
            raise ValueError("expected more than one value")
        return output

    with pytest.warns(UserWarning, match="cannot be shown stimulus 'id a' alone .expected more than one value"):
        extract(altered(pairs), letters(*FEW))
    broken = altered(Count(always, 2, stop_with_an_error))
    with pytest.raises(RuntimeError, match=r"stimulus 'id a' cannot be shown to toy again \(a cache is full\)"):
        extract(broken, letters(*FEW))


def stop_with_an_error(*_: Any) -> None:
    raise ValueError("a cache is full")


def test_the_batch_that_is_checked_is_late_and_padded():
    lengths = [1, 1, 2, 2, 3, 9, 9, 9, 10]
    batches = [(0, 1), (2, 3), (4, 5), (6, 7), (8,)]
    assert batch_to_check(batches, lengths, range(5)) == 2
    assert batch_to_check(batches, lengths, [0, 1]) == 1
    assert batch_to_check(batches, lengths, [0]) == 0
    assert batch_to_check(batches, [0] * 9, range(5)) == 3  # the last of several


def test_the_tolerance_is_that_of_the_coarsest_number():
    from bridgework.probes.extraction.options import fitted
    from bridgework.probes.extraction.passes import PassRunner
    from bridgework.probes.extraction_options import ExtractionOptions

    def allowed(change: Callable[[Any], Any] = lambda m: m, **options: Any) -> float:
        toy = open_toy()
        change(toy.model)
        return checking.tolerance(PassRunner(toy, fitted(ExtractionOptions(**options), toy)))

    assert allowed() == allowed(lambda m: m.double()) == 1e-4
    assert allowed(dtype=torch.float16) == allowed(lambda m: m.half()) == 1e-2
    assert allowed(precision="bf16") == allowed(lambda m: m.layers[1].bfloat16()) == 3e-2
    assert allowed(lambda m: m.register_buffer("packed", torch.zeros(3, 3, dtype=torch.uint8))) == checking.COARSE


def padded(family: str, left: bool, positions: bool = False) -> AnyModel:
    """A tiny language model whose inputs are letters, padded on one side."""
    torch.manual_seed(0)
    kinds: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=128, n_embd=16, n_layer=2, n_head=2, n_positions=32)),
        "llama": lambda: LlamaModel(LlamaConfig(
            vocab_size=128, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        )),
        "rwkv": lambda: RwkvModel(RwkvConfig(
            vocab_size=128, hidden_size=16, attention_hidden_size=16, num_hidden_layers=2, intermediate_size=16,
            rescale_every=0,
        )),
    }  # fmt: skip
    model = kinds[family]().eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)

    def inputs(stimuli: Any, *_: Any) -> dict[str, Tensor]:
        rows = [[ord(letter) for letter in stimulus.text] for stimulus in stimuli]
        widest = max(map(len, rows))
        pads = [[0] * (widest - len(row)) for row in rows]
        ids = torch.tensor([pad + row if left else row + pad for pad, row in zip(pads, rows, strict=True)])
        given = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        if positions:
            given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return given

    return AnyModel(model, inputs, modalities=("text",), name=family)


@pytest.mark.parametrize("family", ["gpt2", "rwkv"])
def test_left_padding_that_shifts_positions_is_warned_of_and_refused(family):
    with (
        pytest.warns(UserWarning, match=f"{family}: inputs are padded on the left and {family} "),
        pytest.raises(StimulusDiffers, match=f"of {family} .* the batch changes it: left padding"),
    ):
        extract(padded(family, left=True), letters(*FEW))


RIGHT = [("gpt2", False, False), ("gpt2", True, True), ("llama", True, False), ("rwkv", False, False)]


@pytest.mark.parametrize(("family", "left", "positions"), RIGHT)
def test_padding_that_changes_nothing_passes(family, left, positions):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*padded on the left")
        features = extract(padded(family, left, positions), letters(*FEW))
    alone = extract(padded(family, left, positions), letters(*FEW), batch_size=1)
    torch.testing.assert_close(features["text"].values, alone["text"].values, atol=1e-5, rtol=1e-5)
