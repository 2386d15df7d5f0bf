"""Experts: opened whole or refused with one clear error, and what each shows of a stimulus."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    Wav2Vec2Config,
)

from bridgework.models.experts.language import TextExpert
from bridgework.models.experts.opening import CHECKPOINTS, FAMILIES, OWN, open_expert
from bridgework.models.experts.pixel_dit import DitExpert
from bridgework.models.experts.vision import VisionExpert
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.hooks.capturing import capture
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus

SIZES = {"num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": 1500, "hidden_size": 16, "intermediate_size": 24}
VISION = {**SIZES, "hidden_size": 12, "image_size": 28, "patch_size": 14}


def stimuli_of(*texts: str) -> Stimuli:
    return Stimuli([Stimulus(Image.new("RGB", (32, 32), (40 * i, 9, 9)), t, str(i)) for i, t in enumerate(texts)])


# ---- opening


@pytest.mark.parametrize("name", OWN)
def test_own_experts_and_their_twins(name):
    shipped, other = open_expert(name), open_expert(name, random_weights=True, seed=1)
    twin, same = open_expert(name, random_weights=True), open_expert(name, random_weights=True)
    assert (shipped.name, twin.name) == (name, f"{name} (random weights)")
    assert shipped.blocks == twin.blocks
    assert len(shipped.blocks) >= 8
    for part in ("model", "text_encoder") if isinstance(shipped, DitExpert) else ("model",):
        own, drawn, again, seeded = (getattr(e, part).state_dict() for e in (shipped, twin, same, other))
        assert {k: (v.shape, v.dtype) for k, v in own.items()} == {k: (v.shape, v.dtype) for k, v in drawn.items()}
        assert all(torch.equal(drawn[key], again[key]) for key in drawn)
        matrices = [key for key, value in own.items() if value.dim() == 2 and "pos_embed" not in key]
        assert matrices
        assert not [key for key in matrices if torch.equal(own[key], drawn[key])]
        assert [key for key in matrices if not torch.equal(drawn[key], seeded[key])]
        assert all(torch.isfinite(value).all() for value in own.values() if value.is_floating_point())
        assert all(value.dtype == torch.float32 for value in own.values() if value.is_floating_point())
    assert not shipped.model.training
    assert not twin.model.training


def test_own_experts_differ_in_depth_and_width():
    vlm = json.loads((CHECKPOINTS / "scenes-vlm" / "config.json").read_text())["text_config"]
    dit = json.loads((CHECKPOINTS / "scenes-dit" / "transformer" / "config.json").read_text())
    assert vlm["num_hidden_layers"] != dit["num_layers"]
    assert vlm["hidden_size"] != dit["num_attention_heads"] * dit["attention_head_dim"]


@pytest.mark.parametrize("path", sorted(CHECKPOINTS.rglob("*.safetensors")), ids=lambda path: path.parent.name)
def test_shipped_files_are_small_and_half_precision_or_less(path):
    assert path.stat().st_size < 12_000_000
    rounded = "emoji-dit" in path.parts and path.parent.name == "transformer"
    with safe_open(path, framework="pt") as file:
        kept = {file.get_slice(key).get_dtype() for key in file.keys()}
    assert kept == ({"F16", "F8_E4M3"} if rounded else {"F16"})


def test_unknown_names_are_refused():
    with pytest.raises(
        ValueError, match=r"unknown expert 'scenes-vlmm': expected one of scenes-vlm, scenes-reader, .*"
    ):
        open_expert("scenes-vlmm")
    with pytest.raises(FileNotFoundError, match=r"there is no folder ./nowhere: name a folder that is there"):
        open_expert("./nowhere")


def test_a_hub_id_without_the_hub():
    message = r"there is no folder nobody/nothing, and no model of this id lies in the Hub's cache.*hf download"
    with pytest.raises(FileNotFoundError, match=message):
        open_expert("nobody/nothing")


WEIGHTS = {
    "scenes-vlm": "model.safetensors",
    "scenes-dit": "transformer/diffusion_pytorch_model.safetensors",
    "scenes-dit text encoder": "text_encoder/model.safetensors",
}


@pytest.mark.parametrize("what", WEIGHTS)
@pytest.mark.parametrize("harm", ["truncated", "emptied", "missing"])
def test_broken_weights(what, harm, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(CHECKPOINTS / what.removesuffix(" text encoder"), folder)
    path = folder / WEIGHTS[what]
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if harm == "truncated" else 0])
    with pytest.raises(ValueError, match=r"the weights of expert '.*copy.*' cannot be read: ") as raised:
        open_expert(folder)
    assert raised.value.__suppress_context__


def test_weights_without_a_tensor(tmp_path):
    """A weight that is missing must not be drawn at random without a word."""
    shutil.copytree(CHECKPOINTS / "scenes-vlm", tmp_path / "copy")
    path = tmp_path / "copy" / "model.safetensors"
    state = load_file(path)
    lost = next(key for key in state if "layers.3.self_attn.q_proj" in key)
    save_file({key: value for key, value in state.items() if key != lost}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 'model.language_model.layers.3.self_attn.q_proj.weight' and 0 more"):
        open_expert(tmp_path / "copy")


def test_missing_and_broken_parts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither a config.json nor a transformer/ folder"):
        open_expert(tmp_path)
    broken = {"config.json": "not valid JSON", "preprocessor_config.json": "processor", "tokenizer.json": "tokenizer"}
    for name, message in broken.items():
        shutil.copytree(CHECKPOINTS / "scenes-vlm", tmp_path / name)
        (tmp_path / name / name).write_text("{")
        with pytest.raises(ValueError, match=message):
            open_expert(tmp_path / name)
    shutil.copytree(CHECKPOINTS / "scenes-dit", tmp_path / "dit")
    (tmp_path / "dit" / "text_encoder" / "config.json").write_text("{")
    for twin in (False, True):
        with pytest.raises(ValueError, match=r"of expert '.*text_encoder' cannot be read"):
            open_expert(tmp_path / "dit", random_weights=twin)


def test_a_shipped_expert_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr("bridgework.models.experts.opening.CHECKPOINTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="the shipped expert 'scenes-dit' is not in"):
        open_expert("scenes-dit")


def test_the_help_lists_every_family_in_order():
    listed = [line.strip()[2:] for line in (open_expert.__doc__ or "").splitlines() if line.strip().startswith("- ")]
    assert listed == [family.sentence for family in FAMILIES]


def test_a_foreign_family_is_refused(tmp_path):
    Wav2Vec2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the family 'wav2vec2', which takes input_values: .* your own Subject"):
        open_expert(tmp_path)


# ---- local folders of the families


@pytest.fixture
def llama_folder(tmp_path, tokenizer) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**TEXT, bos_token_id=1, eos_token_id=2, pad_token_id=0)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def means_by_hand(expert: TextExpert, rows: list[list[int]], keep: slice) -> torch.Tensor:
    """Last block's mean over each row's tokens in `keep`, one row at a time, so without padding: (sample, dim)."""
    means = []
    for row in rows:
        with torch.no_grad(), capture(expert.model, expert.blocks[-1:]) as taps:
            expert.model(input_ids=torch.tensor([row]))
        means.append(taps[expert.blocks[-1]][0, keep].mean(0))
    return torch.stack(means)


def test_causal_models_pool_neither_the_sink_nor_the_end(llama_folder):
    expert = open_expert(llama_folder)
    assert isinstance(expert, TextExpert)
    assert expert.causal
    assert expert.blocks == ("model.layers.0", "model.layers.1", "model.layers.2")
    shown = stimuli_of("a red circle", "a ring", "three blue crosses and a square")
    words = [expert.tokenizer(s.text, add_special_tokens=False).input_ids for s in shown]
    text = extract(expert, shown)["text"].values
    by_hand = means_by_hand(expert, [[1, *row, 2] for row in words], slice(1, -1))
    torch.testing.assert_close(text[-1], by_hand, rtol=0, atol=1e-5)
    with_sink = means_by_hand(expert, [[1, *row, 2] for row in words], slice(0, -1))
    assert (with_sink - by_hand).abs().max() > 1e-3


def test_a_tokenizer_that_begins_by_itself_begins_once(llama_folder):
    config = json.loads((llama_folder / "tokenizer.json").read_text())
    single = config["post_processor"]["single"]
    config["post_processor"]["single"] = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, *single]
    config["post_processor"]["special_tokens"]["<s>"] = {"id": "<s>", "ids": [1], "tokens": ["<s>"]}
    (llama_folder / "tokenizer.json").write_text(json.dumps(config))
    expert = open_expert(llama_folder)
    assert isinstance(expert, TextExpert)
    assert expert.tokenizer("a").input_ids[0] == 1
    given = expert.show(stimuli_of("a ring"), ("text",), "understanding", None)
    assert torch.equal(given.tokens["text"], torch.tensor([[False, True, True, False]]))


def test_a_causal_model_without_a_token_to_begin_with(llama_folder):
    path = llama_folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k != "bos_token"}))
    expert = open_expert(llama_folder)
    given = expert.show(stimuli_of("a ring"), ("text",), "understanding", None)
    assert torch.equal(given.tokens["text"], torch.tensor([[False, True, True, False]]))


def test_text_encoders(tmp_path, tokenizer):
    torch.manual_seed(0)
    BertModel(BertConfig(**TEXT)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expert = open_expert(tmp_path)
    assert isinstance(expert, TextExpert)
    assert not expert.causal
    shown = stimuli_of("a red circle", "a ring")
    words = [tokenizer(s.text, add_special_tokens=False).input_ids for s in shown]
    by_hand = means_by_hand(expert, [[*row, 2] for row in words], slice(0, -1))
    torch.testing.assert_close(extract(expert, shown)["text"].values[-1], by_hand, rtol=0, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 2])
def test_vision_towers_pool_patches_alone(tmp_path, registers):
    torch.manual_seed(0)
    if registers:
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**VISION, num_register_tokens=registers))
    else:
        model = Dinov2Model(Dinov2Config(**VISION))
    model.eval().save_pretrained(tmp_path)
    side = {"height": 28, "width": 28}
    processor = {"image_processor_type": "ViTImageProcessor", "size": side, "do_resize": True, "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    expert = open_expert(tmp_path)
    assert isinstance(expert, VisionExpert)
    shown = stimuli_of("a", "b", "c")
    image = extract(expert, shown)["image"].values
    pixels = expert.processor([s.image for s in shown], return_tensors="pt").pixel_values
    with torch.no_grad():
        native = model(pixels, output_hidden_states=True).hidden_states
    assert native[1].shape[1] == 1 + registers + 4
    torch.testing.assert_close(image[1], native[1][:, 1 + registers :].mean(1), rtol=0, atol=1e-5)


# ---- what our own families show


def test_llava_tokens(tiny_vlm, stimuli):
    words = [len(tiny_vlm.tokenizer(s.text, add_special_tokens=False).input_ids) for s in stimuli]
    text = tiny_vlm.show(stimuli, ("text",), "understanding", None).tokens["text"]
    assert text.sum(1).tolist() == words
    assert not text[:, 0].any()
    image = tiny_vlm.show(stimuli, ("image",), "understanding", None).tokens
    assert set(image) == {"image"}
    assert image["image"].shape == (len(stimuli), 17)
    assert image["image"].sum(1).tolist() == [16] * len(stimuli)
    both = tiny_vlm.show(stimuli, ("image", "text"), "understanding", None).tokens
    assert both["text"].sum(1).tolist() == words
    assert not (both["text"] & both["image"]).any()
    assert both["text"][0].nonzero().min() == 17


def other_texts(stimuli: Stimuli) -> Stimuli:
    return Stimuli([s._replace(text=f"a {'very ' * i}other text") for i, s in enumerate(stimuli)])


def other_images(stimuli: Stimuli) -> Stimuli:
    return Stimuli([s._replace(image=Image.new("RGB", (32, 32), (50 * i, 0, 0))) for i, s in enumerate(stimuli)])


@pytest.mark.parametrize("family", ["tiny_vlm", "tiny_dit"])
def test_a_separate_pass_does_not_see_the_other_modality(family, stimuli, request):
    expert = request.getfixturevalue(family)
    options = {"timesteps": (0.5,)} if expert.timed_tasks else {}
    shown = (stimuli, other_texts(stimuli), other_images(stimuli))
    plain, worded, drawn = (extract(expert, s, **options) for s in shown)
    alike = partial(torch.allclose, rtol=0, atol=1e-5)  # batches go by length, and bits by batches
    assert alike(plain["image"].values, worded["image"].values)
    assert not alike(plain["text"].values, worded["text"].values)
    assert alike(plain["text"].values, drawn["text"].values)
    assert not alike(plain["image"].values, drawn["image"].values)
    joint = extract(expert, stimuli, joint=True, **options)
    unlike = joint["text"].values[1:] - plain["text"].values[1:]
    assert (unlike.abs().amax((1, 2)) > 1e-3).all()
    worded = extract(expert, other_texts(stimuli), joint=True, **options)
    assert alike(joint["image"].values, worded["image"].values) == (family == "tiny_vlm")  # the image comes first


@pytest.mark.parametrize("family", ["tiny_vlm", "tiny_dit"])
def test_features_do_not_depend_on_batches_or_order(family, stimuli, request):
    expert = request.getfixturevalue(family)
    options = {"timesteps": (0.2, 0.8)} if expert.timed_tasks else {}
    whole = extract(expert, stimuli, **options)
    order = [3, 0, 4, 2, 1]
    dealt = extract(expert, Stimuli([stimuli[i] for i in order]), batch_size=2, **options)
    for modality in ("image", "text"):
        torch.testing.assert_close(whole[modality].values[..., order, :], dealt[modality].values, rtol=0, atol=1e-5)


def test_dit_text_ends_one_block_earlier(tiny_dit, stimuli):
    features = extract(tiny_dit, stimuli, timesteps=(0.2, 0.8))
    assert features["image"].layers == ("embeddings", "0", "1", "2")
    assert features["text"].layers == ("embeddings", "0", "1")
    assert features["text"].depths == pytest.approx((0, 1 / 3, 2 / 3))
    assert features["image"].values.shape == (2, 4, 5, 12)
    assert not torch.allclose(features["image"].values[0], features["image"].values[1])
    assert torch.equal(features["text"].values[0], features["text"].values[1])  # pure noise, whatever the timestep


def test_dit_text_tokens_are_its_words(tiny_dit):
    shown = stimuli_of("a red circle", "a ring")
    assert tiny_dit.show(shown, ("text",), "generation", 0.5).tokens["text"].sum(1).tolist() == [3, 2]
    assert tiny_dit.show(shown, ("image",), "generation", 0.5).tokens["image"].shape == (2, 16)


def test_text_states_are_zero_at_padding(tiny_dit):
    with torch.no_grad():
        states = tiny_dit.encode(["a red circle", ""])
        alone = tiny_dit.encode(["a red circle"])
    assert states.shape == (2, 20, 16)
    assert (states[0, :4].abs().sum(1) > 0).all()
    assert not states[0, 4:].any()
    assert not states[1, 1:].any()
    torch.testing.assert_close(states[:1], alone, rtol=0, atol=1e-6)


@torch.no_grad()
def test_dit_needs_no_pooled_vector(tiny_dit):
    noisy, text = torch.randn(2, 3, 32, 32), tiny_dit.encode(["a ring", "a red circle"])
    time = torch.tensor([0.1, 0.9])
    expected = tiny_dit.model(noisy, text, torch.zeros(2, 8), time * 1000).sample
    assert torch.equal(tiny_dit.predict(noisy, text, time), expected)
    assert expected.shape == noisy.shape
    assert not torch.allclose(expected, tiny_dit.predict(noisy, text, time.flip(0)))
    assert not torch.allclose(expected, tiny_dit.predict(noisy, text.flip(0), time))


def test_llava_answers_to_causality(tiny_vlm, stimuli):
    """A later word changes no earlier state: the rows are not mixed up."""
    shown = [stimuli[0], stimuli[0]._replace(text=stimuli[0].text + " , black ring top left")]
    given = tiny_vlm.show(shown, ("text",), "understanding", None)
    with torch.no_grad(), capture(tiny_vlm.model, tiny_vlm.blocks) as taps:
        given.run()
    count = int(given.tokens["text"][0].sum()) + 1
    for block in tiny_vlm.blocks:
        torch.testing.assert_close(taps[block][0, :count], taps[block][1, :count], rtol=0, atol=1e-5)
