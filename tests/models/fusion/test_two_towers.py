"""Real bridges between any two models: untouched at gate 0, gradients into the other tower elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3Model

from bridgework.models.bridges.bridge import Bridge, KeysValues
from bridgework.models.bridges.registry import BRIDGES
from bridgework.models.fusion.two_towers import Fusion
from bridgework.models.towers.attention_masks import SequencePlaces, text_after
from bridgework.models.towers.finding import find_tower
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.layout_table import LAYOUTS

from ..pairs import LLAVA, LM, OUTSIDE, PAIRS, SD3, Named, Runnable, opened, shared, tensors, traces


def label(pair: tuple[Named, Named]) -> str:
    return " x ".join(each.model.split()[0] for each in pair)


def plan_for(sides: list[Runnable], layout: str, **changes: Any) -> BridgePlan:
    """Two bridges, or one where a tower has one block: the first block with the first, the last with the last."""
    inside = BRIDGES[layout].inside
    there = [[n for n, a in enumerate(side.tower.attention) if not (inside and isinstance(a, str))] for side in sides]
    depths = [len(side.tower.blocks) for side in sides]
    count = min(2, *map(len, there))
    pairs = tuple((a, b) for a, b in zip(*(blocks[:1] + blocks[-1:] for blocks in there), strict=True))[:count]
    if LAYOUTS[layout].one_way:
        pairs = tuple((depths[0] - 1, g) for g in sorted({there[1][0], there[1][-1]}))
    return BridgePlan(pairs, "image", "all", {}, *depths, layout=layout, **changes)


def fuse(pair: tuple[Named, Named], layout: str, fresh: bool = False, **changes: Any) -> tuple[Fusion, list[Runnable]]:
    """`fresh` is for tests that change the models."""
    sides = [(opened if fresh else shared)(named, seed) for seed, named in enumerate(pair)]
    torch.manual_seed(7)
    plan = plan_for(sides, layout, **changes)
    return Fusion(sides[0].tower, sides[1].tower, plan, (sides[0].run, sides[1].run)), sides


def open_gates(fusion: Fusion) -> Fusion:
    for name, parameter in fusion.bridges.named_parameters():
        if "gate" in name:
            torch.nn.init.constant_(parameter, 0.7)
    return fusion


def one_way(fusion: Fusion, sides: list[Runnable]) -> torch.Tensor:
    states = fusion.read(sides[0].run)
    with fusion.reading(states):
        return tensors(sides[1].run())


def everything(batch: int = 2) -> tuple[SequencePlaces, SequencePlaces]:
    """Both towers' tokens as one image: all see all."""
    ones = torch.ones(batch, 1, dtype=torch.bool)
    return (SequencePlaces(torch.zeros(batch, 1), ~ones, ones),) * 2


@pytest.mark.parametrize("layout", list(BRIDGES))
@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_one_way(pair, layout):
    """The identity bit for bit at gate 0; at open gates gradients of the second tower reach the first."""
    fusion, sides = fuse(pair, layout)
    with torch.no_grad():
        bare = tensors(sides[1].run())
        assert torch.equal(one_way(fusion, sides), bare)
    first = fusion.understanding.requires_grad_(True)
    output = one_way(open_gates(fusion), sides)
    assert not torch.equal(output, bare)
    output.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in first.parameters())
    for name, parameter in fusion.bridges[0].named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert traces(fusion) == (0, [])


@pytest.mark.parametrize("layout", ["H", "dense", "double fusion"])
@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_both_ways(pair, layout):
    fusion, sides = fuse(pair, layout, both_ways=True)
    with torch.no_grad():
        bare = [tensors(side.run()) for side in sides]
        both = [tensors(each) for each in fusion.together(sides[0].run, sides[1].run, everything())]
        assert all(torch.equal(a, b) for a, b in zip(both, bare, strict=True))
    open_gates(fusion)
    for reader in (0, 1):
        other = (fusion.understanding, fusion.generation)[1 - reader].requires_grad_(True)
        output = tensors(fusion.together(sides[0].run, sides[1].run, everything())[reader])
        assert not torch.equal(output, bare[reader])
        output.square().mean().backward()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in other.parameters())
    assert traces(fusion) == (0, [])


