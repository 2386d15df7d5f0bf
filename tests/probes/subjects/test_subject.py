"""Timesteps belong to what is denoised: image, text or both; the other modality is shown with pure noise, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.controls import noise_for
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.probes.subjects.subject import ForwardPass

MASK, LENGTH, PATCHES = 127, 6, 4
TIMES = (0.3, 0.9)


class Masked(nn.Module):
    """Words and image codes are ids of one table; time is told as well, as LLaDA, MMaDA and Show-o may be."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(256, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.Tanh()) for _ in range(2))

    def forward(self, codes: Tensor | None = None, words: Tensor | None = None) -> Tensor:
        states = self.table(torch.cat([ids for ids in (codes, words) if ids is not None], 1))
        for layer in self.layers:
            states = layer(states)
        return states


def masked(ids: Tensor, names: Sequence[str], time: float) -> Tensor:
    """Mask a share of each row; which ones follows from the stimulus's id."""
    return torch.where(
        noise_for(list(names), tuple(ids.shape[1:])).argsort(1).argsort(1) < time * ids.shape[1], MASK, ids
    )


def inputs_for(denoised: Sequence[str], both: bool = True) -> Any:
    def inputs(
        stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> dict[str, Tensor]:
        assert timestep is not None
        names = [s.id for s in stimuli]
        words = torch.tensor([[ord(letter) for letter in s.text.ljust(LENGTH, ".")[:LENGTH]] for s in stimuli])
        codes = torch.tensor([np.asarray(s.image)[0, :, 0].tolist() for s in stimuli]) // 2 + 128
        given = {"words": words, "codes": codes} if both else {"words": words}
        for name, modality in (("words", "text"), ("codes", "image")):
            if name in given and modality not in modalities:
                given[name] = torch.full_like(given[name], MASK)  # nothing of it
            elif name in given and modality in denoised:
                given[name] = masked(given[name], names, timestep)
        return given

    return inputs


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    images = np.random.default_rng(0).integers(0, 256, (5, 1, PATCHES, 3), dtype=np.uint8)
    texts = ("red", "a ring", "blue", "a", "cross")
    return Stimuli([Stimulus(Image.fromarray(i), t, f"id {t}") for i, t in zip(images, texts, strict=True)], "words")


def expected(model: Masked, stimuli: Stimuli, denoised: Sequence[str], modality: str, time: float) -> Tensor:
    ids = inputs_for(denoised)(list(stimuli), (modality,), "generation", time)
    return model.table(ids["words" if modality == "text" else "codes"]).mean(1).detach()


def test_text_that_is_drawn(stimuli):
    """LLaDA's kind: nothing but text, and nothing is declared."""
    torch.manual_seed(0)
    model = Masked().eval()
    asked = {"modalities": ("text",), "tasks": ("generation",), "timed_tasks": ("generation",)}
    subject = AnyModel(model, inputs_for(["text"], both=False), kinds={"words": "text"}, **asked)
    values = extract(subject, stimuli, timesteps=TIMES)["text"].values
    for index, time in enumerate(TIMES):
        torch.testing.assert_close(values[index][0], expected(model, stimuli, ["text"], "text", time))
        assert torch.equal(extract(subject, stimuli, timesteps=(time,))["text"].values, values[index])


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("denoised", [("image",), ("text",), ("image", "text")])
def test_either_or_both_are_drawn(declared, denoised, stimuli):
    """MMaDA and Show-o; undeclared, the inputs say it by differing from timestep to timestep."""
    torch.manual_seed(0)
    model = Masked().eval()
    subject = AnyModel(
        model, inputs_for(denoised), tasks=("generation",), timed_tasks=("generation",),
        kinds={"words": "text", "codes": "image"}, denoised=denoised if declared else None,
    )  # fmt: skip
    features = extract(subject, stimuli, timesteps=TIMES)
    for modality in ("image", "text"):
        for index, time in enumerate(TIMES):
            shown = time if modality in denoised else 1.0
            values = features[modality].values[index][0]
            torch.testing.assert_close(values, expected(model, stimuli, denoised, modality, shown))
    assert features.provenance.get("denoised", ["image"]) == list(denoised)


@dataclass
class Recorder:
    """UniDiffuser's kind: a subject of one's own, with a time for each modality."""

    model: Masked = field(default_factory=Masked)
    denoised: tuple[str, ...] | str = ("image", "text")
    modalities: tuple[str, ...] = ("image", "text")
    tasks: tuple[str, ...] = ("generation",)
    timed_tasks: tuple[str, ...] = ("generation",)
    blocks: tuple[str, ...] = ("layers.0", "layers.1")
    name: str = "recorder"
    seen: list[Any] = field(default_factory=list)

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        self.seen.append((modalities, timestep))
        ids = torch.ones(len(stimuli), 3, dtype=torch.long)
        return ForwardPass(lambda: self.model(codes=ids), dict.fromkeys(modalities, ids.bool()))


def test_what_a_subject_declares(stimuli):
    subject = Recorder()
    extract(subject, stimuli, timesteps=TIMES, check=False)
    assert subject.seen == [(("image",), 0.3), (("image",), 0.9), (("text",), 0.3), (("text",), 0.9)]
    subject = Recorder(denoised="text")
    extract(subject, stimuli, timesteps=TIMES, check=False)
    assert subject.seen == [(("image",), 1.0), (("text",), 0.3), (("text",), 0.9)]
    extract(subject, stimuli, timesteps=TIMES, joint=True, check=False)
    assert subject.seen[3:] == [(("image", "text"), 0.3), (("image", "text"), 0.9)]


def test_what_is_denoised_is_refused_where_there_is_none_of_it(stimuli):
    subject = Recorder(denoised=("audio",))
    with pytest.raises(ValueError, match="recorder says that audio is denoised, but it has image, text: name some"):
        extract(subject, stimuli, timesteps=TIMES)
    assert not subject.seen
