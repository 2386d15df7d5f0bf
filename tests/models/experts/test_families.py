"""Every example of docs/families.md, run on a local folder of its architecture, and what each family must keep to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bridgework.models.experts.language import TextExpert
from bridgework.models.experts.opening import open_expert
from bridgework.models.experts.vision import DualExpert
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.subject import ForwardPass, Subject
from bridgework.tests.models.tiny_folders import FOLDERS, write

DOCS = Path(__file__).parents[3] / "docs" / "families.md"
EXAMPLES = re.findall(r"```python (\w+)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
HUB_ID = re.compile(r'(?<=open_expert\(")[\w.-]+/[\w.-]+(?="\))')


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Each architecture's folder, written when first asked for."""

    class Written(dict[str, Path]):
        def __missing__(self, architecture: str) -> Path:
            self[architecture] = tmp_path_factory.mktemp(architecture)
            write(architecture, self[architecture])
            return self[architecture]

    return Written()


def picture(seed: int, width: int, height: int) -> Image.Image:
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    """Images of several shapes and texts of several lengths."""
    rows = [(32, 32, "a red circle"), (32, 48, "the blue ring and a green cross"), (40, 32, "a ring")]
    return Stimuli([Stimulus(picture(i, w, h), text, str(i)) for i, (w, h, text) in enumerate(rows)])


@pytest.fixture(scope="module")
def repainted(stimuli) -> Stimuli:
    return Stimuli([s._replace(image=picture(9, *s.image.size)) for s in stimuli])


@pytest.fixture(scope="module")
def reworded(stimuli) -> Stimuli:
    return Stimuli([s._replace(text=f"{s.text} and the cross {s.id}".replace("1", "one")) for s in stimuli])


@pytest.fixture(scope="module")
def open_once() -> Callable[[str], Any]:
    """`open_expert`, once for each folder."""
    return cache(open_expert)


@pytest.fixture(scope="module")
def subjects(folders, open_once) -> Callable[[str], list[Subject]]:
    """An architecture's subjects."""

    def opened(architecture: str) -> list[Subject]:
        expert = open_once(folders[architecture].as_posix())
        return [expert.vision, expert.text] if isinstance(expert, DualExpert) else [expert]

    return opened


def kept(shown: ForwardPass, modality: str) -> torch.Tensor:
    """The mask (batch, token) of a modality's tokens."""
    mask = shown.tokens[modality]
    assert isinstance(mask, torch.Tensor)
    return mask


# ---- the examples


def test_every_family_has_an_example():
    assert {architecture for architecture, _ in EXAMPLES} == set(FOLDERS)


@pytest.mark.parametrize(("architecture", "code"), EXAMPLES, ids=[architecture for architecture, _ in EXAMPLES])
def test_example(architecture, code, folders, stimuli, open_once):
    folder = folders[architecture]
    assert json.loads((folder / "config.json").read_text())["architectures"] == [architecture]
    local, count = HUB_ID.subn(folder.as_posix(), code)
    assert count == 1
    names: dict[str, Any] = {"open_expert": open_once, "extract": extract, "stimuli": stimuli}
    exec(local, names)
    found = [value for value in names.values() if isinstance(value, Features | LayerFeatures)]
    assert found
    for features in found:
        for layered in [features] if isinstance(features, LayerFeatures) else features.values():
            assert layered.values.shape[-2] == len(stimuli)
            assert layered.values.shape[-3] >= 4
            assert torch.isfinite(layered.values).all()
            assert (layered.values.std(-2) > 0).any(-1).all()  # no layer gives every stimulus the same


# ---- what holds for every family


@pytest.mark.parametrize("architecture", FOLDERS)
def test_a_separate_pass_does_not_see_the_other_modality(architecture, subjects, stimuli, repainted, reworded):
    for subject in subjects(architecture):
        for task in subject.tasks:
            plain, painted, worded = (extract(subject, s, task=task) for s in (stimuli, repainted, reworded))
            if "text" in subject.modalities:
                assert torch.equal(plain["text"].values, painted["text"].values)
                assert not torch.equal(plain["text"].values, worded["text"].values)
            if "image" in subject.modalities:
                assert torch.equal(plain["image"].values, worded["image"].values)
                assert not torch.equal(plain["image"].values, painted["image"].values)


@pytest.mark.parametrize("architecture", FOLDERS)
def test_later_tokens_alone_have_read_the_earlier(architecture, subjects, stimuli, repainted, reworded):
    for subject in subjects(architecture):
        for task in subject.tasks if len(subject.modalities) > 1 else ():
            plain, painted, worded = (
                extract(subject, s, task=task, joint=True) for s in (stimuli, repainted, reworded)
            )
            first, second = ("image", "text") if task == "understanding" else ("text", "image")
            other = {"image": painted, "text": worded}
            read = plain[second].values[-1] - other[first][second].values[-1]
            assert (read.abs().amax(-1) > 1e-4).all()
            unread = torch.allclose(plain[first].values, other[second][first].values, rtol=0, atol=1e-5)
            assert unread == (architecture != "PaliGemmaForConditionalGeneration")  # its whole prompt sees itself


@pytest.mark.parametrize("architecture", FOLDERS)
def test_features_are_pooled_native_states(architecture, subjects, stimuli, monkeypatch):
    """At every layer but the last, which transformers gives behind its final norm."""
    for subject in subjects(architecture):
        for task in subject.tasks:
            features = extract(subject, stimuli, task=task)
            for modality in subject.modalities:
                shown = subject.show(list(stimuli), (modality,), task, None)
                states = native_states(subject, shown, monkeypatch)
                assert len(states) == len(subject.blocks) + 1
                mask = kept(shown, modality)
                assert not (mask & shown.special[modality]).any()
                for layer, state in enumerate(states[:-1]):
                    by_hand = torch.stack([row[keep].mean(0) for row, keep in zip(state, mask, strict=True)])
                    torch.testing.assert_close(features[modality].values[layer], by_hand, rtol=0, atol=1e-5)


def native_states(subject: Subject, shown: ForwardPass, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    """`output_hidden_states` of the very call that `shown` makes."""
    outputs = []
    with monkeypatch.context() as patch:
        model: Any = subject.model
        for module in {model, model.get_decoder()}:

            def forward(*args: Any, plain: Any = module.forward, **kwargs: Any) -> Any:
                outputs.append(plain(*args, **{**kwargs, "output_hidden_states": True}))
                return outputs[-1]

            patch.setattr(module, "forward", forward)
        with torch.no_grad():
            shown.run()
    out = outputs[-1]
    return getattr(out, "language_model_outputs", out).hidden_states


@pytest.mark.parametrize("architecture", FOLDERS)
def test_features_do_not_depend_on_the_batch(architecture, subjects, stimuli):
    for subject in subjects(architecture):
        whole, alone = (extract(subject, stimuli, task=subject.tasks[0], batch_size=size) for size in (3, 1))
        for modality in subject.modalities:
            torch.testing.assert_close(whole[modality].values, alone[modality].values, rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", FOLDERS)
def test_every_token_is_told_once(architecture, subjects, stimuli):
    """Tokens, special tokens and padding make up the whole input of every pass."""
    for subject in subjects(architecture):
        for modality in subject.modalities:
            shown = subject.show(list(stimuli), (modality,), subject.tasks[0], None)
            tokens, special = kept(shown, modality), shown.special[modality]
            assert not (tokens & special).any()
            assert tokens.any(1).all()
            counted = (tokens | special).sum(1)
            assert counted.max() == tokens.shape[1] or (isinstance(subject, TextExpert) and subject.width)
