"""Several states of each token between the blocks: one of them is chosen, or the model is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import DeepseekV4Config, DeepseekV4Model, Gemma3nTextConfig, Gemma3nTextModel

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.hooks.block_stacks import find_stacks
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.probes.subjects.token_streams import find_streams

DIM, WIDE = 8, {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}


def deepseek_v4() -> nn.Module:
    """DeepSeek-V4: (batch, token, 4 streams, dim)."""
    config = DeepseekV4Config(
        **WIDE, moe_intermediate_size=8, num_attention_heads=2, num_key_value_heads=1, head_dim=16, q_lora_rank=8,
        o_lora_rank=8, o_groups=1, n_routed_experts=2, num_experts_per_tok=1, n_shared_experts=1, qk_rope_head_dim=8,
        hc_mult=4, index_n_heads=2, index_head_dim=16, index_topk=8, sliding_window=8, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return DeepseekV4Model(config)


def gemma_3n() -> nn.Module:
    """Gemma 3n: (4 inputs of AltUp, batch, token, dim)."""
    config = Gemma3nTextConfig(
        **WIDE, vocab_size_per_layer_input=64, hidden_size_per_layer_input=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=8, layer_types=["full_attention"] * 2, laurel_rank=4,
        num_kv_shared_layers=0, altup_num_inputs=4, activation_sparsity_pattern=[0.0] * 2, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return Gemma3nTextModel(config)


class Shaped(nn.Module):
    """Words in a shape that is made of (batch, token, dim); the blocks read the last axis."""

    def __init__(self, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.shape = nn.Embedding(64, DIM), shape
        self.layers = nn.ModuleList(nn.Sequential(nn.Sequential(nn.Linear(DIM, DIM)), nn.Tanh()) for _ in range(2))

    def forward(self, input_ids: Tensor) -> Tensor:
        states = self.shape(self.words(input_ids))
        for layer in self.layers:
            states = layer(states)
        return states


def words(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Tensor]:
    """Letters, of which the caption is all, at most four and padded to them."""
    rows = [[10 + ord(letter) % 50 for letter in s.text[:4].ljust(4, "z")] for s in stimuli]
    return {"input_ids": torch.tensor(rows)}


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    blank = Image.new("RGB", (2, 2))
    return Stimuli([Stimulus(blank, text, text) for text in ("abcd", "efgh", "ijkl", "mnop")], "letters")


@pytest.mark.parametrize(("build", "axis"), [(deepseek_v4, 2), (gemma_3n, 0)])
def test_hyper_connections_and_altup(build, axis, stimuli):
    torch.manual_seed(0)
    model = build().eval()
    blocks = next(iter(find_stacks(model).values()))
    with pytest.raises(ValueError, match=rf"hold 4 states of each token along axis {axis} .*residual_streams='mean'"):
        extract(AnyModel(model, words, modalities=("text",)), stimuli)
    with torch.no_grad(), capture(model, ["embeddings", *blocks]) as taps:
        model(**words(stimuli))
    for choice in ("mean", 0, 3):
        subject = AnyModel(model, words, modalities=("text",), residual_streams=choice)
        for pooling in ("mean", "last"):
            part = extract(subject, stimuli, pooling=pooling)["text"]
            for number, path in enumerate(["embeddings", *blocks]):
                one = taps[path].mean(axis) if choice == "mean" else taps[path].select(axis, int(choice))
                torch.testing.assert_close(part.values[number], one.mean(1) if pooling == "mean" else one[:, -1])
    with pytest.raises(ValueError, match=r"residual_streams is 4, but .* expected 'mean' or one of 0, 1, 2, 3"):
        extract(AnyModel(model, words, modalities=("text",), residual_streams=4), stimuli)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        (lambda s: s[:, :, None].expand(-1, -1, 4, -1), 2),
        (lambda s: s[:, None].expand(-1, 4, -1, -1), 1),  # heads
        (lambda s: s[None].expand(4, -1, -1, -1), 0),
        (lambda s: s.transpose(0, 1)[:, :, None].expand(-1, -1, 4, -1), 2),  # (token, batch, stream, dim)
        (lambda s: torch.stack([s, 0 * s, 0 * s, 0 * s], 2), 2),  # three that are empty before the first block
    ],
)
def test_the_axis_is_found_where_all_sizes_are_four(shape, axis, stimuli):
    """Four samples of four tokens with four states each."""
    torch.manual_seed(0)
    model = Shaped(shape).eval()
    with pytest.raises(ValueError, match=f"hold 4 states of each token along axis {axis} "):
        extract(AnyModel(model, words, modalities=("text",)), stimuli)
    last = extract(AnyModel(model, words, modalities=("text",), residual_streams="mean"), stimuli, pooling="last")
    state = model(**words(stimuli)).mean(axis)
    expected = state[-1] if shape(torch.zeros(2, 3, DIM)).shape[0] == 3 else state[:, -1]
    torch.testing.assert_close(last["text"].values[-1], expected.detach())


@pytest.mark.parametrize(
    "shape",
    [
        lambda s: s.repeat_interleave(4, 0),  # streams in the batch, as a popular implementation holds them
        lambda s: s.repeat(2, 1, 1),
        lambda s: s.repeat_interleave(3, 1),
        lambda s: torch.cat([s, s], 1),
        lambda s: torch.cat([s, 0 * s]),
    ],
)
def test_states_whose_order_cannot_be_told_are_refused(shape, stimuli):
    torch.manual_seed(0)
    subject = AnyModel(Shaped(shape).eval(), words, modalities=("text",))
    with pytest.raises(ValueError, match="for 12 text tokens: it keeps several states of each"):
        extract(subject, stimuli[:3])


def test_states_that_split_behind_the_first_block_are_refused(stimuli):
    class Late(Shaped):
        def forward(self, input_ids: Tensor) -> Tensor:
            return self.layers[1](self.layers[0](self.words(input_ids))[:, :, None].expand(-1, -1, 4, -1))

    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"layer 'layers.1' has hidden states of shape \(4, 4, 4, 8\)"):
        extract(AnyModel(Late(lambda s: s).eval(), words, modalities=("text",)), stimuli)


@pytest.mark.parametrize(
    "shape",
    [lambda s: s, lambda s: s.transpose(0, 1), lambda s: s.flatten(0, 1), lambda s: 2 * s - s],
)
def test_one_state_of_each_token_needs_no_choice(shape, stimuli):
    torch.manual_seed(0)
    model = Shaped(shape).eval()
    values = extract(AnyModel(model, words, modalities=("text",)), stimuli)["text"].values
    torch.testing.assert_close(values[0], model.words(words(stimuli)["input_ids"]).mean(1).detach())
    with pytest.raises(ValueError, match="Shaped has one state of each token: leave residual_streams out"):
        extract(AnyModel(model, words, modalities=("text",), residual_streams="mean"), stimuli)


def test_a_prompt_of_learnt_tokens_is_no_stream(stimuli):
    """As many learnt tokens as words: twice the positions, of which half are special."""
    torch.manual_seed(0)
    model = Shaped(lambda s: torch.cat([torch.ones_like(s), s], 1)).eval()
    stream = find_streams(model, words(stimuli))["layers"][None]
    assert {kind: rows[0].tolist() for kind, rows in stream.positions.items()} == {
        "text": [4, 5, 6, 7], "special": [0, 1, 2, 3]
    }  # fmt: skip
