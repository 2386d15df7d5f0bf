"""One trunk: it starts as the expert it was made from, each task trains its own blocks, and captions are read."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from bridgework.models.evaluation.scores import answer
from bridgework.models.experts.opening import open_expert
from bridgework.models.scenes.dialogues import IMAGE, IMAGE_TOKENS, answer_loss, question_prompt, tokenize_rows
from bridgework.models.scenes.questions import compose_question
from bridgework.models.scenes.rendering import render_scene
from bridgework.models.scenes.scene import SKILLS
from bridgework.models.towers.checkpointing import checkpoint_blocks
from bridgework.models.training.optimizers import _HIDDEN
from bridgework.models.training.scene_batches import dit_batch
from bridgework.models.unified.flow_model import UnifiedModel
from bridgework.models.unified.token_model import UnifiedTokens
from bridgework.probes.file_formats import NEWEST
from bridgework.probes.plans.layouts import lay_out

CAPTIONS = ["a red circle", "three blue crosses and a very long black square top left", ""]
PLANS = {
    "shared": lay_out("shared", 4, 4),
    **{f"Y {fork}": lay_out("Y", 4, 4, fork=fork) for fork in (1, 2, 3)},
    "X": lay_out("X", 4, 4, ends=(1, 1)),
}


@pytest.fixture(params=PLANS)
def plan(request):
    return PLANS[request.param]


@pytest.fixture
def make(tiny_vlm, tiny_dit):
    def build(plan, kind=UnifiedModel):
        torch.manual_seed(3)
        return kind.from_experts(plan, tiny_vlm, tiny_dit)

    return build


def batch(size: int = 6) -> dict:
    drawn = dit_batch(0, 0, size=size)
    return drawn | {"caption": ["a ring", "", *drawn["caption"][2:]]}


def dialogues(tokenizer) -> dict[str, torch.Tensor]:
    """Two rows about images and one about a caption."""
    rows = [
        [(question_prompt("is there a ring ?"), "no"), ("how many circles ?", "two")],
        [(question_prompt("is there a ring ?", "a ring"), "yes")],
        [(question_prompt("what colour is the ring ?"), "red")],
    ]
    return {**tokenize_rows(tokenizer, rows), "pixel_values": dit_batch(1, 0, size=2)["image"]}


def gradients(model: nn.Module, loss: torch.Tensor) -> set[str]:
    """The parameters that a loss moves."""
    model.zero_grad()
    loss.backward()
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}


# At the start


@torch.no_grad()
def test_understanding_starts_as_the_expert(make, plan, tiny_vlm):
    rows = dialogues(tiny_vlm.tokenizer)
    rows.pop("labels")
    model = make(plan)
    ours, theirs = model.read(**rows), tiny_vlm.model(**rows).logits
    real = rows["attention_mask"].bool()
    same = torch.allclose(ours[real], theirs[real], rtol=0, atol=1e-5)
    assert same == (plan.layout != "X")  # at its ends no word sees the image


@pytest.mark.parametrize("layout", ["shared", "Y"])
def test_answers_start_as_those_of_scenes_vlm(layout):
    vlm, dit = open_expert("scenes-vlm"), open_expert("scenes-dit")
    model = UnifiedModel.from_experts(lay_out(layout, 16, 16), vlm, dit)
    rng = np.random.default_rng(0)
    asked = [compose_question(rng, skill, "test") for skill in SKILLS for _ in range(2)]
    images, questions = [render_scene(q.scene, rng) for q in asked], [q.question for q in asked]
    with torch.no_grad():
        assert model.answer(images, questions) == answer(vlm, images, questions)
    assert not [name for name in model.taken if not name.startswith("reader.")]  # scenes-dit is 96 wide, this 128


def test_what_was_taken_is_the_experts(make, plan, tiny_vlm):
    model, expert = make(plan), dict(tiny_vlm.model.named_parameters())
    ours = dict(model.named_parameters())
    assert set(ours) - set(model.taken) == {n for n in ours if n.startswith(("patches.", "clock.", "out."))}
    for name in model.taken:
        source = name.removeprefix("reader.").replace("own_layers", "layers").replace("own_norm", "norm")
        assert torch.equal(ours[name], expert[source]), name


def test_a_generation_expert_of_the_same_width_gives_its_patches_and_time(tiny_vlm, tiny_dit):
    torch.manual_seed(5)
    wide = SD3Transformer2DModel(
        sample_size=32, patch_size=4, in_channels=3, out_channels=3, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=8,
        pos_embed_max_size=8,
    )  # fmt: skip
    model = UnifiedModel.from_experts(PLANS["Y 2"], tiny_vlm, replace(tiny_dit, model=wide))
    assert {"patches.proj.weight", "clock.linear_1.weight", "out.weight", "out.bias"} <= set(model.taken)
    assert torch.equal(model.out.weight, wide.proj_out.weight)
    noisy = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.patches(noisy), wide.pos_embed(noisy))


def test_experts_are_not_changed(make, tiny_vlm):
    before = copy.deepcopy(tiny_vlm.model.state_dict())
    model = make(PLANS["Y 2"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_vlm.model.state_dict().items())


# Drawing


@torch.no_grad()
def test_captions_decide_and_batches_do_not(make, plan):
    model = make(plan)
    noisy = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    time = torch.full((3,), 0.7)
    out = model.predict(noisy, model.condition(CAPTIONS), time)
    assert out.shape == (3, 3, 32, 32)
    for row, caption in enumerate(CAPTIONS):
        alone = model.predict(noisy[:1], model.condition([caption]), time[:1])
        torch.testing.assert_close(out[row], alone[0], rtol=0, atol=1e-5)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (out[one] - out[other]).abs().max() > 1e-4
    assert (model.predict(noisy, model.condition(CAPTIONS), time / 2) - out).abs().max() > 1e-4


@torch.no_grad()
def test_noise_changes_nothing_in_text(make, plan):
    model = make(plan)
    text = model.condition(CAPTIONS)
    logits = []
    for seed in (0, 1):
        noisy = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        hidden = model.trunk(model.caption_then_image(text, model.patches(noisy), noise=True), generation=True)
        logits.append(model.logits(hidden)[:, : text.ids.shape[1]])
    assert torch.equal(*logits)


@torch.no_grad()
def test_patches_leave_where_they_entered(make, monkeypatch):
    model = make(PLANS["shared"])
    text = model.condition(["a ring"])
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    at = torch.arange(64.0)[None, :, None].expand(1, 64, 16)
    monkeypatch.setattr(model.trunk, "forward", lambda *_, **__: torch.cat([at[:, : text.ids.shape[1]], at], 1))
    monkeypatch.setattr(model.out, "forward", lambda states: 100 * states[..., :1] + torch.arange(48.0))
    out = model.predict(torch.zeros(1, 3, 32, 32), text, torch.ones(1))
    inside = 3 * (4 * (rows % 4) + columns % 4)  # row, column, channel, as scenes-dit has it
    for channel in range(3):
        assert torch.equal(out[0, channel], (100 * (8 * (rows // 4) + columns // 4) + inside + channel).float())


# Training


def test_each_task_trains_its_own_blocks(make, plan):
    model = make(plan)
    losses = model.losses(batch())
    assert set(losses) == {"words", "drawing"}
    read, drawn = (gradients(model, losses[name]) for name in ("words", "drawing"))
    shared = {i for i, _ in plan.pairs}

    def blocks(names: set[str], own: str) -> set[int]:
        return {int(n.split(f".{own}.")[1].split(".")[0]) for n in names if f".{own}." in n and "language" in n}

    apart = set(range(4)) - shared
    if plan.layout == "X":  # both tasks have words and an image, the last blocks serve what is predicted
        assert (blocks(read, "layers"), blocks(read, "own_layers")) == ({0, 1, 2, 3}, {0})
        assert (blocks(drawn, "layers"), blocks(drawn, "own_layers")) == ({0, 1, 2}, {0, 3})
    else:
        assert (blocks(read, "layers"), blocks(read, "own_layers")) == ({0, 1, 2, 3}, set())
        assert (blocks(drawn, "layers"), blocks(drawn, "own_layers")) == (shared, apart)
        assert ("reader.model.language_model.own_norm.weight" in drawn) == (plan.layout == "Y")
    assert any("vision_tower" in name for name in read) and any("projector" in name for name in read)
    assert not any("vision_tower" in name or "projector" in name for name in drawn)
    assert {"patches.proj.weight", "clock.linear_1.weight", "out.weight"} <= drawn - read
    assert read | drawn >= {n for n, p in model.named_parameters() if p.ndim == 2 and "post_layernorm" not in n}


def test_the_loss_is_the_sum_of_its_terms(make, tokenizer):
    model = make(PLANS["Y 2"])
    asked = batch() | {"questions": dialogues(tokenizer)}
    with torch.no_grad():
        terms = model.losses(asked)
        assert set(terms) == {"words", "answers", "drawing"}
        torch.testing.assert_close(model.loss(asked), sum(terms.values()))
        expected = answer_loss(
            model.read(**{n: v for n, v in asked["questions"].items() if n != "labels"}), asked["questions"]["labels"]
        )
        torch.testing.assert_close(terms["answers"], expected)
        assert set(model.losses(batch() | {"caption": [""] * 6})) == {"drawing"}
        clean = asked["image"]
        model.predict = lambda noisy, text, time: clean
        assert model.losses(asked)["drawing"] == 0


@pytest.mark.parametrize("name", ["shared", "Y 2", "X"])
def test_training_brings_both_losses_down(make, name):
    model = make(PLANS[name]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen = []
    for _ in range(10):
        terms = model.losses(batch())
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append({name: term.item() for name, term in terms.items()})
    assert seen[-1]["words"] < 0.7 * seen[0]["words"]
    assert seen[-1]["drawing"] < 0.7 * seen[0]["drawing"]


@pytest.mark.parametrize("name", ["shared", "Y 2", "X"])
def test_checkpointing_gives_the_same_gradients(make, name):
    grads = []
    for checkpointed in (False, True):
        model = make(PLANS[name]).train()
        if checkpointed:
            checkpoint_blocks(model.reader)
        blocks = [*model.trunk.layers, *model.trunk.own_layers.values()]
        assert {block.gradient_checkpointing for block in blocks} == {checkpointed}
        model.loss(batch()).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for number, gradient in grads[0].items():
        torch.testing.assert_close(grads[1][number], gradient, rtol=0, atol=1e-6)


def test_matrices_of_blocks_are_found_by_their_names(make, plan):
    named = [n for n, p in make(plan).named_parameters() if p.ndim == 2 and _HIDDEN.search(n)]
    text, vision = 7 * (2 * 4 - len(plan.pairs)), 6 * 2  # matrices of a block, by blocks
    assert len(named) == text + vision


# Kept and opened


def test_saved_and_opened(make, plan, tmp_path):
    model = make(plan)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    model.save(tmp_path)
    again = UnifiedModel.load(tmp_path)
    assert again.plan == plan and again.causal_images
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    noisy, time = torch.randn(3, 3, 32, 32), torch.full((3,), 0.5)
    with torch.no_grad():
        one, other = (each.predict(noisy, each.condition(CAPTIONS), time) for each in (model, again))
    assert torch.equal(one, other)


def test_a_checkpoint_of_another_plan(make, tmp_path):
    make(PLANS["Y 2"]).save(tmp_path)
    PLANS["Y 1"].save(tmp_path / "plan.json")
    with pytest.raises(ValueError, match=r"plan.json is not the file that was saved with unified.safetensors"):
        UnifiedModel.load(tmp_path)


@pytest.mark.parametrize("change", ["a bit", "the config", "the settings", "no hashes"])
def test_a_checkpoint_that_was_changed(make, tmp_path, change):
    make(PLANS["Y 2"]).save(tmp_path)
    weights, message = tmp_path / "unified.safetensors", r"config.json is not the file that was saved"
    if change == "a bit":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(bytes(content))
        message = r"unified.safetensors is damaged: copy it again, or train again \(the values of .* are not those"
    elif change == "the config":
        config = tmp_path / "config.json"
        config.write_text(config.read_text().replace("10000.0", "10001.0"))
    elif change == "the settings":
        path, message = tmp_path / "unified.json", r"unified.json is not the file that was saved"
        path.write_text(path.read_text().replace("true", "false"))
    else:  # as an earlier version wrote it, of another plan
        save_file(load_file(weights), weights)
        with pytest.warns(UserWarning, match="was written before it held hashes"):
            assert UnifiedModel.load(tmp_path).plan == PLANS["Y 2"]
        PLANS["Y 1"].save(tmp_path / "plan.json")
        message = r"unified.safetensors does not hold the weights of its plan, 'Y' with 1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=message):
            UnifiedModel.load(tmp_path)


def test_a_checkpoint_of_the_other_objective(make, tmp_path):
    make(PLANS["Y 2"]).save(tmp_path)
    with pytest.raises(ValueError, match=r"unified.json is of the objective 'flow', UnifiedTokens draws by 'tokens'"):
        UnifiedTokens.load(tmp_path)


@pytest.mark.parametrize("missing", ["plan.json", "unified.safetensors", "unified.json", "config.json"])
def test_a_missing_file_is_named(make, tmp_path, missing):
    make(PLANS["shared"]).save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        UnifiedModel.load(tmp_path)


def test_settings_are_plain(make, tmp_path):
    make(PLANS["shared"]).save(tmp_path)
    about = {"format": NEWEST["unified model"], "causal_images": True, "objective": "flow"}
    assert json.loads((tmp_path / "unified.json").read_text()) == about


# Bad input


def test_a_plan_for_towers_is_refused(make, tiny_vlm):
    with pytest.raises(ValueError, match="build a FusedModel"):
        make(lay_out("H", 4, 3))
    with pytest.raises(ValueError, match="trunk of 6 blocks, the text model has 4"):
        make(lay_out("Y", 6, 6))


def test_other_experts_are_refused(tiny_vlm, tiny_dit):
    with pytest.raises(TypeError, match="LlavaExpert and a DitExpert, in this order, got DitExpert and LlavaExpert"):
        UnifiedModel.from_experts(PLANS["shared"], tiny_dit, tiny_vlm)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: setattr(t, "pad_token", None), "no padding token"),
        (lambda t: setattr(t, "bos_token", None), "no begin token"),
        (lambda t: setattr(t, "get_vocab", partial(dict, a=1)), "no '<image>'"),
        (lambda t: setattr(t, "get_vocab", lambda: {"<image>": 7}), "token 7 of the tokenizer and 4 of the config"),
    ],
)
def test_a_tokenizer_without_the_tokens_is_refused(tiny_vlm, change, said):
    tokenizer = copy.deepcopy(tiny_vlm.tokenizer)
    change(tokenizer)
    with pytest.raises(ValueError, match=said):
        UnifiedModel(PLANS["shared"], tiny_vlm.model.config, tokenizer)


def test_images_see_each_other_unless_they_are_causal(tiny_vlm):
    torch.manual_seed(0)
    model = UnifiedModel(PLANS["shared"], tiny_vlm.model.config, tiny_vlm.tokenizer).eval()
    rows = tokenize_rows(tiny_vlm.tokenizer, [[(IMAGE * IMAGE_TOKENS, "a ring")]])
    feed = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    features = torch.randn(1, 16, 16)
    first = []
    for last in (0.0, 1.0):
        changed = features.clone()
        changed[0, -1] += last
        model.reader.model.get_image_features = lambda _, f=changed: type("F", (), {"pooler_output": tuple(f)})
        with torch.no_grad():
            first.append([_first(model, feed, causal) for causal in (False, True)])
    assert not torch.equal(first[0][0], first[1][0])
    assert torch.equal(first[0][1], first[1][1])


def _first(model: UnifiedModel, feed: dict, causal: bool) -> torch.Tensor:
    """The logits at the first image token."""
    model.causal_images = causal
    return model.read(**feed, pixel_values=torch.zeros(1, 3, 32, 32))[0, 1]
