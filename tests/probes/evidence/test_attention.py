"""Attention mass: what transformers' own eager attention says; causal, masked, grouped, dual-stream attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

from bridgework.probes.evidence.attention import attention_mass, probabilities
from bridgework.probes.hooks.attention_calls import intercept_calls
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.subject import ForwardPass

PLACEHOLDER = 60
TEXT = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.5}  # fmt: skip


@dataclass
class Toy:
    """A begin token, image placeholders where there are any, then a token a letter and one of padding."""

    model: Any
    blocks: tuple[str, ...]
    modalities: tuple[str, ...] = ("image", "text")
    image_tokens: int = 0
    padding: int = 1
    name: str = "toy"
    tasks: tuple[str, ...] = ("understanding",)
    timed_tasks: tuple[str, ...] = ()

    def inputs(self, stimuli: Sequence[Stimulus]) -> dict[str, Tensor]:
        rows = [
            [1] + [PLACEHOLDER] * self.image_tokens + [ord(c) % 50 + 5 for c in s.text] + [0] * self.padding
            for s in stimuli
        ]
        ids = torch.tensor(rows)
        inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        if self.image_tokens:
            torch.manual_seed(len(stimuli[0].text))
            inputs["pixel_values"] = torch.randn(len(stimuli), 3, 32, 32)
        return inputs

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        inputs = self.inputs(stimuli)
        ids, at = inputs["input_ids"], torch.arange(inputs["input_ids"].shape[1])
        tokens = {"text": (at > self.image_tokens) & (ids > 0)}
        if self.image_tokens:
            tokens = {"image": ids == PLACEHOLDER} | tokens
        return ForwardPass(lambda: self.model(**inputs), tokens)


def language_model(attention: str) -> Toy:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM._from_config(Qwen2Config(**TEXT), attn_implementation=attention).eval()
    return Toy(model, tuple(f"model.layers.{i}" for i in range(3)), ("text",))


def vision_language_model(attention: str) -> Toy:
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "vision_use_head": False}  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=TEXT | {"model_type": "llama"}, image_token_index=PLACEHOLDER,
        image_seq_length=4, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    return Toy(model, tuple(f"model.language_model.layers.{i}" for i in range(3)), image_tokens=4)


@pytest.fixture
def stimuli() -> Stimuli:
    texts = ("ab", "cdefg", "hijk")
    return Stimuli([Stimulus(Image.new("RGB", (4, 4)), text, text) for text in texts], "letters")


def labels(toy: Toy, ids: Tensor) -> list[str]:
    return ["image" if i == PLACEHOLDER else "other" if i in (0, 1) else "text" for i in ids.tolist()]


@pytest.mark.parametrize("make", [language_model, vision_language_model])
@pytest.mark.parametrize("padding", [0, 2])
def test_mass_is_that_of_eager_attention(make, padding, stimuli):
    toy, eager = make("sdpa"), make("eager")
    toy.padding = eager.padding = padding
    table = attention_mass(toy, stimuli, device="cpu").set_index(["layer", "query", "key"])
    sums: dict[tuple[str, str, str], list[float]] = {}
    for stimulus in stimuli:
        inputs = eager.inputs([stimulus])
        kinds = labels(eager, inputs["input_ids"][0])
        with torch.no_grad():
            layers = eager.model(**inputs, output_attentions=True).attentions
        for number, attention in enumerate(layers):
            for query in toy.modalities:
                for key in (*toy.modalities, "other"):
                    rows = [i for i, kind in enumerate(kinds) if kind == query]
                    columns = [i for i, kind in enumerate(kinds) if kind == key]
                    mass = attention[0][:, rows][:, :, columns].sum(-1).mean().item()
                    sums.setdefault((str(number), query, key), []).append(mass)
    assert len(table) == len(sums)
    for where, masses in sums.items():
        assert table.loc[where, "mass"] == pytest.approx(sum(masses) / 3, abs=1e-6)
    assert table.groupby(["layer", "query"])["mass"].sum().to_numpy() == pytest.approx(1, abs=1e-6)
    assert table["mass"].std() > 0.05


def test_expected_counts_the_keys_that_a_causal_mask_allows(stimuli):
    table = attention_mass(vision_language_model("sdpa"), stimuli[:1], device="cpu").set_index(["query", "key"])
    row = table[table["layer"] == "1"]["expected"]
    # begin, four image tokens, two of text: image token i sees i + 1 of i + 2, text tokens 4 of 6 and 4 of 7
    assert row["image", "image"] == pytest.approx(sum(i / (i + 1) for i in range(1, 5)) / 4)
    assert row["image", "text"] == 0
    assert row["text", "image"] == pytest.approx((4 / 6 + 4 / 7) / 2)
    assert row["text", "text"] == pytest.approx((1 / 6 + 2 / 7) / 2)
    assert table[table["layer"] == "1"]["mass"]["image", "text"] == 0


@pytest.mark.parametrize("options", [
    {}, {"is_causal": True}, {"scale": 0.1}, {"attn_mask": "bool"}, {"attn_mask": "float"}, {"enable_gqa": True},
])  # fmt: skip
def test_probabilities_give_what_sdpa_gives(options):
    generator = torch.Generator().manual_seed(0)
    heads = 2 if options.get("enable_gqa") else 4
    query = torch.randn(2, 4, 5, 8, generator=generator)
    key, value = (torch.randn(2, heads, 5, 8, generator=generator) for _ in range(2))
    seen = torch.rand(2, 1, 5, 5, generator=generator) > 0.4
    seen |= torch.eye(5, dtype=torch.bool)
    masks = {"bool": seen, "float": torch.zeros(2, 1, 5, 5).masked_fill(~seen, torch.finfo(torch.float32).min)}
    options = {name: masks.get(given, given) if name == "attn_mask" else given for name, given in options.items()}
    calls: list = []
    with intercept_calls(calls.append):
        own = F.scaled_dot_product_attention(query, key, value, **options)
    chances, allowed = probabilities(*calls)
    out = chances @ value.repeat_interleave(4 // heads, 1)
    torch.testing.assert_close(out, own)
    assert (chances[~allowed] == 0).all()


class Joint(nn.Module):
    """A dual-stream block: one attention over both streams' tokens, in the order given, and one of the image alone."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.image, self.text, self.first = nn.Linear(6, 18), nn.Linear(6, 18), first
        self.norm = nn.RMSNorm(6)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        parts = {"image": self.image(hidden_states), "text": self.text(encoder_hidden_states)}
        order = sorted(parts, key=lambda name: name != self.first)
        query, key, value = torch.cat([parts[name] for name in order], 1)[:, None].chunk(3, -1)
        joined = F.scaled_dot_product_attention(self.norm(query), key, value)[:, 0]
        lengths = [parts[name].shape[1] for name in order]
        outs = dict(zip(order, joined.split(lengths, 1), strict=True))
        alone = F.scaled_dot_product_attention(*(hidden_states[:, None] for _ in range(3)))[:, 0]
        return encoder_hidden_states + outs["text"], hidden_states + outs["image"] + alone


