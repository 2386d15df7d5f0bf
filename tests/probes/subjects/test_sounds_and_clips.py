"""Audio and video as modalities: found, carried to the features, and alone in their own passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from bridgework.benchmarks.support.tiny_built import IMG
from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.benchmarks.support.tiny_transformers import qwen2_text
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.stimuli.stimulus_set import Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.probes.subjects.input_changes import Inputs
from bridgework.tests.probes.subjects.test_sample_rows import LM, numbered, of

EARS = "model.audio_tower.layers"
SOUND = IMG + 2
FRAMES = (128, 60, 90)  # of the mel spectra of three sounds, filled up to 128
OWN = ([0], [1, 2])  # the sounds of two samples


@pytest.fixture(scope="module")
def listener() -> Any:
    torch.manual_seed(0)
    ears = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    config = transformers.Qwen2AudioConfig(
        audio_config=ears | {"num_mel_bins": 16, "max_source_positions": 64},
        text_config=qwen2_text(),
        audio_token_index=SOUND,
    )
    return transformers.Qwen2AudioForConditionalGeneration(config).eval()


def heard(stimuli: Sequence[Stimulus], modalities: tuple[str, ...], *_: Any) -> dict[str, Any]:
    rows, sounds = [], []
    for sample in (int(stimulus.id) for stimulus in stimuli):
        own = OWN[sample] if "audio" in modalities else []
        sounds += own
        placeholders = [SOUND] * sum(((FRAMES[s] - 1) // 2 - 1) // 2 + 1 for s in own)
        rows.append([11, *placeholders, *([20, 21, 22 + sample] if "text" in modalities else [])])
    width = max(map(len, rows))
    given = {"input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows])}
    given["attention_mask"] = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    if sounds:
        spectra = torch.randn(3, 16, 128, generator=torch.Generator().manual_seed(0))
        given["input_features"] = spectra[sounds]
        given["feature_attention_mask"] = torch.stack([(torch.arange(128) < FRAMES[s]).long() for s in sounds])
    return given


def states(model: Any, block: str, given: Inputs) -> Tensor:
    with torch.no_grad(), capture(model, [block]) as taps:
        model(**given)
    return taps[block]


def test_sound_and_words_in_passes_of_their_own(listener):
    found = extract(AnyModel(listener, heard, LM, ("audio", "text")), numbered(2))
    for modality in ("audio", "text"):
        for sample, stimulus in enumerate(numbered(2)):
            given = heard([stimulus], (modality,))
            own = (given["input_ids"][0] == SOUND) == (modality == "audio")
            truth = states(listener, f"{LM}.2", given)[0, own].mean(0)
            torch.testing.assert_close(found[modality].layer("2")[sample], truth)
    assert found["audio"].modality == "audio"


def test_silence_behind_sounds_is_not_pooled(listener):
    found = extract(AnyModel(listener, heard, EARS, ("audio",)), numbered(2))["audio"]
    state = states(listener, f"{EARS}.1", heard(numbered(2), ("audio",)))
    truth = torch.cat([state[1, :30], state[2, :45]]).mean(0)
    torch.testing.assert_close(found.layer("1"), torch.stack([state[0].mean(0), truth]))


def test_waves_of_unlike_length():
    torch.manual_seed(0)
    model = transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16, 16),
            conv_kernel=(10, 3), conv_stride=(5, 2), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
            feat_extract_norm="layer", do_stable_layer_norm=True,
        )
    ).eval()  # fmt: skip
    mask = torch.arange(400) < torch.tensor([[400], [300]])
    given = {"input_values": torch.randn(2, 400) * mask, "attention_mask": mask.long()}
    subject = AnyModel(model, lambda stimuli, *_: of(stimuli, given), modalities=("audio",))
    found = extract(subject, numbered(2))["audio"].layer("1")
    state = states(model, "encoder.layers.1", given)
    assert model._get_feat_extract_output_lengths(torch.tensor([400, 300])).tolist() == [39, 29]
    torch.testing.assert_close(found, torch.stack([state[0].mean(0), state[1, :29].mean(0)]))


def test_a_clip_its_sound_and_words(tmp_path):
    torch.manual_seed(0)
    model = ZOO["Qwen2_5OmniThinkerForConditionalGeneration"][1]().model.eval()
    clip, sound = torch.randn(2 * 32, 384), torch.randn(1, 16, 80)

    def inputs(stimuli: Sequence[Stimulus], modalities: tuple[str, ...], *_: Any) -> dict[str, Any]:
        given: dict[str, Any] = {}
        row = [11]
        if "video" in modalities:
            row += [IMG + 3, *[IMG + 1] * 16, IMG + 4]
            given |= {"pixel_values_videos": clip, "video_grid_thw": torch.tensor([[2, 4, 8]])}
            given["video_second_per_grid"] = torch.ones(1)
        if "audio" in modalities:
            row += [IMG + 5, *[SOUND] * 20, IMG + 6]
            given |= {"input_features": sound, "feature_attention_mask": torch.ones(1, 80).long()}
        ids = torch.tensor([row + ([20, 21] if "text" in modalities else [])])
        return given | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    subject = AnyModel(model, inputs, LM, ("video", "audio", "text"))
    kept = extract(subject, numbered(1), pooling="grid:2", store=tmp_path / "store")
    assert {name: tuple(part.values.shape[2:]) for name, part in Features.load(tmp_path / "store").items()} == {
        "video": (2, 2, 32),
        "audio": (32,),
        "text": (32,),
    }
    own = states(model, f"{LM}.1", inputs(numbered(1), ("video",)))[0, 2:18].view(2, 2, 4, 32)
    torch.testing.assert_close(kept["video"].layer("1")[0], own.unflatten(2, (2, 2)).mean((0, 3)))
    joint = extract(subject, numbered(1), joint=True)
    own = states(model, f"{LM}.1", inputs(numbered(1), subject.modalities))[0, 20:40]
    torch.testing.assert_close(joint["audio"].layer("1")[0], own.mean(0))


def test_another_modality_is_refused_before_the_first_pass(listener):
    subject = AnyModel(listener, heard, LM, ("depth", "text"))
    message = "has the modality 'depth': expected image, text, audio, video; name it by the one that it is like"
    with pytest.raises(ValueError, match=message):
        extract(subject, numbered(2))
