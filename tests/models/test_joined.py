"""Real bridges between any two models: untouched at gate 0, gradients into the other tower elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bridgework.models.bridging import BRIDGES
from bridgework.models.joined import Fusion
from bridgework.models.masks import Places
from bridgework.probes.bridges import BridgePlan

from .pairs import OUTSIDE, PAIRS, Named, Runnable, opened, tensors, traces


def label(pair: tuple[Named, Named]) -> str:
    return " x ".join(each.model.split()[0] for each in pair)


def plan_for(sides: list[Runnable], layout: str, **changes: Any) -> BridgePlan:
    """Two bridges, or one where a tower has one block: the first block with the first, the last with the last."""
    inside = BRIDGES[layout].inside
    there = [[n for n, a in enumerate(side.tower.attention) if not (inside and isinstance(a, str))] for side in sides]
    depths = [len(side.tower.blocks) for side in sides]
    count = min(2, *map(len, there))
    pairs = tuple((a, b) for a, b in zip(*(blocks[:1] + blocks[-1:] for blocks in there), strict=True))[:count]
    if layout == "last":
        pairs = tuple((depths[0] - 1, g) for g in sorted({there[1][0], there[1][-1]}))
    return BridgePlan(pairs, "image", "all", {}, *depths, layout=layout, **changes)


def fuse(pair: tuple[Named, Named], layout: str, **changes: Any) -> tuple[Fusion, list[Runnable]]:
    sides = [opened(named, seed) for seed, named in enumerate(pair)]
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


def everything(batch: int = 2) -> tuple[Places, Places]:
    """Both towers' tokens as one image: all see all."""
    ones = torch.ones(batch, 1, dtype=torch.bool)
    return (Places(torch.zeros(batch, 1), ~ones, ones),) * 2


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


@pytest.mark.parametrize("layout", ["double fusion", "last"])
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
    text = Places(torch.zeros(2, 1), ~ones, ones)
    for noise, place in ((True, 1), (False, -1)):
        image = Places(torch.full((2, 1), place), ones & noise, ones)
        output, _ = fusion.together(sides[0].run, sides[1].run, (text, image))
        fusion.generation.zero_grad()
        tensors(output).square().sum().backward()
        moved = [p.grad.abs().max() > 0 for p in fusion.generation.parameters() if p.grad is not None]
        assert any(moved) != noise


def test_a_block_that_meets_several_reads_the_first_and_is_read_by_all():
    sides = [opened(named, seed) for seed, named in enumerate(PAIRS[0])]
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
            fusion.silent = {number}
            without.append([tensors(each) for each in fusion.together(sides[0].run, sides[1].run, everything())])
    assert [torch.equal(whole[0], each[0]) for each in without] == [False, True, True]
    assert not any(torch.equal(whole[1], each[1]) for each in without)


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
    sides = [opened(named, seed) for seed, named in enumerate(PAIRS[0])]
    plan = BridgePlan(((0, 0),), "image", "all", {}, 9, 9)
    with pytest.raises(ValueError, match=r"the plan is for towers of 9 and 9 blocks, LlavaFor.* have 4 and 4"):
        Fusion(sides[0].tower, sides[1].tower, plan, (sides[0].run, sides[1].run))
