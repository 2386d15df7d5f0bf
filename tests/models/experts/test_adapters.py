"""The adapters of docs/adapters.md, run on stand-ins for their checkouts and held against states computed by hand."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from bridgework.models.scenes.composing import scene_stimuli
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.stimuli.controls import mismatched, noise_for
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.tests.models import bagel_stand_in, stand_ins

DOCS = Path(__file__).parents[3] / "docs" / "adapters.md"
BLOCKS = dict(re.findall(r"```python (\w+)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL))
TIMES = {"timesteps": (0.3, 0.8)}


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    texts = ("a red dot", "two rings", "a green cross")
    return Stimuli([s._replace(text=text) for s, text in zip(scene_stimuli("train", 3), texts)])


@pytest.fixture
def adapter(monkeypatch):
    """An adapter out of the docs, its checkout's modules replaced by the stand-ins."""
    checkouts = {"modeling.bagel.qwen2_navit": bagel_stand_in, "training.prompting_utils": stand_ins}
    for path, module in checkouts.items():
        for end in [place for place, letter in enumerate(path) if letter == "."]:
            monkeypatch.setitem(sys.modules, path[:end], ModuleType(path[:end]))
        monkeypatch.setitem(sys.modules, path, module)

    def build(name: str, *args, **kwargs):
        space: dict = {}
        exec(BLOCKS[name], space)
        (kind,) = (value for key, value in space.items() if key.endswith("Expert"))
        return kind(*args, **kwargs)

    return build


def whole(features, modality, time=None):
    """(layer, sample, dim), embeddings first."""
    part = features[modality]
    return (part if time is None else part.at(time)).values


def same(one, other):
    return torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", BLOCKS)
def test_an_adapter_is_at_most_thirty_lines(name):
    """Of code: without imports, blank lines and comments."""
    (body,) = (node for node in ast.parse(BLOCKS[name]).body if isinstance(node, ast.ClassDef))
    lines = BLOCKS[name].splitlines()[body.lineno - 1 : body.end_lineno]
    assert len([line for line in lines if line.strip() and not line.lstrip().startswith("#")]) <= 30
    assert max(map(len, lines)) <= 120


# ---- BAGEL


@pytest.fixture
def bagel():
    own = bagel_stand_in.bagel()
    own.vae_model.reg.sample = False
    return own


def bagel_by_hand(own, text, image, mode, time, stimulus_id):
    """All layers' states of one packed sample by the training forward, in one dense pass: prompt and image as asked.

    Returns states (layer, token, dim), where the words and where the image tokens are.
    """
    model, ids = own.model, own.new_token_ids
    words = [ids["bos_token_id"], *own.tokenizer.encode(text), ids["eos_token_id"]] if text is not None else []
    image_tokens, inner = 0, torch.zeros(0, stand_ins.DIM)
    if image is not None and mode == "understanding":
        patches = F.unfold(own.vit_transform(image)[None], 8, stride=8)[0].T
        inner = model.seen(patches, torch.arange(len(patches)))
        image_tokens = len(patches) + 2
    elif image is not None:
        code = own.vae_model.encode(own.vae_transform(image)[None])[0]
        clean = torch.stack([code[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].permute(1, 2, 0).flatten()
                             for r in range(4) for c in range(4)])  # fmt: skip
        noisy = (1 - time) * clean + time * noise_for([stimulus_id], tuple(clean.shape))[0]
        inner = model.drawn(noisy, torch.full((len(noisy),), time), torch.arange(len(noisy)))
        image_tokens = len(noisy) + 2
    embed = model.language_model.model.embed_tokens
    frame = embed(torch.tensor([ids["start_of_image"], ids["end_of_image"]]))
    framed = torch.cat([frame[:1], inner, frame[1:]]) if image_tokens else frame[:0]
    text_states = embed(torch.tensor(words, dtype=torch.long))
    text_first = mode == "generation"
    packed = torch.cat([text_states, framed] if text_first else [framed, text_states])
    start = {"text": 0 if text_first else image_tokens, "image": len(words) if text_first else 0}
    places = {"text": range(start["text"] + 1, start["text"] + len(words) - 1),
              "image": range(start["image"] + 1, start["image"] + image_tokens - 1)}  # fmt: skip
    mask = torch.ones(len(packed), len(packed), dtype=torch.bool).tril()
    mask[start["image"] : start["image"] + image_tokens, start["image"] : start["image"] + image_tokens] = True
    first = len(words) if text_first else 1 if image_tokens else 0  # an image has one position
    image_positions = torch.full((image_tokens,), len(words) if text_first else 0)
    text_positions = torch.arange(len(words)) + (0 if text_first else first)
    positions = torch.cat([text_positions, image_positions] if text_first else [image_positions, text_positions])
    gen = torch.tensor(places["image"] if mode == "generation" and image_tokens else [], dtype=torch.long)
    und = torch.tensor([i for i in range(len(packed)) if i not in gen.tolist()])
    states, language = [packed], model.language_model.model.train()
    try:
        for layer in language.layers:
            out = layer(states[-1], [len(packed)], [mask], language.rotary_emb(positions), und, gen)
            assert isinstance(out, torch.Tensor)
            states.append(out)
    finally:
        language.eval()
    return torch.stack(states), places


