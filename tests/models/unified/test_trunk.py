"""The trunk: what is shared is shared, who may see whom, and nothing passes a block that is not its own."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig

from bridgework.models.towers.attention_masks import SequencePlaces
from bridgework.models.unified.trunk import Trunk, TrunkTokens, sequence_places
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.layouts import lay_out

DEPTH = 5
PLANS = {
    "shared": lay_out("shared", DEPTH, DEPTH),
    **{f"Y {fork}": lay_out("Y", DEPTH, DEPTH, fork=fork) for fork in range(1, DEPTH)},
    **{f"X {a} {b}": lay_out("X", DEPTH, DEPTH, ends=(a, b)) for a, b in ((1, 1), (1, 3), (3, 1), (2, 2))},
}
KINDS = "tttiiiitt"  # text, an image, text


def build(plan: BridgePlan) -> Trunk:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=9, hidden_size=16, intermediate_size=24, num_hidden_layers=DEPTH, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    return Trunk(config, plan).eval()


@pytest.fixture(params=PLANS)
def trunk(request) -> Trunk:
    return build(PLANS[request.param])


def tokens(states: torch.Tensor, noise: bool = False, apart: bool = False) -> TrunkTokens:
    image = torch.tensor([[kind == "i" for kind in KINDS]]).expand(states.shape[:2])
    return TrunkTokens(
        states, image, SequencePlaces(sequence_places(image, apart), image & noise, torch.ones_like(image))
    )


def states(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, len(KINDS), 16, generator=torch.Generator().manual_seed(1))


def moved(trunk: Trunk, at: int, generation: bool, **kinds: bool) -> str:
    """Where the outcome changes, to the bit, when the token at one place does: "x" or "."."""
    before, after = states(), states()
    after[:, at] += 1
    with torch.no_grad():
        one, other = (trunk(tokens(each, **kinds), generation) for each in (before, after))
    changed = (one != other).any(2).all(0)
    assert torch.equal(changed, (one != other).any(2).any(0))
    return "".join("x" if each else "." for each in changed)


@pytest.mark.parametrize("generation", [False, True])
def test_text_is_causal_and_the_tokens_of_an_image_see_each_other(trunk, generation):
    assert moved(trunk, 2, generation) == "..xxxxxxx"
    assert moved(trunk, 5, generation) == "...xxxxxx"
    assert moved(trunk, 7, generation) == ".......xx"


def test_noise_is_seen_by_nobody_else(trunk):
    assert moved(trunk, 5, True, noise=True) == "...xxxx.."
    assert moved(trunk, 1, True, noise=True) == ".xxxxxxxx"


def test_images_apart_are_causal(trunk):
    assert moved(trunk, 5, False, apart=True) == ".....xxxx"


def test_padding_changes_nothing(trunk):
    short = tokens(states())
    filler = torch.full((2, 3, 16), 7.0)
    none = torch.zeros(2, 3, dtype=torch.bool)
    places = SequencePlaces(*(torch.cat([each, none.to(each.dtype)], 1) for each in short.places))
    longer = TrunkTokens(torch.cat([short.states, filler], 1), torch.cat([short.image, none], 1), places)
    with torch.no_grad():
        torch.testing.assert_close(trunk(longer, True)[:, :-3], trunk(short, True), rtol=0, atol=1e-5)


@torch.no_grad()
def test_rows_of_different_kinds_stay_apart(trunk):
    """A row without an image among rows that have one gives what it gives alone."""
    mixed = tokens(states())
    image = mixed.image.clone()
    image[1] = False
    places = SequencePlaces(sequence_places(image, False), torch.zeros_like(image), torch.ones_like(image))
    both = trunk(TrunkTokens(mixed.states, image, places), True)
    for row in range(2):
        alone = TrunkTokens(
            mixed.states[row : row + 1], image[row : row + 1], SequencePlaces(*(each[row : row + 1] for each in places))
        )
        torch.testing.assert_close(both[row : row + 1], trunk(alone, True), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PLANS)
def test_parameters_are_counted_by_layout(name):
    trunk, plan = build(PLANS[name]), PLANS[name]
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in trunk.named_children()}
    block = sum(p.numel() for p in trunk.layers[0].parameters())
    assert counts["layers"] == DEPTH * block
    assert counts["own_layers"] == (DEPTH - len(plan.pairs)) * block
    assert counts.get("own_norm", 0) == (16 if plan.layout == "Y" else 0)
    storages = {p.data_ptr() for p in trunk.parameters()}
    assert len(storages) == len(list(trunk.parameters()))


@pytest.mark.parametrize("fork", range(1, DEPTH))
@torch.no_grad()
def test_branches_of_a_y_part_behind_the_fork(fork):
    trunk = build(PLANS[f"Y {fork}"])
    before = [trunk(tokens(states()), generation) for generation in (False, True)]
    for parameter in [*trunk.own_layers.parameters(), *trunk.own_norm.parameters()]:
        parameter.mul_(1.5)
    after = [trunk(tokens(states()), generation) for generation in (False, True)]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert sorted(trunk.own_layers) == [str(number) for number in range(fork, DEPTH)]


@pytest.mark.parametrize("name", [name for name in PLANS if name.startswith("X")])
@torch.no_grad()
def test_ends_of_an_x_keep_modalities_apart(name):
    trunk, plan = build(PLANS[name]), PLANS[name]
    first, behind = plan.pairs[0][0], plan.pairs[-1][0] + 1
    entering = {}
    trunk.layers[first].register_forward_pre_hook(lambda _, inputs: entering.setdefault("first", []).append(inputs[0]))
    other = states()
    other[:, 0] += 1  # a text token, before the image
    outs = [trunk(tokens(each), False) for each in (states(), other)]
    image = tokens(states()).image
    one, two = entering["first"]
    assert torch.equal(one[image], two[image])
    assert (one[~image] != two[~image]).any(1).all()
    assert (outs[0][image] != outs[1][image]).any(1).all()  # in the middle they have met

    for parameter in trunk.layers[behind].parameters():  # a text block of the last end
        parameter.mul_(1.5)
    changed = (trunk(tokens(states()), False) != outs[0]).any(2)
    assert torch.equal(changed, ~image)


@pytest.mark.parametrize("name", ["shared", "Y 2", "X 1 1"])
@torch.no_grad()
def test_twins_change_nothing_but_where_modalities_part(name):
    trunk, plan = build(PLANS[name]), PLANS[name]
    named = trunk.twin()
    assert set(named) == {n for n, _ in trunk.named_parameters() if n.startswith("own_")}
    whole = build(PLANS["shared"])
    whole.load_state_dict({n: p for n, p in trunk.state_dict().items() if not n.startswith("own_")})
    same = [torch.equal(trunk(tokens(states()), g), whole(tokens(states()), g)) for g in (False, True)]
    assert same == [plan.layout != "X"] * 2


@torch.no_grad()
def test_step_by_step_is_the_whole(trunk):
    """Text, then an image token by token, the second row's text padded."""
    text, images = 3, 4
    image = torch.tensor([[False] * text + [True] * images]).expand(2, -1)
    real = torch.ones_like(image)
    real[1, 2] = False
    places = SequencePlaces(sequence_places(image, True), torch.zeros_like(image), real)
    whole = trunk(TrunkTokens(states()[:, : text + images], image, places), True)
    cache, first = DynamicCache(), text + 1
    start = TrunkTokens(states()[:, :first], image[:, :first], SequencePlaces(*(each[:, :first] for each in places)))
    outs = [trunk(start, True, cache)[:, -1:]]
    outs += [trunk.step(states()[:, i : i + 1], real[:, :i], cache) for i in range(first, text + images)]
    torch.testing.assert_close(torch.cat(outs, 1), whole[:, text:], rtol=0, atol=1e-5)


def test_a_plan_for_two_towers_is_refused():
    with pytest.raises(ValueError, match=r"'H' joins two towers: build a FusedModel, or plan one of shared, Y, X"):
        build(lay_out("H", DEPTH, DEPTH))


def test_a_plan_of_another_depth_is_refused():
    with pytest.raises(ValueError, match="trunk of 7 blocks, the text model has 5"):
        build(lay_out("Y", 7, 7))