@pytest.mark.parametrize("layout", ["double fusion", "last", "soft"])
@pytest.mark.parametrize("pair", OUTSIDE, ids=label)
def test_towers_without_attention_to_enter(pair, layout):
    fusion, sides = fuse(pair, layout)
    with torch.no_grad():
        bare = tensors(sides[1].run())
        assert torch.equal(one_way(fusion, sides), bare)
        assert not torch.equal(one_way(open_gates(fusion), sides), bare)


@pytest.mark.parametrize("layout", ["H", "dense", "double fusion"])
def test_noise_is_read_by_nobody(layout):
    """Both ways at open gates, understanding depends on a clean image before it, and not on a noisy one."""
    fusion, sides = fuse(PAIRS[0], layout, both_ways=True)
    open_gates(fusion)
    fusion.generation.requires_grad_(True)
    ones = torch.ones(2, 1, dtype=torch.bool)
    text = SequencePlaces(torch.zeros(2, 1), ~ones, ones)
    for noise, place in ((True, 1), (False, -1)):
        image = SequencePlaces(torch.full((2, 1), place), ones & noise, ones)
        output, _ = fusion.together(sides[0].run, sides[1].run, (text, image))
        fusion.generation.zero_grad()
        tensors(output).square().sum().backward()
        moved = [p.grad.abs().max() > 0 for p in fusion.generation.parameters() if p.grad is not None]
        assert any(moved) != noise


@pytest.mark.parametrize("layout", list(BRIDGES))
@torch.no_grad()
def test_streams_in_another_order_than_the_joint_sequence(layout):
    """Flux attends to text, then image; a bridge of both streams has image first."""
    fusion, sides = fuse(
        (LM, Named("FluxTransformer2DModel", stream="both")), layout, both_ways=not LAYOUTS[layout].one_way
    )
    bare = tensors(sides[1].run())
    assert torch.equal(one_way(fusion, sides), bare)
    if not LAYOUTS[layout].one_way:
        assert torch.equal(tensors(fusion.together(sides[0].run, sides[1].run, everything())[1]), bare)
    assert not torch.equal(one_way(open_gates(fusion), sides), bare)


