"""Each bridge against its formula written out, its start, and what it may not see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bridgework.models.bridges.bridge import KeysValues, Visibility
from bridgework.models.bridges.registry import BRIDGES
from bridgework.models.towers.tower import BlockWidths
from bridgework.probes.hooks.attention_calls import AttentionCall
from bridgework.probes.plans.layout_table import LAYOUTS

# Understanding: 4 heads of 8, in two groups; generation: 2 heads of 6.
UNDERSTANDING, GENERATION = BlockWidths(32, 4, 8), BlockWidths(12, 2, 6)
ALL = Visibility()
KINDS = list(BRIDGES)
ONE_WAY = [kind for kind in KINDS if LAYOUTS[kind].one_way]
TWO_WAYS = [kind for kind in KINDS if kind not in ONE_WAY]
LAYERS = 3  # that are stacked for a bridge that reads them all


def build(kind: str, gated: bool = True, rank: int | None = None, both_ways: bool = False, random: bool = True) -> Any:
    torch.manual_seed(0)
    mixed = [range(LAYERS)] if BRIDGES[kind].reads_all else []
    bridge = BRIDGES[kind](UNDERSTANDING, GENERATION, gated, rank, both_ways, *mixed).double()
    if random:
        for parameter in bridge.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return bridge


def attended(side: int, tokens: int, seed: int = 0, key_heads: int | None = None, **changes) -> AttentionCall:
    heads, dim = (UNDERSTANDING, GENERATION)[side][1:3]
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.randn(2, count, tokens, dim, generator=generator, dtype=torch.float64)

    query, key, value = draw(heads), draw(key_heads or heads), draw(key_heads or heads)
    mask = changes.get("mask")
    own = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True, scale=changes.get("scale"))
    return AttentionCall(query, key, value, own, mask, changes.get("scale"), changes.get("reads", slice(None)))


def state(side: int, tokens: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, tokens, (UNDERSTANDING, GENERATION)[side].width, generator=generator, dtype=torch.float64)


def sides(kind: str, tokens: tuple[int, int] = (3, 5)) -> tuple[Any, Any]:
    """What either tower has at the bridge: attention, or states."""
    if BRIDGES[kind].inside:
        return attended(0, tokens[0], 1, key_heads=2), attended(1, tokens[1], 2)
    if BRIDGES[kind].reads_all:
        layers = [10**layer * state(0, tokens[0], layer) for layer in range(LAYERS)]
        return BRIDGES[kind].stack_states(layers), state(1, tokens[1], 2)
    return state(0, tokens[0], 1), state(1, tokens[1], 2)


def own_of(own: AttentionCall | Tensor) -> Tensor:
    return own.own if isinstance(own, AttentionCall) else own


def joined(bridge, side: int, both, seen: Visibility = ALL) -> Tensor:
    handed = [bridge.keys_values(each, both[each]) for each in (0, 1)]
    return bridge.attend(side, both[side], handed[side], handed[1 - side], seen)


def softmax(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return (query @ key.T * scale).softmax(-1) @ value


def test_shared_attention_by_its_formula():
    """One softmax over the tokens of both in the understanding head space, written out (HBridge)."""
    bridge = build("H")
    text, image = sides("H")
    mask = torch.tensor([[True, True, False], [True, True, True]])
    out = joined(bridge, 1, (text, image), Visibility(other=mask[:, None]))
    q, k, v, o = (x.transpose(1, 2).flatten(2) for x in (image.query, image.key, image.value, image.own))
    tk, tv = (x.repeat_interleave(2, 1).transpose(1, 2).flatten(2) for x in (text.key, text.value))
    for sample in range(2):
        count = int(mask[sample].sum())
        keys = torch.cat([k[sample] @ bridge.key.weight.T, (tk[sample] @ bridge.text_key.weight.T)[:count]])
        values = torch.cat([v[sample] @ bridge.value.weight.T, (tv[sample] @ bridge.text_value.weight.T)[:count]])
        queries = q[sample] @ bridge.query.weight.T
        parts = [slice(8 * head, 8 * head + 8) for head in range(4)]
        joint = torch.cat([softmax(queries[:, p], keys[:, p], values[:, p], 8**-0.5) for p in parts], 1)
        joint = joint @ bridge.back.weight.T
        expected = o[sample] + bridge.gate * (joint - o[sample])
        torch.testing.assert_close(out[sample].transpose(0, 1).flatten(1), expected)


@pytest.mark.parametrize("side", [0, 1])
def test_joint_attention_by_its_formula(side):
    """Each tower's queries over both towers' keys, in its own head space; ungated, nothing of its own is kept."""
    bridge = build("dense", gated=False, both_ways=True)
    both = sides("dense")
    mine, other = both[side], both[1 - side]
    out = joined(bridge, side, both)
    maps = [linear.weight for linear in bridge.maps[1 - side]]
    heads = mine.query.shape[1]
    for sample in range(2):
        rows = [x.repeat_interleave(other.query.shape[1] // x.shape[1], 1)[sample] for x in (other.key, other.value)]
        key, value = (
            (x.transpose(0, 1).flatten(1) @ weight.T).unflatten(1, (heads, -1)).transpose(0, 1)
            for x, weight in zip(rows, maps, strict=True)
        )
        for head in range(heads):
            group = head // (heads // mine.key.shape[1])
            keys = torch.cat([mine.key[sample, group], key[head]])
            values = torch.cat([mine.value[sample, group], value[head]])
            expected = softmax(mine.query[sample, head], keys, values, mine.query.shape[-1] ** -0.5)
            torch.testing.assert_close(out[sample, head], expected)


@pytest.mark.parametrize("side", [0, 1])
def test_a_fusion_block_by_its_formula(side):
    """Self-attention over the normed tokens of both, added by an output projection (LightFusion)."""
    bridge = build("double fusion", gated=False, both_ways=True)
    both = sides("double fusion")
    out = joined(bridge, side, both)
    normed = [F.layer_norm(x, x.shape[2:], norm.weight, norm.bias) for x, norm in zip(both, bridge.norms, strict=True)]
    query = normed[side] @ bridge.queries[side].weight.T
    order = (side, 1 - side)
    key, value = (torch.cat([normed[s] @ maps[s].weight.T for s in order], 1) for maps in (bridge.keys, bridge.values))
    for sample in range(2):
        joint = softmax(query[sample], key[sample], value[sample], 12**-0.5)  # one head: 12 is below 64
        torch.testing.assert_close(out[sample], both[side][sample] + joint @ bridge.outs[side].weight.T)


def test_cross_attention_by_its_formula():
    bridge = build("last")
    both = sides("last")
    mask = torch.tensor([[True, True, False], [True, True, True]])
    out = joined(bridge, 1, both, Visibility(other=mask[:, None]))
    text, image = (F.layer_norm(x, x.shape[2:], n.weight, n.bias) for x, n in zip(both, bridge.norms, strict=True))
    for sample in range(2):
        seen = text[sample][: int(mask[sample].sum())]
        key, value = seen @ bridge.key.weight.T, seen @ bridge.value.weight.T
        joint = softmax(image[sample] @ bridge.query.weight.T, key, value, 12**-0.5) @ bridge.out.weight.T
        torch.testing.assert_close(out[sample], both[1][sample] + bridge.gate * joint)


def test_a_mix_is_uniform_at_first_and_convex_whatever_is_learnt():
    new = build("soft", random=False).layer_weights()
    assert torch.equal(new, torch.full((LAYERS,), 1 / LAYERS, dtype=torch.float64))
    learnt = build("soft").layer_weights().detach()
    assert (learnt > 0).all() and learnt.sum() == pytest.approx(1)
    assert learnt.max() > 1.2 * learnt.min()


def test_a_mix_by_its_formula():
    """Each layer is normalised, so that layers of any scale weigh alike; then it is cross-attention."""
    soft, plain = build("soft"), build("last")
    plain.load_state_dict({name: value for name, value in soft.state_dict().items() if name != "mix"})
    layers = [state(0, 3, 1), 1000 * state(0, 3, 2), state(0, 3, 3) - 7]
    normed = [(x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 1e-5).sqrt() for x in layers]
    mixed = sum(weight * layer for weight, layer in zip(soft.mix.softmax(0), normed, strict=True))
    image = state(1, 5)
    out = joined(soft, 1, (soft.stack_states(layers), image))
    torch.testing.assert_close(out, joined(plain, 1, (mixed, image)))
    assert not torch.allclose(out, joined(plain, 1, (normed[0], image)))


def test_blocks_with_other_tokens_cannot_be_mixed():
    with pytest.raises(ValueError, match=r"blocks of 3, 4 tokens cannot be mixed: name blocks .*, as the plan's taps"):
        BRIDGES["soft"].stack_states([state(0, 4), state(0, 3)])


@pytest.mark.parametrize("place", range(LAYERS))
def test_a_mix_of_one_layer_is_cross_attention_to_it(place):
    soft, plain = BRIDGES["soft"](UNDERSTANDING, GENERATION, True, None, False, [place]).double(), build("last")
    soft.load_state_dict(plain.state_dict(), strict=False)
    stacked, image = sides("soft")
    assert torch.equal(joined(soft, 1, (stacked, image)), joined(plain, 1, (stacked[place], image)))


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(
    ("kind", "gated"), [*((kind, True) for kind in KINDS), *((kind, False) for kind in ("double fusion", *ONE_WAY))]
)
def test_at_first_the_towers_are_untouched_bit_for_bit(kind, gated, rank):
    bridge = build(kind, gated, rank, both_ways=kind not in ONE_WAY, random=False)
    both = sides(kind)
    for side in (1,) if kind in ONE_WAY else (0, 1):
        assert torch.equal(joined(bridge, side, both), own_of(both[side]))


@pytest.mark.parametrize("kind", ["H", "dense"])
def test_ungated_joint_attention_is_never_the_identity(kind):
    both = sides(kind)
    out = joined(build(kind, gated=False, random=False), 1, both)
    assert (out - both[1].own).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["H", "dense"])
def test_a_new_bridge_that_sees_no_text_is_the_blocks_own_attention(kind):
    """The start is an embedding of heads: exact here, where the understanding heads are more and wider."""
    both = sides(kind)
    unseen = Visibility(other=torch.zeros(2, 1, 3, dtype=torch.bool))
    out = joined(build(kind, gated=False, random=False), 1, both, unseen)
    torch.testing.assert_close(out, both[1].own)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_does_not_matter(kind):
    bridge = build(kind)
    text, image = sides(kind)
    other = sides(kind)[0]
    if isinstance(other, AttentionCall):
        other.key[:, :, 2], other.value[:, :, 2] = 5.0, -7.0
    else:
        other[..., 2, :] = 5.0
        other[..., 2, ::2] = -9.0
    seen = Visibility(other=torch.tensor([[[True, True, False]]]).expand(2, -1, -1))
    assert torch.equal(joined(bridge, 1, (text, image), seen), joined(bridge, 1, (other, image), seen))
    assert not torch.equal(joined(bridge, 1, (text, image)), joined(bridge, 1, (other, image)))


@pytest.mark.parametrize("kind", ["H", "dense"])
def test_a_blocks_own_mask_still_holds(kind):
    bridge = build(kind, both_ways=True)
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    text = attended(0, 3, 1, mask=causal)
    later = text._replace(key=text.key.clone(), value=text.value.clone())
    later.key[:, :, 2] = 4.0
    image = attended(1, 5, 2)
    one, other = (joined(bridge, 0, (each, image)) for each in (text, later))
    assert torch.equal(one[:, :, :2], other[:, :, :2])
    assert not torch.equal(one[:, :, 2], other[:, :, 2])


def test_a_mask_of_other_heads_holds_in_the_understanding_head_space():
    """diffusers hands a padding mask to every head; H attends in other heads."""
    bridge, text = build("H"), attended(0, 3, 1)
    padding = torch.tensor([True, True, True, True, False])
    outs = []
    for mask in (padding.view(1, 1, 1, 5), padding.expand(2, 2, 1, 5)):
        outs.append(joined(bridge, 1, (text, attended(1, 5, 2, mask=mask))))
    torch.testing.assert_close(*outs)
    relative = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ValueError, match="masks each of its 2 heads otherwise, and attention is in the 4"):
        joined(bridge, 1, (text, attended(1, 5, 2, mask=relative)))


@pytest.mark.parametrize("kind", ["H", "dense"])
def test_only_the_tokens_of_the_stream_read(kind):
    bridge = build(kind)
    text, _ = sides(kind)
    image = attended(1, 5, 2, reads=slice(0, 3))
    out = joined(bridge, 1, (text, image))
    assert torch.equal(out[:, :, 3:], image.own[:, :, 3:])
    assert not torch.equal(out[:, :, :3], image.own[:, :, :3])
    whole = joined(bridge, 1, (text, image._replace(reads=slice(None))))
    torch.testing.assert_close(out[:, :, :3], whole[:, :, :3])


@pytest.mark.parametrize("kind", ["H", "dense"])
def test_tokens_read_in_another_order_are_put_back_in_their_places(kind):
    bridge = build(kind)
    text, image = sides(kind)
    order = torch.tensor([3, 4, 0, 1, 2])
    out = joined(bridge, 1, (text, image._replace(reads=order)))
    torch.testing.assert_close(out, joined(bridge, 1, (text, image)))


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_a_scale_of_the_towers_own_is_kept(scale):
    """Without text, a new bridge at an open gate is the block's attention, whatever the block divides by."""
    image = attended(1, 5, 2, scale=scale)
    unseen = Visibility(other=torch.zeros(2, 1, 3, dtype=torch.bool))
    for kind in ("H", "dense"):
        out = joined(build(kind, gated=False, random=False), 1, (attended(0, 3, 1), image), unseen)
        torch.testing.assert_close(out, image.own)