class DualStream(nn.Module):
    def __init__(self, first: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Joint(first) for _ in range(2))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        for block in self.blocks:
            text, image = block(hidden_states=image, encoder_hidden_states=text)
        return image


@dataclass
class Pair:
    """Four image tokens and three of text, the last of which is padding."""

    model: nn.Module
    name: str = "pair"
    blocks: tuple[str, ...] = ("blocks.0", "blocks.1")
    tasks: tuple[str, ...] = ("generation",)
    modalities: tuple[str, ...] = ("image", "text")
    timed_tasks: tuple[str, ...] = ("generation",)

    def show(self, stimuli: Sequence[Stimulus], modalities: tuple, task: str, timestep: float | None) -> ForwardPass:
        generator = torch.Generator().manual_seed(len(stimuli[0].text))
        image = torch.randn(1, 4, 6, generator=generator)
        text = torch.randn(1, 3, 6, generator=generator)
        tokens = {"image": torch.ones(1, 4, dtype=torch.bool), "text": torch.tensor([[True, True, False]])}
        return ForwardPass(lambda: self.model(image, text), tokens, {"image": "image", "text": "text"})


@pytest.mark.parametrize("first", ["image", "text"])
def test_the_order_of_streams_is_found(first, stimuli):
    torch.manual_seed(0)
    subject = Pair(DualStream(first))
    table = attention_mass(subject, stimuli[:1], timestep=0.5, device="cpu")
    mass = table[table["layer"] == "0"].set_index(["query", "key"])["mass"]
    calls: list[Tensor] = []
    shown = subject.show(stimuli[:1], subject.modalities, "generation", 0.5)
    block: Any = subject.model.get_submodule("blocks.0")
    hooks = [getattr(block, name).register_forward_hook(lambda m, i, out: calls.append(out)) for name in STREAM]
    with torch.no_grad():
        shown.run()
    for hook in hooks:
        hook.remove()
    image, text = (part[0].chunk(3, -1) for part in calls)
    keys = torch.cat([image[1], text[1]])
    for name, part, rows in (("image", image, slice(4)), ("text", text, slice(2))):
        chances = (block.norm(part[0])[rows] @ keys.T * 6**-0.5).softmax(-1).mean(0)
        assert mass[name, "image"] == pytest.approx(chances[:4].sum().item(), abs=1e-6)
        assert mass[name, "text"] == pytest.approx(chances[4:6].sum().item(), abs=1e-6)
        assert mass[name, "other"] == pytest.approx(chances[6].item(), abs=1e-6)
    assert (table["timestep"] == 0.5).all()
    expected = table.set_index(["layer", "query", "key"])["expected"]
    assert expected["1", "text", "image"] == pytest.approx(4 / 7)


STREAM = ("image", "text")


def test_nothing_is_left_behind(stimuli):
    subject = Pair(DualStream("text"))
    assert torch.is_grad_enabled()
    attention_mass(subject, stimuli, timestep=0.5, device="cpu")
    assert torch.is_grad_enabled()
    assert torch._C._len_torch_function_stack() == 0
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules())


def test_what_has_no_joint_attention_is_named(stimuli):
    with pytest.raises(ValueError, match="no block of toy attends to all of its tokens through SDPA"):
        attention_mass(language_model("eager"), stimuli, device="cpu")
    with pytest.raises(ValueError, match="pair needs timesteps"):
        attention_mass(Pair(DualStream("text")), stimuli, device="cpu")
