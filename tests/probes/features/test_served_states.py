"""Files of a serving engine: the features are those that hooks read from the same model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from bridgework.probes import extract, read_hidden_states
from bridgework.probes.features.features import Features
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.probes.toys import letters

STIMULI = letters("abc", "de", "fghi")
BEGIN, IDS = 1, (0, 2, 1, 3)  # the engine's ids: what enters block 0, 2 and 1, and what leaves the last of three


def tokens_of(text: str) -> Tensor:
    return torch.tensor([BEGIN, *(5 + ord(letter) % 30 for letter in text)])


@pytest.fixture
def model() -> LlamaModel:
    torch.manual_seed(0)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    return LlamaModel(LlamaConfig(vocab_size=40, **size)).eval()


@torch.no_grad()
def serve(model: LlamaModel, folder: Path) -> None:
    """Write what vLLM's connector writes: the states that enter these layers, and the last block's own output."""
    for stimulus in STIMULI:
        ids, entering = tokens_of(stimulus.text), list[Tensor]()

        def enter(module: nn.Module, args: tuple, into: list[Tensor] = entering) -> None:
            into.append(args[0])

        handles = [module.register_forward_pre_hook(enter) for module in (*model.layers, model.norm)]
        model(ids[None])
        for handle in handles:
            handle.remove()
        states = torch.stack([entering[number][0] for number in IDS], 1)
        save_file({"hidden_states": states.contiguous(), "token_ids": ids}, folder / f"{stimulus.id}.safetensors")


def test_they_are_the_features_of_the_model_itself(model, tmp_path):
    serve(model, tmp_path)
    read = read_hidden_states(tmp_path, IDS, 3, leave_out=(BEGIN,), name="llama")
    paths = {stimulus.id: tmp_path / f"{stimulus.id}.safetensors" for stimulus in STIMULI}
    mapped = read_hidden_states(paths, IDS, 3, leave_out=(BEGIN,), name="llama")["text"]
    assert read["text"].layers == ("embeddings", "0", "1", "2")
    assert read["text"].depths == (0, 1 / 3, 2 / 3, 1)
    assert mapped.samples == STIMULI.ids
    subject = AnyModel(model, lambda s, *_: {"input_ids": tokens_of(s[0].text)[None]}, modalities=("text",))
    own = extract(subject, STIMULI, batch_size=1, tokens={"text": slice(-4, None)}, pooling="none")["text"]
    for number, stimulus in enumerate(STIMULI):
        words = int(own.counts[0, number]) - len(stimulus.text)  # the begin token counts in a model without a record
        theirs = own.values[:, number, words : words + len(stimulus.text)].mean(1)
        torch.testing.assert_close(mapped.values[:, number], theirs, rtol=1e-5, atol=1e-6)
    read.save(tmp_path / "store")
    assert torch.equal(Features.load(tmp_path / "store")["text"].values, read["text"].values)


def test_what_is_unlike_is_refused(model, tmp_path):
    serve(model, tmp_path)
    path = tmp_path / f"{STIMULI[1].id}.safetensors"
    ids, states = tokens_of("de"), torch.ones(3, 4, 8)

    def refused(message: str, error: type[Exception] = ValueError, layers: tuple[int, ...] = IDS, **options) -> None:
        with pytest.raises(error, match=message):
            read_hidden_states(tmp_path, layers, 3, **options)

    refused(r"layer_ids are .* expected different numbers from 0 to blocks, 3", layers=(4,))
    refused(r"expected .* with 2 layers, as many as layer_ids", layers=(0, 1))
    refused("no token of stimulus 'id abc' is left to pool", leave_out=range(40))
    refused("unknown pooling 'sum'", pooling="sum")
    for content, message, error in (
        ({"hidden_states": states}, "and no token_ids", ValueError),
        ({"hidden_states": states.mT.contiguous(), "token_ids": ids}, "holds states", ValueError),
        ({"hidden_states": states[:2], "token_ids": ids}, r"states \(2, 4, 8\) of 3 tokens", ValueError),
        ({"hidden_states": states[..., :6].contiguous(), "token_ids": ids}, r"6 dims, .* of 8", ValueError),
        (
            {"hidden_states": states / 0, "token_ids": ids},
            "NaN or infinity at the engine's layer 0",
            FloatingPointError,
        ),
    ):
        save_file(content, path)
        refused(message, error)
    path.write_bytes(path.read_bytes()[:40])
    refused("is damaged")
    path.rename(f"{path}.zst")
    with pytest.raises(FileNotFoundError, match=r"unpack .*zst, by zstd -d"):
        read_hidden_states({"id de": path}, IDS, 3)
    with pytest.raises(FileNotFoundError, match="no safetensors files in"):
        read_hidden_states(tmp_path / "none", IDS, 3)