@pytest.mark.parametrize("kind", KINDS)
def test_rank_sets_the_number_of_parameters(kind):
    counts = [sum(p.numel() for p in build(kind, rank=rank).parameters()) for rank in (1, 2, 3)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0
    assert counts[2] < sum(p.numel() for p in build(kind).parameters())


@pytest.mark.parametrize(("kind", "both_ways"), [*((k, False) for k in KINDS), *((k, True) for k in TWO_WAYS)])
@pytest.mark.parametrize("gated", [False, True])
def test_every_parameter_learns(kind, both_ways, gated):
    bridge = build(kind, gated, 2, both_ways)
    both = sides(kind)
    outs = [joined(bridge, side, both).square().sum() for side in ((0, 1) if both_ways else (1,))]
    torch.stack(outs).sum().backward()
    for name, parameter in bridge.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", TWO_WAYS)
def test_one_way_has_no_parameters_for_the_other(kind):
    one, two = (sum(p.numel() for p in build(kind, both_ways=ways).parameters()) for ways in (False, True))
    assert one < two


def test_handed_is_keys_and_values_by_head():
    for kind in KINDS:
        bridge = build(kind)
        handed = bridge.keys_values(0, sides(kind)[0])
        assert isinstance(handed, KeysValues) and handed.key.shape == handed.value.shape
        assert handed.key.shape[:1] + handed.key.shape[2:3] == (2, 3)
