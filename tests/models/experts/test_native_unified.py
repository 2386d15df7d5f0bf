"""Native unified models: the stimulus image as the tokens that the model itself would draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bridgework.models.experts.native_unified import ChameleonExpert, Emu3Expert, JanusExpert
from bridgework.models.experts.opening import open_expert
from bridgework.probes.hooks.capturing import EMBEDDINGS, capture
from bridgework.probes.stimuli.stimulus_set import Stimulus
from bridgework.tests.models.tiny_folders import IMAGE, write

BOS, BOI, EOI, WRAPPER, EOF, EOL = 1, IMAGE + 2, IMAGE + 3, IMAGE + 4, IMAGE + 5, IMAGE + 6


def opened(architecture, tmp_path_factory):
    folder = tmp_path_factory.mktemp(architecture)
    write(f"{architecture}ForConditionalGeneration", folder)
    return open_expert(folder)


@pytest.fixture(scope="module")
def janus(tmp_path_factory):
    return opened("Janus", tmp_path_factory)


@pytest.fixture(scope="module")
def emu3(tmp_path_factory):
    return opened("Emu3", tmp_path_factory)


@pytest.fixture(scope="module")
def chameleon(tmp_path_factory):
    return opened("Chameleon", tmp_path_factory)


@pytest.fixture(scope="module")
def stimuli():
    """Two images of one shape, whose texts differ in length."""
    pixels = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return [Stimulus(Image.fromarray(p.numpy()), t, t) for p, t in zip(pixels, ("a red circle", "a ring"), strict=True)]


def entered(expert, shown):
    """What enters the first block: (batch, token, dim)."""
    with torch.no_grad(), capture(expert.model, [EMBEDDINGS, expert.blocks[0]]) as taps:
        shown.run()
    return taps[EMBEDDINGS]


@torch.no_grad()
def given_ids(expert, shown):
    """The ids behind states that are rows of the text embedding table."""
    table = expert.model.get_input_embeddings().weight
    distance, ids = torch.cdist(entered(expert, shown), table).min(-1)
    assert distance.max() < 1e-3
    return ids


# ---- Janus


@torch.no_grad()
def test_janus_draws_from_its_prompt(janus, stimuli):
    """Begin, words, start of image, then the VQ tokens through the generation embeddings and their aligner."""
    assert isinstance(janus, JanusExpert)
    shown = janus.show(stimuli, ("image", "text"), "generation", None)
    states, table = entered(janus, shown), janus.model.get_input_embeddings().weight
    tokens = janus.vq_tokens(janus.pixels([s.image for s in stimuli])["pixel_values"])
    assert tokens.shape == (2, 16)
    assert len(tokens.unique()) > 4
    words = [janus.tokenizer(s.text, add_special_tokens=False).input_ids for s in stimuli]
    for row, ids, codes in zip(states, words, tokens, strict=True):
        front = table[torch.tensor([BOS, *ids, BOI])]
        torch.testing.assert_close(row[: len(front)], front, rtol=0, atol=0)
        image = janus.model.prepare_embeddings_for_image_generation(codes[None])[0]
        torch.testing.assert_close(row[len(front) : len(front) + 16], image, rtol=0, atol=1e-6)
    where: dict[str, Any] = dict(shown.tokens)
    assert where["image"].sum(1).tolist() == [16, 16]
    assert where["text"].nonzero().tolist() == [[0, 1], [0, 2], [0, 3], [1, 1], [1, 2]]
    assert shown.special["image"].nonzero().tolist() == [[0, 4], [1, 3]]  # the start of the image
    assert shown.special["text"].nonzero().tolist() == [[0, 0], [1, 0]]


@torch.no_grad()
def test_janus_predicts_as_when_it_draws(janus, stimuli):
    """`generate` sees the same states: teacher-forced greedy tokens are the tokens that it draws."""
    ids = torch.tensor([[BOS, *janus.tokenizer("a red circle", add_special_tokens=False).input_ids, BOI]])
    config = janus.model.generation_config
    config.update(bos_token_id=BOS, eos_token_id=2, pad_token_id=0)
    config.generation_kwargs = {"boi_token_id": BOI}
    guided = 1 + 1e-6  # all but the prompt's own scores; at 1, transformers 5.23 fails
    options = {"generation_mode": "image", "do_sample": False, "guidance_scale": guided, "max_length": 80}
    drawn = janus.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **options)
    original, janus.vq_tokens = janus.vq_tokens, lambda pixels: drawn
    try:
        shown = janus.show(stimuli[:1], ("image", "text"), "generation", None)
    finally:
        janus.vq_tokens = original
    with capture(janus.model, janus.blocks[-1:]) as taps:
        shown.run()
    last = janus.model.model.language_model.norm(taps[janus.blocks[-1]])[0]
    predicted = janus.model.model.generation_head(last[4:-1]).argmax(-1)  # from the start of the image on
    assert predicted.tolist() == drawn[0].tolist()


@torch.no_grad()
def test_janus_tokens_are_what_its_decoder_reads(janus, stimuli):
    """The decoder normalises its codes, so their lengths must not matter; of the nearest, none is nearer by angle."""
    pixels = janus.pixels([s.image for s in stimuli])["pixel_values"]
    vq = janus.model.model.vqmodel
    tokens, codes = janus.vq_tokens(pixels), vq.quantize.embedding.weight
    plain = codes.clone()
    codes *= torch.rand(len(codes), 1, generator=torch.Generator().manual_seed(1)) + 0.5
    stretched = janus.vq_tokens(pixels)
    codes.copy_(plain)
    assert torch.equal(tokens, stretched)
    states = F.normalize(vq.quant_conv(vq.encoder(pixels)), dim=1).flatten(2).transpose(1, 2)
    read = vq.quantize.get_codebook_entry(tokens).flatten(2).transpose(1, 2)
    assert torch.allclose((states * read).sum(-1), (states @ F.normalize(codes, dim=-1).T).amax(-1), atol=1e-6)


def test_janus_reads_with_its_vision_encoder(janus, stimuli):
    shown = janus.show(stimuli, ("image",), "understanding", None)
    states = entered(janus, shown)
    with torch.no_grad():
        pixels = janus.pixels([s.image for s in stimuli])
        native = janus.model.model.get_image_features(**pixels).pooler_output
    assert torch.equal(states[shown.tokens["image"]].reshape(native.shape), native)
    frame = janus.model.get_input_embeddings().weight[[BOS, BOI, EOI]]
    assert torch.equal(states[0][shown.special["image"][0]], frame)


# ---- Emu3


@torch.no_grad()
def test_emu3_lays_lines(emu3, stimuli):
    """As its processor does: start, rows * columns, wrapper, lines that end, end of image: the frame is special."""
    assert isinstance(emu3, Emu3Expert)
    shown = emu3.show(stimuli[:1], ("image", "text"), "generation", None)
    ids, words = given_ids(emu3, shown)[0].tolist(), emu3.tokenizer("a red circle", add_special_tokens=False).input_ids
    given = emu3.pixels([stimuli[0].image])
    lines = emu3.model.model.get_image_tokens(**given).view(4, 5).tolist()
    size = emu3.tokenizer("4*4", add_special_tokens=False).input_ids
    flat = [token for line in lines for token in line]
    assert ids == [BOS, *words, BOI, *size, WRAPPER, *flat, EOF, EOI]
    image = shown.tokens["image"]
    assert image is not None
    assert [i for i, keep in zip(ids, image[0], strict=True) if keep] == [t for line in lines for t in line[:-1]]
    assert ids.count(EOL) == 4
    assert {i for i, keep in zip(ids, shown.special["image"][0], strict=True) if keep} == {
        BOI, *size, WRAPPER, EOL, EOF, EOI,
    }  # fmt: skip
    assert all(40 <= token < 60 for line in lines for token in line[:-1])


def test_emu3_tokens_do_not_depend_on_neighbours(emu3, stimuli):
    tall = [stimuli[0], stimuli[1]._replace(image=stimuli[1].image.resize((32, 64)))]
    alone = emu3.show(tall[:1], ("image",), "generation", None)
    both = emu3.show(tall, ("image",), "generation", None)
    ids = given_ids(emu3, alone)[0]
    assert torch.equal(ids, given_ids(emu3, both)[0, : len(ids)])


# ---- Chameleon, and what holds for all


@torch.no_grad()
@pytest.mark.parametrize("family", ["emu3", "chameleon"])
def test_read_as_transformers_reads(family, stimuli, request):
    """Placeholders that the model fills by itself give the same states as its tokens, entered by us."""
    expert = request.getfixturevalue(family)
    shown = expert.show(stimuli[:1], ("image", "text"), "understanding", None)
    ids, given = given_ids(expert, shown), expert.pixels([stimuli[0].image])
    filled = (ids >= 40) & (ids < 60) | (ids == EOL)
    placed = torch.where(filled, IMAGE, ids)
    with capture(expert.model, expert.blocks[-1:]) as native:
        expert.model(input_ids=placed, **given)
    with capture(expert.model, expert.blocks[-1:]) as ours:
        shown.run()
    torch.testing.assert_close(ours[expert.blocks[-1]], native[expert.blocks[-1]], rtol=0, atol=1e-6)


def test_chameleon_frames_its_tokens(chameleon, stimuli):
    assert isinstance(chameleon, ChameleonExpert)
    shown = chameleon.show(stimuli[:1], ("image",), "understanding", None)
    ids = given_ids(chameleon, shown)[0].tolist()
    assert (ids[:2], ids[-1], len(ids)) == ([BOS, BOI], EOI, 67)
    assert all(40 <= token < 60 for token in ids[2:-1])
    assert len(set(ids[2:-1])) > 1


@pytest.mark.parametrize("family", ["janus", "emu3", "chameleon"])
def test_a_tokenizer_that_names_no_start_of_image(family, stimuli, request, monkeypatch):
    expert = request.getfixturevalue(family)
    plain = type(expert.tokenizer).convert_tokens_to_ids

    def forgetful(self, token):
        return self.unk_token_id if token == "<boi>" else plain(self, token)

    monkeypatch.setattr(type(expert.tokenizer), "convert_tokens_to_ids", forgetful)
    with pytest.raises(ValueError, match=r"names no 'boi_token': expected the family's own tokenizer"):
        expert.show(stimuli, ("image",), "generation", None)