def in_half(sides: list[Runnable]) -> list[Runnable]:
    """The same towers in bfloat16, their inputs with them."""

    def halve(side: Runnable) -> Runnable:
        model = side.tower.model.to(torch.bfloat16)

        def enter(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            return args, {
                name: value.to(torch.bfloat16)
                if isinstance(value, torch.Tensor) and value.is_floating_point()
                else value
                for name, value in kwargs.items()
            }

        model.register_forward_pre_hook(enter, with_kwargs=True)
        return side

    return [halve(side) for side in sides]


@pytest.mark.parametrize("layout", list(BRIDGES))
@pytest.mark.parametrize("generation", ["Lumina2Transformer2DModel", "SD3Transformer2DModel"])
@pytest.mark.parametrize("mode", ["autocast", "bfloat16 towers"])
def test_bridges_in_float32_join_towers_in_bfloat16(mode, generation, layout):
    pair = (LLAVA._replace(stream="image"), Named(generation, stream="image"))
    fusion, sides = fuse(pair, layout, fresh=True, both_ways=not LAYOUTS[layout].one_way)
    sides = in_half(sides) if mode != "autocast" else sides

    def run(both: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            if both:
                return torch.cat([tensors(each) for each in fusion.together(sides[0].run, sides[1].run, everything())])
            return torch.cat([tensors(sides[0].run()), one_way(fusion, sides)])

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        bare = torch.cat([tensors(side.run()) for side in sides])
    for both in (False, True)[: 1 + (not LAYOUTS[layout].one_way)]:
        with torch.no_grad():
            assert torch.equal(run(both), bare)
    open_gates(fusion)
    output = run(both)
    assert not torch.equal(output, bare)
    output.float().square().mean().backward()
    for name, parameter in fusion.bridges[0].named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_padding_of_the_generation_tower_is_not_read():
    """A block of its own behind a pair must not show a tower the padding that its own attention hides."""
    fusion, sides = fuse((LM, Named("Qwen3ForCausalLM (text LM)")), "double fusion")
    open_gates(fusion)
    states = fusion.read(sides[0].run)
    ids = torch.randint(0, 50, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[:, 4:] = 0
    outputs = []
    for filler in (1, 7):
        with fusion.reading(states):
            outputs.append(fusion.generation(input_ids=ids.masked_fill(mask == 0, filler), attention_mask=mask).logits)
    assert torch.equal(outputs[0][:, :4], outputs[1][:, :4])


def test_one_forward_pass_is_read():
    fusion, sides = fuse((LM, SD3), "H")
    with pytest.raises(RuntimeError, match=r"layers.0' ran twice in what is read: run one forward pass"):
        fusion.read(lambda: [sides[0].run(), sides[0].run()])
    assert traces(fusion) == (0, [])


@torch.no_grad()
def test_padding_that_cannot_be_read_off_a_mask_is_asked_for():
    fusion, sides = fuse((LM, SD3), "H")
    open_gates(fusion)
    ids = torch.randint(5, 50, (2, 6), generator=torch.Generator().manual_seed(0))
    real = torch.ones(2, 6, dtype=torch.bool)
    real[:, 4:] = False
    four = (torch.ones(6, 6).tril().bool() & real[:, None])[:, None]  # (batch, head, query, key)

    def read(given: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        states = fusion.read(lambda: fusion.understanding(input_ids=ids, attention_mask=given), mask)
        with fusion.reading(states):
            return tensors(sides[1].run())

    with pytest.raises(ValueError, match=r"'attention_mask' .* pass mask, \(batch, token\), False at padding"):
        read(four)
    torch.testing.assert_close(read(four, mask=real), read(real.long()))


def test_values_of_another_width_than_keys_are_refused():
    """Multi-head latent attention: a bridge inside would take values for keys' heads."""
    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=60, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=4, num_experts_per_tok=2,
        n_group=1, topk_group=1, kv_lora_rank=8, q_lora_rank=16, qk_rope_head_dim=4, v_head_dim=6, qk_nope_head_dim=8,
        first_k_dense_replace=2,
    )  # fmt: skip
    model = DeepseekV3Model(config).eval()
    inputs = {"input_ids": torch.randint(5, 60, (2, 7))}
    tower, generation = find_tower(model, inputs), opened(SD3)
    runs = (lambda: model(**inputs)), generation.run
    plan = BridgePlan(((0, 0),), "image", "all", {}, 2, 4)
    with pytest.raises(ValueError, match=r"layers.0' attends with queries of 12 dims and values of 6: bridge at block"):
        Fusion(tower, generation.tower, plan, runs)
    Fusion(tower, generation.tower, replace(plan, layout="double fusion"), runs)


def test_bridges_without_gates_may_not_hide_each_other():
    """Inside attention, an ungated bridge replaces what the one before it gave."""
    sides = [shared(named, seed) for seed, named in enumerate((LM, SD3))]
    depths = [len(side.tower.blocks) for side in sides]
    plan = BridgePlan(((0, 1), (1, 1)), "image", "all", {}, *depths, layout="dense", gated=False)
    with pytest.raises(ValueError, match="bridges 0-1 and 1-1 enter the same attention, and without gates the last"):
        Fusion(sides[0].tower, sides[1].tower, plan, (sides[0].run, sides[1].run))
    Fusion(sides[0].tower, sides[1].tower, replace(plan, gated=True), (sides[0].run, sides[1].run))


def test_a_block_that_meets_several_reads_the_first_and_is_read_by_all():
    sides = [shared(named, seed) for seed, named in enumerate(PAIRS[0])]
    last = len(sides[0].tower.blocks) - 1
    plan = BridgePlan(
        ((last, 1), (last, 2), (last, 3)), "image", "all", {}, last + 1, len(sides[1].tower.blocks),
        layout="double fusion", both_ways=True,
    )  # fmt: skip
    fusion = open_gates(Fusion(sides[0].tower, sides[1].tower, plan, (sides[0].run, sides[1].run)))
    with torch.no_grad():
        whole = [tensors(each) for each in fusion.together(sides[0].run, sides[1].run, everything())]
        without = []
        for number in range(3):
            fusion.disabled_bridges = {number}
            without.append([tensors(each) for each in fusion.together(sides[0].run, sides[1].run, everything())])
    assert [torch.equal(whole[0], each[0]) for each in without] == [False, True, True]
    assert not any(torch.equal(whole[1], each[1]) for each in without)


def test_a_new_bridge_needs_no_more_than_its_name_in_the_registry(monkeypatch):
    class Mean(Bridge):
        """The other tower's mean, through a map that is zero at first."""

        inside = False

        def __init__(self, understanding, generation, gated, rank, both_ways) -> None:
            super().__init__()
            self.gate_map = torch.nn.Linear(understanding.width, generation.width, bias=False)
            torch.nn.init.zeros_(self.gate_map.weight)

        def keys_values(self, side, own) -> KeysValues:
            return KeysValues(own, own)

        def attend(self, side, own, mine, other, visibility) -> torch.Tensor:
            return own + self.gate_map(other.value.mean(1, keepdim=True))

    monkeypatch.setitem(BRIDGES, "dense", Mean)
    fusion, sides = fuse(PAIRS[0], "dense")
    with torch.no_grad():
        bare = tensors(sides[1].run())
        assert torch.equal(one_way(fusion, sides), bare)
        assert not torch.equal(one_way(open_gates(fusion), sides), bare)


def test_batches_of_other_sizes_are_refused():
    fusion, sides = fuse(PAIRS[0], "H")
    states = fusion.read(sides[0].run)
    halved = states._replace(handed=tuple(type(h)(h.key[:1], h.value[:1]) for h in states.handed))
    told = "bridge 0-0 joins batches of 2 and 1 samples: give both towers the same"
    with pytest.raises(ValueError, match=told), fusion.reading(halved):
        sides[1].run()
    assert traces(fusion) == (0, [])


def test_one_way_plans_do_not_run_together():
    fusion, sides = fuse(PAIRS[0], "H")
    with pytest.raises(ValueError, match="this plan runs one way: use read and reading, or plan both_ways=True"):
        fusion.together(sides[0].run, sides[1].run, everything())


def test_layers_that_towers_do_not_have_are_refused():
    sides = [shared(named, seed) for seed, named in enumerate(PAIRS[0])]
    plan = BridgePlan(((0, 0),), "image", "all", {}, 9, 9)
    with pytest.raises(ValueError, match=r"the plan is for towers of 9 and 9 blocks, LlavaFor.* have 4 and 4"):
        Fusion(sides[0].tower, sides[1].tower, plan, (sides[0].run, sides[1].run))


@torch.no_grad()
def test_a_causal_tower_that_reads_stays_causal_by_its_places():
    """A language model as the second tower: with places no logit depends on later tokens, without them it does."""
    fusion, sides = fuse((PAIRS[0][0], LM), "double fusion", gated=False)
    for parameter in fusion.bridges.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    states = fusion.read(sides[0].run)
    ids = torch.arange(5, 13)[None].expand(2, -1)
    text = text_after(torch.ones(2, 8, dtype=torch.bool), 1)
    before = SequencePlaces(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool))
    for places in ((before, text), None):
        outs = []
        for last in (7, 9):
            with fusion.reading(states, places):
                outs.append(fusion.generation(torch.cat([ids[:, :-1], torch.full((2, 1), last)], 1))[0])
        assert torch.equal(outs[0][:, :-1], outs[1][:, :-1]) == (places is not None)
        assert not torch.equal(outs[0][:, -1], outs[1][:, -1])


@pytest.mark.parametrize("layout", ["H", "double fusion"])
@pytest.mark.parametrize("side", [0, 1], ids=["understanding", "generation"])
def test_a_bridged_block_that_a_pass_skips_is_named(side, layout, monkeypatch):
    """Layerdrop and early exit leave blocks out: there would be no bridge, and nobody would say so."""
    fusion, sides = fuse((LM, Named("Qwen3ForCausalLM (text LM)")), layout, both_ways=True)
    path = sides[side].tower.blocks[fusion.plan.pairs[0][side]]
    parent, _, number = path.rpartition(".")
    stack: Any = sides[side].tower.model.get_submodule(parent)
    monkeypatch.setattr(type(stack), "__iter__", lambda blocks: (b for b in blocks._modules.values() if b is not left))
    left = stack[int(number)]
    message = rf"block '{path}' of .* never ran in this pass.*model.eval\(\)"
    with torch.no_grad():
        with pytest.raises(ValueError, match=message):
            one_way(fusion, sides)
        with pytest.raises(ValueError, match=message):
            fusion.together(sides[0].run, sides[1].run, everything())
    assert traces(*(each.tower.model for each in sides)) == (0, [])