@torch.no_grad()
def bagel_means(own, stimuli, modality, mode, time=None, joint=False):
    rows = []
    for s in stimuli:
        text = s.text if modality == "text" or joint else None
        image = s.image if modality == "image" or joint else None
        states, places = bagel_by_hand(own, text, image, mode, time, s.id)
        rows.append(states[:, list(places[modality])].mean(1))
    return torch.stack(rows, 1)


def test_bagel_understands(adapter, bagel, stimuli):
    understanding = extract(adapter("bagel", bagel), stimuli, task="understanding")
    for modality in ("image", "text"):
        assert same(whole(understanding, modality), bagel_means(bagel, stimuli, modality, "understanding")), modality


def test_bagel_draws(adapter, bagel, stimuli):
    generation = extract(adapter("bagel", bagel), stimuli, task="generation", **TIMES)
    for time in (0.3, 0.8):
        assert same(whole(generation, "image", time), bagel_means(bagel, stimuli, "image", "generation", time))
        assert same(whole(generation, "text", time), bagel_means(bagel, stimuli, "text", "generation", time))


def test_bagel_joint(adapter, bagel, stimuli):
    """The prefilled context is what one dense pass over both shows, and tells captions apart."""
    expert = adapter("bagel", bagel, joint=True)
    generation = extract(expert, stimuli, task="generation", **TIMES)
    wanted = bagel_means(bagel, stimuli, "image", "generation", 0.3, joint=True)
    assert same(whole(generation, "image", 0.3), wanted)
    assert same(whole(generation, "text", 0.3), bagel_means(bagel, stimuli, "text", "generation", 0.3, joint=True))
    understanding = extract(expert, stimuli, task="understanding")
    assert same(whole(understanding, "text"), bagel_means(bagel, stimuli, "text", "understanding", joint=True))
    other = extract(expert, mismatched(stimuli), task="generation", **TIMES)
    assert not same(whole(other, "image", 0.3)[1:], wanted[1:])


# ---- Show-o


def showo_means(own, ids, mask, image):
    """Native hidden states of the language model (its last one normed: left out)."""
    with torch.no_grad():
        native = own["model"].showo(input_ids=ids, attention_mask=mask.float(), output_hidden_states=True).hidden_states
    words = len(own["uni_prompting"].text_tokenizer)
    named = [int(value) for value in own["uni_prompting"].sptids_dict.values()]
    kept = [[i for i, token in enumerate(row) if (token >= words if image else token < words and token not in named)]
            for row in ids.tolist()]  # fmt: skip
    means = [[state[row, places].mean(0) for row, places in enumerate(kept)] for state in native[:-1]]
    return torch.stack([torch.stack(layer) for layer in means])


def showo_codes(own, stimuli):
    pixels = torch.stack([stand_ins.to_tensor(s.image) for s in stimuli])
    return own["vq_model"].get_code(pixels) + len(own["uni_prompting"].text_tokenizer)


def frames(own):
    named = {name: int(value) for name, value in own["uni_prompting"].sptids_dict.items()}
    return named, {"soi_id": named["<|soi|>"], "eoi_id": named["<|eoi|>"]}


def test_showo_draws(adapter, stimuli):
    own = stand_ins.showo()
    named, frame = frames(own)
    expert = adapter("showo", **own)
    generation = extract(expert, stimuli, task="generation", **TIMES)
    codes = showo_codes(own, stimuli)
    mask_id = own["model"].config.mask_token_id
    for time, count in ((0.3, 5), (0.8, 13)):
        shown = expert.show(list(stimuli), ("image",), "generation", time)
        order = noise_for([s.id for s in stimuli], codes.shape[1:]).argsort(1).argsort(1)
        masked = torch.where(order < time * 16, mask_id, codes)
        assert (masked == mask_id).sum(1).tolist() == [count] * 3
        ids = own["uni_prompting"]((["", "", ""], masked), "t2i_gen")[0]
        mask = stand_ins.create_attention_mask_predict_next(ids, named["<|pad|>"], **frame, rm_pad_in_image=True)
        wanted = showo_means(own, ids, mask, image=True)
        assert same(whole(generation, "image", time)[:-1], wanted)
        assert shown.tokens["image"].sum(1).tolist() == [16] * 3
    blind = own["uni_prompting"](([s.text for s in stimuli], torch.full_like(codes, mask_id)), "t2i_gen")[0]
    mask = stand_ins.create_attention_mask_predict_next(blind, named["<|pad|>"], **frame, rm_pad_in_image=True)
    assert same(whole(generation, "text", 0.3)[:-1], showo_means(own, blind, mask, image=False))


