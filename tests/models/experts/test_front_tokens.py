"""What stands in front of a text is measured, recorded and can be chosen."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers as t

from bridgework.models.experts.front_tokens import candidates, front_ids
from bridgework.models.experts.opening import open_expert
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.extraction.jobs import prepare_job
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.models.experts.test_language import texts
from bridgework.tests.models.tiny_folders import TEXT, tokenizer, write

BEGIN, END, RED = 1, 2, 12  # ids: <s>, </s>, "red"
NAMES = ("a red ring", "the ring", "red", "blue circle", "the blue and the green cross")


@torch.no_grad()
def marked(path) -> t.LlamaForCausalLM:
    """A Llama in which "red" becomes a sink behind <s>, from block 1 on, and behind no other token."""
    torch.manual_seed(0)
    model = t.LlamaForCausalLM(t.LlamaConfig(**TEXT))
    table, attention = model.model.embed_tokens.weight, model.model.layers[1].self_attn
    for layer in model.model.layers:
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
            module.weight.mul_(0.01)
    table[:, :3] = 0
    table[BEGIN, 0] = table[RED, 1] = table[:, 2] = 3  # marks of <s>, of "red", of every token
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
        projection.weight.zero_()
    attention.q_proj.weight[3, 1], attention.q_proj.weight[3, 2] = 60, -30  # the slowest pair of the rotation
    attention.k_proj.weight[3, 0] = 10
    attention.v_proj.weight[0, 0] = 1
    attention.o_proj.weight[5, 0] = 300
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return model


def test_a_token_that_makes_no_word_a_sink_is_chosen(tmp_path):
    marked(tmp_path)
    expert = open_expert(tmp_path)
    assert expert.front == "</s>"
    given = expert.show(texts(*NAMES), ("text",), "understanding", None)
    assert given.special["text"][:, 0].all()
    assert not given.tokens["text"][:, 0].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extract(expert, Stimuli(texts(*NAMES)), device="cpu")["text"]
    assert float(found.values.norm(dim=-1).max()) < 100
    subject = prepare_job(expert, Stimuli(texts(*NAMES))).provenance["subject"]
    assert subject["settings"]["front"] == "</s>"


def test_the_declared_token_is_said_to_make_sinks_where_it_is_asked_for(tmp_path):
    marked(tmp_path)
    expert = open_expert(tmp_path, front="<s>")
    assert expert.front == "<s>"
    with pytest.warns(UserWarning) as said:
        found = extract(expert, Stimuli(texts(*NAMES)), device="cpu")["text"]
    left_out, kept = (str(warning.message) for warning in said)
    assert left_out.startswith(f"1 of 5 texts ('a red ring') hold words that {expert.name} makes sinks")
    assert kept.startswith(f"1 of 5 texts ('red') are pooled with a sink of {expert.name}, at layers 1-3")
    clean = extract(open_expert(tmp_path, front="</s>"), Stimuli(texts(*NAMES)), device="cpu")["text"]
    assert float(clean.values[2:, 2].norm(dim=-1).max()) < 100 < float(found.values[2:, 2].norm(dim=-1).min())
    assert float(found.values[:, 0].norm(dim=-1).max()) < 100


def test_random_weights_keep_the_declared_token(tmp_path):
    write("LlamaForCausalLM", tmp_path)
    expert = open_expert(tmp_path)
    assert expert.front == "<s>"
    assert list(expert.typical_norms) == ["embeddings", *expert.blocks]


@pytest.mark.parametrize("architecture", ["LlavaForConditionalGeneration", "JanusForConditionalGeneration"])
def test_language_models_that_see_have_a_front_too(architecture, tmp_path):
    write(architecture, tmp_path)
    expert = open_expert(tmp_path, front="</s>")
    for task in expert.tasks:
        given = expert.show(texts("a red ring"), ("text",), task, None)
        assert given.special["text"][0, 0]
    assert expert.begin_part(("text",)) == ("text special", [END])
    assert open_expert(tmp_path, front="").begin_part(("text",)) == ("text special", [])
    assert open_expert(tmp_path).front == "<s>"


@pytest.mark.parametrize("begins", [True, False])
def test_nothing_in_front_and_another_token(begins, tmp_path):
    write("LlamaForCausalLM", tmp_path)
    tokenizer(begins=begins).save_pretrained(tmp_path)
    nothing = open_expert(tmp_path, front="").show(texts("a red ring", "ring"), ("text",), "understanding", None)
    assert nothing.tokens["text"].tolist() == [[True] * 3, [True, False, False]]
    for front in ("<s>", "</s>", "cross"):
        given = open_expert(tmp_path, front=front).show(texts("a red ring"), ("text",), "understanding", None)
        assert given.tokens["text"].tolist() == [[False, True, True, True]]


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("front", ["", "</s>"])
def test_the_longest_input_holds_what_is_in_front(begins, front, tmp_path):
    write("GPT2LMHeadModel", tmp_path)
    tokenizer(begins=begins).save_pretrained(tmp_path)
    expert = open_expert(tmp_path, front=front)
    words = expert.show(texts("a " * 100), ("text",), "understanding", None).tokens["text"]
    assert words.shape == (1, 64) and int(words.sum()) == 64 - bool(front)


def test_an_empty_text_with_nothing_in_front(tmp_path):
    write("LlamaForCausalLM", tmp_path)
    with pytest.raises(ValueError, match="a text is empty, and no token stands in front"):
        open_expert(tmp_path, front="").show(texts("", "ring"), ("text",), "understanding", None)
    empty = open_expert(tmp_path).show(texts("", "ring"), ("text",), "understanding", None)
    assert empty.special["text"].tolist() == [[True, False], [True, False]]


def test_what_cannot_stand_in_front(tmp_path):
    write("LlamaForCausalLM", tmp_path / "llama")
    write("BertModel", tmp_path / "bert")
    write("ViTModel", tmp_path / "vit")
    with pytest.raises(ValueError, match=r"front is 'red ring', which is no single token .* '<s>', '</s>'"):
        open_expert(tmp_path / "llama", front="red ring")
    with pytest.raises(ValueError, match=r"front is '<s>', but bert reads texts both ways: leave front out"):
        open_expert(tmp_path / "bert", front="<s>")
    with pytest.raises(ValueError, match=r"front is '<s>', but expert 'vit' is a vision transformer"):
        open_expert(tmp_path / "vit", front="<s>")


def test_candidates_are_single_tokens_and_nothing():
    own = tokenizer()
    assert candidates(own) == ["<s>", "</s>", "<unk>", "<pad>", ""]
    assert front_ids(own, None) == [BEGIN]
    own.bos_token = None
    assert front_ids(own, None) == []


def test_any_model_without_a_begin_token_loses_its_first_word_where_it_is_a_sink(tmp_path):
    torch.manual_seed(0)
    model = t.GPT2Model(t.GPT2Config(vocab_size=256, n_embd=32, n_layer=3, n_head=4, n_positions=64)).eval()
    with torch.no_grad():
        model.wpe.weight[0] *= 1000  # as the first position of trained models
    words = tokenizer()

    def inputs(stimuli, modalities, task, timestep):
        return words([s.text for s in stimuli], padding=True, return_tensors="pt", padding_side="right")

    subject = AnyModel(model, inputs, modalities=("text",))
    stimuli = Stimuli(texts(*NAMES))
    with pytest.warns(UserWarning) as said:
        found = extract(subject, stimuli, device="cpu", store=tmp_path)["text"]
    messages = [str(warning.message) for warning in said]
    assert any("at layers embeddings-2" in message for message in messages)
    assert any("4 of 5 texts ('a red ring', 'the ring', 'blue circle'" in message for message in messages)
    assert any("1 of 5 texts ('red') are pooled with a sink" in message for message in messages)
    given = words(["a red ring"], return_tensors="pt")
    with torch.no_grad():
        states = model(**given, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found.values[1, 0], states[1][0, 1:].mean(0), rtol=0, atol=1e-4)
