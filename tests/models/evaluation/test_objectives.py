"""Objectives: log-probabilities and errors by hand, on real subjects; and attribution of both experts' families."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bridgework.models.evaluation.objectives import answer_log_probability, minus_denoising_error
from bridgework.probes.evidence.attention import attention_mass
from bridgework.probes.evidence.attribution import attribute
from bridgework.probes.evidence.conflict import gradient_conflict
from bridgework.probes.stimuli.images import to_pixels
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.probes.subjects.subject import ForwardPass

ANSWER = "red circle"


@pytest.fixture
def asked(stimuli) -> Stimuli:
    texts = ("a red circle", "there is one red circle", "red circle")
    return Stimuli([s._replace(text=text, id=text) for s, text in zip(stimuli, texts)], "asked")


@torch.no_grad()
def test_the_answer_is_read_from_the_tokens_before_it(tiny_vlm, asked):
    shown = tiny_vlm.show(asked, ("image", "text"), "understanding", None)
    result = shown.run()
    for answers in (None, {s.id: ANSWER for s in asked}):
        found = answer_log_probability(tiny_vlm.tokenizer, answers)(result, asked, shown)
        for row, stimulus in enumerate(asked):
            ids = tiny_vlm.tokenizer(stimulus.text, add_special_tokens=False).input_ids
            wanted = ids if answers is None else ids[-2:]
            end = 1 + 16 + len(ids)  # a begin token and 16 image tokens before the text
            likely = result.logits[row].log_softmax(-1)
            by_hand = sum(likely[end - len(wanted) + i - 1, token].item() for i, token in enumerate(wanted))
            assert found[row].item() == pytest.approx(by_hand, abs=1e-5)


def test_positions_count_over_the_whole_batch(tiny_vlm, asked):
    """The same answer from a mask and from positions in states without a batch axis."""
    shown = tiny_vlm.show(asked, ("image", "text"), "understanding", None)
    with torch.no_grad():
        result = shown.run()
    output = answer_log_probability(tiny_vlm.tokenizer, {s.id: ANSWER for s in asked})
    expected = output(result, asked, shown)
    mask = shown.tokens["text"]
    rows = [row * mask.shape[1] + kept.nonzero()[:, 0] for row, kept in enumerate(mask)]
    positions = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    packed = SimpleNamespace(logits=result.logits.flatten(0, 1)[None])
    assert torch.equal(output(packed, asked, ForwardPass(shown.run, {"text": positions})), expected)


def test_an_answer_that_is_not_there_is_named(tiny_vlm, asked):
    shown = tiny_vlm.show(asked, ("image", "text"), "understanding", None)
    result = shown.run()
    with pytest.raises(ValueError, match="does not end with the tokens of its answer 'blue'"):
        answer_log_probability(tiny_vlm.tokenizer, {s.id: "blue" for s in asked})(result, asked, shown)
    cut = ForwardPass(shown.run, {"text": shown.tokens["text"] & (torch.arange(shown.tokens["text"].shape[1]) > 17)})
    with pytest.raises(ValueError, match="'a red circle' is 3 tokens, but the subject shows 2 of text"):
        answer_log_probability(tiny_vlm.tokenizer)(result, asked, cut)


def test_the_denoising_error_of_each_image(stimuli):
    image = to_pixels([s.image for s in stimuli], 32)
    predicted = image + torch.arange(5.0)[:, None, None, None]
    found = minus_denoising_error(predicted, stimuli, ForwardPass(lambda: None, {}))
    assert found.tolist() == pytest.approx([0, -1, -4, -9, -16], abs=1e-5)


def test_attribution_of_an_understanding_expert_is_complete(tiny_vlm, asked):
    output = answer_log_probability(tiny_vlm.tokenizer, {s.id: ANSWER for s in asked})
    table = attribute(tiny_vlm, asked[:2], output, method="conductance", steps=64, device="cpu")
    assert table["layer"].nunique() == 5
    assert table["error"].max() < 0.02 * table["gain"].abs().max()
    assert table.groupby("layer")["attribution"].sum().to_numpy() == pytest.approx(table["gain"].iloc[0], rel=0.02)
    last = table[(table["layer"] == "3") & (table["modality"] == "image")].iloc[0]
    assert last.attribution == 0  # nothing reads the image's tokens behind the last block


def test_attribution_of_a_generation_expert_is_complete(tiny_dit, stimuli):
    options = {"method": "integrated_gradients", "timestep": 0.7, "device": "cpu"}
    table = attribute(tiny_dit, stimuli[:2], minus_denoising_error, steps=64, **options)
    assert set(table[table["layer"] == "2"]["modality"]) == {"image", "other"}
    assert set(table[table["layer"] == "1"]["modality"]) == {"image", "text", "other"}
    assert table["error"].max() < 0.02 * table["gain"].abs().max()
    assert (table["timestep"] == 0.7).all()


def test_the_generation_experts_attention_has_its_image_first(tiny_dit, stimuli):
    table = attention_mass(tiny_dit, stimuli[:2], timestep=0.7, device="cpu")
    block, calls = tiny_dit.model.transformer_blocks[1].attn, []
    hooks = [
        part.register_forward_hook(lambda module, given, out: calls.append(out))
        for part in (block.norm_q, block.norm_k, block.norm_added_q, block.norm_added_k)
    ]
    shown = tiny_dit.show(stimuli[:1], ("image", "text"), "generation", 0.7)
    with torch.no_grad():
        shown.run()
    for hook in hooks:
        hook.remove()
    query, key, text_query, text_key = (call[0] for call in calls)  # (head, token, dim)
    chances = (text_query @ torch.cat([key, text_key], 1).mT * query.shape[-1] ** -0.5).softmax(-1)
    by_hand = chances[:, shown.tokens["text"][0]][..., : key.shape[1]].sum(-1).mean().item()
    alone = attention_mass(tiny_dit, stimuli[:1], timestep=0.7, device="cpu").set_index(["layer", "query", "key"])
    assert alone.loc[("1", "text", "image"), "mass"] == pytest.approx(by_hand, abs=1e-6)
    assert len(table) == 3 * 2 * 3


def test_conflict_of_an_experts_blocks(tiny_vlm, asked):
    output = answer_log_probability(tiny_vlm.tokenizer)

    def losses(modalities: tuple[str, ...]) -> list:
        def loss() -> torch.Tensor:
            shown = tiny_vlm.show(asked, modalities, "understanding", None)
            return -output(shown.run(), asked, shown).mean()

        return [loss] * 4

    both = {"described": losses(("image", "text")), "read": losses(("text",))}
    table = gradient_conflict(tiny_vlm.model, tiny_vlm.blocks, both)
    assert table["layer"].tolist() == ["0", "1", "2", "3"]
    assert table["cosine"].between(-1, 1).all()
    assert table["cosine"].nunique() == 4
