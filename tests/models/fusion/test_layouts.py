"""Fused models of every layout on our kinds of experts: what is trained, checkpointed, saved, and read both ways."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from bridgework.models.fusion.expert_passes import text_pass
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.towers.attention_masks import one_image, text_after
from bridgework.models.towers.checkpointing import checkpoint_blocks
from bridgework.models.training.scene_batches import dit_batch, emoji_part, vlm_batch
from bridgework.probes.plans.bridge_plan import BridgePlan

LAYOUTS = ["H", "dense", "double fusion", "last", "soft"]
TWO_WAYS = LAYOUTS[:3]
CAPTIONS = ["a red circle", "three blue crosses and a black square", "a ring", "a green square"]


def plan_for(layout: str, **changes) -> BridgePlan:
    pairs = ((3, 0), (3, 2)) if layout in ("last", "soft") else ((0, 0), (2, 1), (3, 2))
    return BridgePlan(pairs, "image", "all", {}, 4, 3, layout=layout, **changes)


def opened(fused: FusedModel, seed: int = 3) -> FusedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in fused.bridges.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if "gate" in name:
                parameter.fill_(0.7)
    return fused


@pytest.fixture
def batch() -> dict:
    return dit_batch(0, 0, size=4) | {"caption": CAPTIONS}


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_untouched_at_gate_0_and_text_arrives_at_open_gates(fuse, batch, layout):
    fused = fuse(plan_for(layout))
    expert = fused.experts[1]
    noisy, time = batch["noise"][:1].expand(4, -1, -1, -1), torch.full((4,), 0.8)
    bare = expert.predict(noisy, expert.encode([""] * 4), time)
    assert torch.equal(fused.predict(noisy, fused.condition(CAPTIONS), time), bare)
    out = opened(fused).predict(noisy, fused.condition(CAPTIONS), time)
    assert (out[0] - out[1]).abs().max() > 1e-4
    swapped = fused.predict(noisy, fused.condition(CAPTIONS[::-1]), time)
    torch.testing.assert_close(swapped, out.flip(0), rtol=0, atol=1e-5)


def gradients(fused: FusedModel, batch: dict) -> dict[str, Tensor]:
    fused.zero_grad()
    fused.loss(batch).backward()
    return {name: p.grad.clone() for name, p in fused.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("layout", TWO_WAYS)
def test_gradient_checkpointing_changes_no_gradient(fuse, batch, layout, both_ways):
    fused = opened(fuse(plan_for(layout, both_ways=both_ways))).adapt("all").train()
    fused.understanding.eval(), fused.generation.eval()
    plain = gradients(fused, batch)
    checkpoint_blocks(fused.understanding)
    checkpoint_blocks(fused.generation)
    fused.train()
    calls = []
    mlps = [layer.mlp for layer in fused.understanding.model.language_model.layers]
    for part in (*mlps, *(block.ff for block in fused.generation.transformer_blocks)):
        part.register_forward_pre_hook(lambda module, args: calls.append(module))
    again = gradients(fused, batch)
    runs = 2 if both_ways else 1  # of each tower in a loss
    assert len(calls) == 2 * 7 * runs
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("saved", [False, True], ids=["all computed again", "some results saved"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torchs_own_checkpointing_changes_no_gradient(fuse, batch, layout, saved):
    fused = opened(fuse(plan_for(layout, both_ways=layout in TWO_WAYS))).adapt("all")
    plain = gradients(fused, batch)
    policy = {"context_fn": lambda: create_selective_checkpoint_contexts([torch.ops.aten.addmm.default])}
    for tower in fused.towers:
        for path in tower.blocks:
            block = checkpoint_wrapper(tower.model.get_submodule(path), **(policy if saved else {}))
            tower.model.set_submodule(path, block)
    again = {name.replace("_checkpoint_wrapped_module.", ""): g for name, g in gradients(fused, batch).items()}
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("layout", TWO_WAYS)
def test_the_generation_loss_reaches_the_understanding_tower_and_the_reverse(fuse, batch, layout):
    fused = opened(fuse(plan_for(layout, both_ways=True))).adapt("all")
    time = batch["time"]
    fused.predict(batch["image"], fused.condition(CAPTIONS), time).square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in fused.understanding.parameters())
    fused.zero_grad()
    fused.caption_loss(CAPTIONS, batch["image"]).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in fused.generation.parameters())


@pytest.mark.parametrize("layout", TWO_WAYS)
@torch.no_grad()
def test_captions_are_read_off_the_clean_image_and_causally(fuse, batch, layout):
    fused = fuse(plan_for(layout, both_ways=True))
    shut = fused.caption_loss(CAPTIONS, batch["image"])
    assert torch.equal(shut, fused.caption_loss(CAPTIONS, batch["image"].flip(0)))
    opened(fused)
    own, other = (fused.caption_loss(CAPTIONS, image) for image in (batch["image"], batch["image"].flip(0)))
    assert (own - other).abs() > 1e-4
    logits: list[Tensor] = []
    fused.understanding.register_forward_hook(lambda module, args, output: logits.append(output.logits[0]))
    for text in (CAPTIONS[0], CAPTIONS[0] + " and a ring"):
        fused.caption_loss([text], batch["image"][:1])
    short, long = logits
    torch.testing.assert_close(long[: len(short)], short, rtol=0, atol=1e-5)


REPEATED = ((0, 0), (2, 2), (3, 2))  # surplus understanding blocks meet the last generation block again


@pytest.mark.parametrize(("layout", "pairs"), [*((each, None) for each in TWO_WAYS), ("double fusion", REPEATED)])
@torch.no_grad()
def test_drawing_in_two_passes_is_drawing_in_lockstep(fuse, batch, layout, pairs):
    """Noise is seen by nobody else, so that understanding runs once and ahead, what bridges change in it included."""
    plan = plan_for(layout, both_ways=True)
    fused = opened(fuse(replace(plan, pairs=pairs or plan.pairs)))
    noisy, time = batch["noise"], batch["time"]
    once = fused.predict(noisy, fused.condition(CAPTIONS), time)
    run, mask = text_pass(fused.experts[0], CAPTIONS)
    places = text_after(mask, 0), one_image(4, 1000, True, fused.device)
    null = fused.null_text.expand(4, -1, -1)
    _, beside = fused.together(run, lambda: fused.experts[1].predict(noisy, null, time), places)
    torch.testing.assert_close(once, beside, rtol=0, atol=1e-5)
    assert not torch.allclose(once, fused.experts[1].predict(noisy, null, time), atol=1e-3)


def test_drawing_trains_what_understanding_adds_to_itself(fuse, batch):
    """Of a fusion block both ways; the towers stay frozen."""
    fused = opened(fuse(plan_for("double fusion", both_ways=True)))
    fused.predict(batch["image"], fused.condition(CAPTIONS), batch["time"]).square().mean().backward()
    assert fused.bridges.get_parameter("0.outs.0.weight").grad.abs().max() > 0  # type: ignore[union-attr]
    assert all(p.grad is None for p in (*fused.understanding.parameters(), *fused.generation.parameters()))


def test_captions_left_out_cost_nothing(fuse, batch):
    fused = fuse(plan_for("H", both_ways=True))
    assert fused.caption_loss(["", ""], batch["image"][:2]) == 0
    assert fused.caption_loss(["", "a ring"], batch["image"][:2]) > 0


def test_one_way_plans_have_no_caption_loss(fuse, batch):
    with pytest.raises(ValueError, match="runs one way"):
        fuse(plan_for("H")).caption_loss(CAPTIONS, batch["image"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lora_starts_at_the_experts_and_trains_adapters_alone(fuse, make_experts, batch, layout, tmp_path):
    fused = opened(fuse(plan_for(layout)))
    with torch.no_grad():
        before = fused.predict(batch["image"], fused.condition(CAPTIONS), batch["time"])
        fused.adapt("lora", rank=2)
        after = fused.predict(batch["image"], fused.condition(CAPTIONS), batch["time"])
    torch.testing.assert_close(before, after)
    trained = {name for name, p in fused.trained().named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("bridges.") for name in trained)
    assert {name.split(".")[0] for name in trained} == {"bridges", "understanding", "generation"}
    for _ in range(2):
        gradients(fused, batch)
        with torch.no_grad():
            for parameter in fused.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    fused.steps = 2
    fused.save(tmp_path)
    again = FusedModel.load(tmp_path, *make_experts())
    assert (again.trained_experts, again.steps) == ("lora", 2)
    with torch.no_grad():
        outs = [m.predict(batch["image"], m.condition(CAPTIONS), batch["time"]) for m in (fused, again)]
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], after)


def test_what_is_trained_is_said_once_and_by_name(fuse):
    with pytest.raises(ValueError, match="unknown trained 'everything': expected one of bridges, lora, all"):
        fuse(plan_for("H")).adapt("everything")
    with pytest.raises(ValueError, match="trains 'all' already"):
        fuse(plan_for("H")).adapt("all").adapt("lora")


def test_questions_are_answered_while_the_understanding_expert_is_trained(fuse, batch, tokenizer):
    emoji = emoji_part("train")
    asked = {"questions": vlm_batch(0, 0, emoji, tokenizer, 4)}
    fused = fuse(plan_for("H"))
    assert torch.equal(fused.loss(batch), fused.loss(batch | asked))
    fused.adapt("lora")
    assert fused.loss(batch | asked) > fused.loss(batch) + 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_semantic_tokens_learn_what_the_image_shows(fuse, make_experts, batch, layout, tmp_path):
    fused = fuse(plan_for(layout, semantic_tokens=4))
    optimizer = torch.optim.Adam(fused.trained().parameters(), 0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = fused.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert fused.semantic.tokens.grad.abs().max() > 0
    fused.save(tmp_path)
    again = FusedModel.load(tmp_path, *make_experts())
    with torch.no_grad():
        outs = [m.predict(batch["image"], m.condition(CAPTIONS), batch["time"]) for m in (fused, again)]
    assert torch.equal(*outs)


def test_semantic_tokens_need_a_generator_that_takes_further_text(fuse_pipeline):
    with pytest.raises(ValueError, match=r"its own text takes no semantic tokens"):
        fuse_pipeline("Flux", semantic_tokens=3)


def test_semantic_tokens_need_an_expert_that_sees(make_experts):
    class Blind:
        def __init__(self, expert):
            self.name, self.model, self.blocks = expert.name, expert.model, expert.blocks
            self.modalities, self.show = ("text",), expert.show

    understanding, generation = make_experts()
    with pytest.raises(ValueError, match=r"tiny-vlm has no vision tower, .*: plan without semantic_tokens"):
        FusedModel(Blind(understanding), generation, plan_for("H", semantic_tokens=4))


def test_a_checkpoint_of_another_plan_is_refused_by_its_file(fuse, make_experts, tmp_path):
    fuse(plan_for("H", rank=2)).save(tmp_path)
    replace(plan_for("H"), rank=3).save(tmp_path / "plan.json")
    experts = make_experts()
    with pytest.raises(ValueError, match=r"does not hold the bridges of its plan: plan.json says rank 3"):
        FusedModel.load(tmp_path, *experts)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_are_counted_without_building_the_model_again(fuse, layout):
    fused = fuse(plan_for(layout, both_ways=layout in TWO_WAYS))
    before = [parameter.clone() for parameter in fused.bridges.parameters()]
    for rank in (1, 3, 1000, None):
        again = fuse(replace(fused.plan, rank=rank))
        assert fused.count_parameters(rank) == sum(p.numel() for p in again.bridges.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, fused.bridges.parameters(), strict=True))