def test_showo_understands(adapter, stimuli):
    own = stand_ins.showo()
    named, frame = frames(own)
    expert = adapter("showo", **own)
    understanding = extract(expert, stimuli, task="understanding")
    codes = showo_codes(own, stimuli)
    ids = own["uni_prompting"]((codes, ["", "", ""]), "mmu")[0]
    mask = stand_ins.create_attention_mask_for_mmu(ids, frame["eoi_id"])
    assert same(whole(understanding, "image")[:-1], showo_means(own, ids, mask, image=True))
    rows = [[named["<|sot|>"], *own["uni_prompting"].text_tokenizer(s.text).input_ids] for s in stimuli]
    for number, row in enumerate(rows):  # alone and without what follows, since text is causal
        with torch.no_grad():
            native = own["model"].showo(torch.tensor([row]), output_hidden_states=True).hidden_states[:-1]
        wanted = torch.stack([state[0, 1:].mean(0) for state in native])
        assert same(whole(understanding, "text")[:-1, number], wanted)
    joint = extract(expert, stimuli, task="understanding", joint=True)
    ids = own["uni_prompting"]((codes, [s.text for s in stimuli]), "mmu")[0]
    mask = stand_ins.create_attention_mask_for_mmu(ids, frame["eoi_id"])
    assert same(whole(joint, "text")[:-1], showo_means(own, ids, mask, image=False))
    assert same(whole(joint, "image")[:-1], whole(understanding, "image")[:-1])


# ---- Janus-Pro


def janus_means(own, rows, pixels, drawn, modality):
    """Each sample by itself, without padding: native hidden states of the language model."""
    model, p = own["model"], own["processor"]
    frame = {p.tokenizer.bos_token_id, p.image_start_id, p.image_end_id, p.image_id}
    found = []
    with torch.no_grad():
        for row, image in zip(rows, pixels):
            ids = torch.tensor(row)
            embeds = model.language_model.model.embed_tokens(ids)
            if p.image_id in row:
                codes = model.gen_vision_model.encoder(image[None]).argmax(1).flatten()
                read = model.aligner(model.vision_model(image[None]))[0]
                embeds[ids == p.image_id] = model.gen_aligner(model.gen_embed(codes)) if drawn else read
            native = model.language_model(inputs_embeds=embeds[None], output_hidden_states=True).hidden_states[:-1]
            image_modality = modality == "image"
            kept = [i for i, t in enumerate(row) if (t == p.image_id if image_modality else t not in frame)]
            found.append(torch.stack([state[0, kept].mean(0) for state in native]))
    return torch.stack(found, 1)


@pytest.mark.parametrize("task", ["understanding", "generation"])
@pytest.mark.parametrize("joint", [False, True], ids=["separate", "joint"])
def test_janus_pro(adapter, stimuli, task, joint):
    own = stand_ins.janus()
    p, drawn = own["processor"], task == "generation"
    features = extract(adapter("janus", **own), stimuli, task=task, joint=joint)
    pixels = [stand_ins.to_tensor(s.image) for s in stimuli]
    image = [p.image_start_id, *[p.image_id] * 16] + ([] if drawn else [p.image_end_id])
    for modality in ("image", "text"):
        rows = []
        for s in stimuli:
            text = p.tokenizer.encode(s.text, add_special_tokens=False) if joint or modality == "text" else []
            framed = image if joint or modality == "image" else image[:1] * drawn
            rows.append([p.tokenizer.bos_token_id, *(text + framed if drawn else framed + text)])
        assert same(whole(features, modality)[:-1], janus_means(own, rows, pixels, drawn, modality)), modality


def test_the_stand_ins_answer_in_training_and_inference_as_the_repository_does(bagel):
    layer = bagel.model.language_model.model.layers[0]
    x, positions = torch.randn(3, stand_ins.DIM), torch.zeros(3, stand_ins.DIM)
    cache = bagel_stand_in.NaiveCache(stand_ins.LAYERS)
    lens, none = torch.tensor([3]), torch.zeros(0, dtype=torch.long)
    out = layer(x, lens, positions, torch.arange(3), cache, torch.tensor([0]), none, True, True)
    trained = layer.train()(x, [3], [torch.ones(3, 3, dtype=torch.bool).tril()], positions, torch.arange(3), none)
    assert isinstance(out, tuple)
    assert torch.allclose(out[0], trained, atol=1e-6)
    assert torch.is_tensor(cache.key_cache[0])
