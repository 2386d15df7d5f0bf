"""Streams that are remembered: every content that moves tokens is noticed, and what is remembered is not found anew."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects import token_streams
from bridgework.probes.subjects.any_model import AnyModel

DIM = 8


def pictures(levels: Sequence[int]) -> Stimuli:
    """Return a picture of noise for each level of brightness."""
    rng = np.random.default_rng(0)
    images = [np.clip(rng.integers(-30, 30, (16, 16, 3)) + level, 1, 255).astype(np.uint8) for level in levels]
    return Stimuli([Stimulus(Image.fromarray(im), str(n), str(n)) for n, im in enumerate(images)], "levels")


def shown(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Any]:
    pixels = torch.stack([torch.tensor(np.asarray(s.image)).permute(2, 0, 1) / 255 for s in stimuli])
    return {"pixel_values": pixels}


class Patches(nn.Module):
    """A register, four by four patches, and what a layout does to them by their content."""

    def __init__(self, lay_out: Callable[[Tensor, Tensor], Tensor], norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.register = nn.Conv2d(3, DIM, 4, 4), nn.Parameter(torch.randn(1, 1, DIM))
        self.norm = nn.LayerNorm(DIM) if norm else nn.Identity()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh()) for _ in range(2))
        self.lay_out = lay_out

    def forward(self, pixel_values: Tensor, **_: Any) -> Tensor:
        patches = self.norm(self.embed(pixel_values).flatten(2).transpose(1, 2))
        states = self.lay_out(torch.cat([self.register.expand(len(patches), -1, -1), patches], 1), pixel_values)
        for block in self.blocks:
            states = block(states)
        return states


def bright(pixels: Tensor) -> Tensor:
    return pixels.flatten(1).mean(1) > 0.6


def plain(states: Tensor, pixels: Tensor) -> Tensor:
    return states


def register_last(states: Tensor, pixels: Tensor) -> Tensor:
    return torch.where(bright(pixels)[:, None, None], states.roll(-1, 1), states)


def sorted_patches(states: Tensor, pixels: Tensor) -> Tensor:
    if not bright(pixels).any():
        return states
    places = nn.functional.avg_pool2d(pixels.mean(1), 4).flatten(1).argsort(1)[..., None].expand(-1, -1, DIM)
    return torch.cat([states[:, :1], states[:, 1:].gather(1, places)], 1)


def two_exchanged(states: Tensor, pixels: Tensor) -> Tensor:
    other = states[:, [0, 2, 1, *range(3, states.shape[1])]]
    return torch.where(bright(pixels)[:, None, None], other, states)


def dropped(states: Tensor, pixels: Tensor) -> Tensor:
    mask = torch.zeros(states.shape[:2], dtype=torch.bool)
    mask[:, -4:] = bright(pixels)[:, None]
    return states.masked_fill(mask[..., None], 0.5)


def exchanged_samples(states: Tensor, pixels: Tensor) -> Tensor:
    return states.flip(0) if bright(pixels).all() else states


def shorter(states: Tensor, pixels: Tensor) -> Tensor:
    return states[:, :-4] if bright(pixels).all() else states


CONTENTS = [register_last, sorted_patches, two_exchanged, dropped, exchanged_samples, shorter]
LEVELS = [60, 70, 80, 90, 220, 215, 210, 205]  # dark ones first, in batches of two


def values(model: nn.Module, batch_size: int, pooling: str, inputs: Any = shown) -> Tensor:
    subject = AnyModel(model, inputs, modalities=("image",))
    part = extract(subject, pictures(LEVELS), batch_size=batch_size, pooling=pooling, check=False)["image"]
    return part.values


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("lay_out", CONTENTS)
def test_contents_that_move_tokens_are_noticed(lay_out, pooling, monkeypatch):
    """Numbers and warnings are those of a model whose batches are each the first of its layout."""
    model, found = Patches(lay_out).eval(), []
    for layouts in (token_streams.LAYOUTS, 0):
        monkeypatch.setattr(token_streams, "LAYOUTS", layouts)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.append((values(model, 2, pooling), {str(each.message) for each in caught}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)
    assert found[0][1] == found[1][1]


def test_a_memory_that_is_trusted_blindly_would_be_wrong(monkeypatch):
    contents = (register_last, two_exchanged, dropped)
    right = {lay_out: values(Patches(lay_out).eval(), 2, "none") for lay_out in contents}
    monkeypatch.setattr(token_streams, "_same", lambda *_: True)
    for lay_out, expected in right.items():
        wrong = values(Patches(lay_out).eval(), 2, "none")
        assert wrong.shape != expected.shape or not torch.allclose(wrong, expected), lay_out.__name__


@pytest.mark.parametrize(("norm", "passes"), [(False, 3), (True, 10)])
def test_a_linear_layout_is_verified_by_two_passes_and_another_is_found_anew(norm, passes):
    model, began, entered = Patches(plain, norm).eval(), [], []
    model.embed.register_forward_hook(lambda *_: entered.append(1))

    def inputs(*asked: Any) -> dict[str, Any]:
        began.append(len(entered))
        return shown(*asked)

    values(model, 2, "mean", inputs)
    found = np.diff([*began, len(entered)])
    assert found[-1] == passes, found


def test_what_is_no_content_belongs_to_the_layout():
    """A mask, blank tiles, another model or another choice: each is another layout."""
    model, names = Patches(plain).eval(), ["pixel_values"]
    asked = {"samples": 2, "stacks": {"blocks": ["blocks.0", "blocks.1"]}, "kinds": {}, "residual_streams": None}

    def layout(inputs: dict[str, Any], **others: Any) -> Any:
        return token_streams._layout_of(model, inputs, names, asked | others)

    tiles = torch.rand(2, 2, 3, 4, 4) + 1
    blank = tiles.clone()
    blank[1, 1] = 0
    given = {"pixel_values": tiles, "attention_mask": torch.ones(2, 5), "input_ids": torch.arange(10).view(2, 5)}
    same = layout(given | {"pixel_values": tiles + 1})
    assert same == layout(given)
    others = [
        layout(given | {"pixel_values": blank}),
        layout(given | {"pixel_values": tiles.double()}),
        layout(given | {"attention_mask": torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 1, 1]])}),
        layout(given | {"input_ids": torch.arange(10).view(2, 5).flip(1)}),
        layout(given | {"flag": True}),
        layout(given, kinds={"x": "image"}),
        layout(given, residual_streams="mean"),
    ]
    assert len({same, *others}) == 1 + len(others)
    assert layout(given | {"cache": object()}) is None
    turns = torch.randn(5, dtype=torch.complex64)  # as of rotary positions, which are often handed on as conjugates
    assert layout(given | {"turns": turns.conj()}) == layout(given | {"turns": turns.conj().resolve_conj()})
    assert layout(given | {"turns": turns.conj()}) != layout(given | {"turns": turns})
