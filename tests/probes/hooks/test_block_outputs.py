"""Outputs: what a block returns is read by what went in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bridgework.probes.hooks.block_outputs import hidden_states_of, named_inputs, state_entering, stream_order_from_next
from bridgework.probes.hooks.next_block import OutputTrace

IMAGE, TEXT = torch.zeros(2, 5, 4), torch.ones(2, 3, 4)
DUAL = {"hidden_states": IMAGE, "encoder_hidden_states": TEXT}


@pytest.mark.parametrize("output", [(IMAGE, TEXT), (TEXT, IMAGE)])
def test_dual_streams_are_told_apart_in_either_order(output):
    streams = hidden_states_of("block", DUAL, output)
    assert isinstance(streams, dict)
    assert streams["image"] is IMAGE
    assert streams["text"] is TEXT


def test_a_last_block_without_text():
    assert set(hidden_states_of("block", DUAL, (None, IMAGE))) == {"image"}


def test_single_streams():
    assert hidden_states_of("block", {"hidden_states": IMAGE}, IMAGE) is IMAGE
    assert (
        hidden_states_of("block", {"hidden_states": IMAGE}, (IMAGE, TEXT)) is IMAGE
    )  # attention weights, a cache, ...
    assert hidden_states_of("block", DUAL, (IMAGE, None, None)) is IMAGE
    assert hidden_states_of("block", DUAL, IMAGE) is IMAGE  # cross-attention: text goes in, image alone comes out


def test_streams_of_one_shape_cannot_be_told_apart():
    same = {"hidden_states": IMAGE, "encoder_hidden_states": IMAGE + 1}
    with pytest.raises(ValueError, match=r"'block' has image and text streams of one shape \(2, 5, 4\)"):
        hidden_states_of("block", same, (IMAGE, IMAGE))


@pytest.mark.parametrize(
    ("output", "message"),
    [({"x": 1}, "returned dict"), ((), "a tuple of nothing"), ((None, 1), "a tuple of NoneType, int")],
)
def test_what_is_no_hidden_state(output, message):
    with pytest.raises(TypeError, match=message):
        hidden_states_of("block", {}, output)


def test_streams_of_one_shape_are_told_apart_by_what_the_next_block_is_given():
    image, text = IMAGE.clone(), IMAGE.clone()
    order = stream_order_from_next(
        (text, image), {"encoder_hidden_states": text, "hidden_states": image, "temb": torch.ones(2, 4)}
    )
    assert order == (("encoder_hidden_states", "hidden_states"), False)
    streams = hidden_states_of("block", {}, (text, image), order)
    assert isinstance(streams, dict)
    assert streams["image"] is image and streams["text"] is text
    assert set(hidden_states_of("block", {}, (None, image), order)) == {"image"}
    assert stream_order_from_next((text, image), {"hidden_states": image + 0}) is None  # equal values tell nothing


def test_the_hidden_state_is_what_comes_out_as_it_went_in():
    weights, cache = torch.zeros(2, 4, 5, 5), torch.zeros(2, 5, 1)
    given = {"x": IMAGE, "position_bias": weights}
    assert hidden_states_of("block", given, (weights, IMAGE)) is IMAGE
    assert hidden_states_of("block", given, [IMAGE, weights, cache]) is IMAGE
    assert hidden_states_of("block", given, {"states": IMAGE, "weights": weights}) is IMAGE
    skips = (IMAGE, IMAGE + 1)
    wider = torch.zeros(2, 5, 8)
    assert hidden_states_of("block", {"hidden_states": IMAGE}, (wider, skips)) is wider  # a U-Net's


def test_two_outputs_of_the_inputs_shape_are_told_apart_by_the_next_block():
    """Router logits of as many experts as dims, a memory, a copy of the input: the first need not be the state."""
    logits, state = torch.rand(2, 5, 4), torch.rand(2, 5, 4)
    given = {"hidden_states": IMAGE}
    with pytest.raises(ValueError, match="does not say which is its hidden state"):
        hidden_states_of("block", given, (logits, state))
    for handed in (state, state.detach(), state.view(10, 4), state.clone(), state.double()):
        order = stream_order_from_next((logits, state), {"x": handed})
        assert order == ((None, "x"), False)
        assert hidden_states_of("block", given, (logits, state), order) is state
    assert hidden_states_of("block", given, (state, state)) is state


def test_a_residual_pair_is_its_sum():
    mixed, carried = torch.rand(2, 5, 4), torch.rand(2, 5, 4)
    for handed in ({"hidden_states": mixed, "residual": carried}, {"x": mixed + carried}):
        order = stream_order_from_next((mixed, carried), handed)
        assert order is not None and order.summed
        assert torch.equal(hidden_states_of("block", {}, (mixed, carried), order), mixed + carried)
        assert torch.equal(state_entering(handed, mixed, order), mixed + carried)
    with pytest.raises(ValueError, match=r"a mixture of 2 outputs .* how a residual is added"):
        trace = OutputTrace((mixed, carried))
        with trace:
            handed = mixed + 0.5 * carried
        stream_order_from_next((mixed, carried), {"x": handed}, trace)


def test_a_merged_state_beside_the_one_before_merging():
    """A Swin stage returns (merged, before merging), the second in the shape of its input."""
    merged, before = torch.zeros(2, 4, 8), torch.zeros(2, 16, 8)
    given = {"hidden_states": torch.zeros(2, 16, 8)}
    with pytest.raises(ValueError, match="does not say which is its hidden state"):
        hidden_states_of("stage", given, (merged, before))
    order = stream_order_from_next((merged, before), {"hidden_states": merged})
    assert hidden_states_of("stage", given, (merged, before), order) is merged


def test_streams_of_two_widths():
    """As in Mochi: the text is narrower than the image."""
    image, text = torch.zeros(2, 16, 32), torch.zeros(2, 7, 16)
    streams = hidden_states_of("block", {"hidden_states": image, "encoder_hidden_states": text}, (image, text))
    assert isinstance(streams, dict)
    assert streams["image"] is image and streams["text"] is text


def test_a_nested_tensor_is_refused():
    nested = torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)])
    with pytest.raises(TypeError, match="enable_nested_tensor=False"):
        hidden_states_of("block", {}, nested)


def test_unnamed_streams_keep_the_names_of_their_arguments():
    understood, made = torch.zeros(7, 4), torch.zeros(16, 4)  # unbatched, as in Cosmos3
    streams = hidden_states_of("block", {"und_seq": understood, "gen_seq": made}, (understood, made))
    assert isinstance(streams, dict)
    assert streams["und_seq"] is understood and streams["gen_seq"] is made


def test_what_enters_a_block_comes_in_the_streams_of_what_it_returns():
    assert state_entering(DUAL, IMAGE + 1) is IMAGE  # cross-attention: text is no stream of this block
    assert state_entering(DUAL, {"image": IMAGE, "text": TEXT}) == {"image": IMAGE, "text": TEXT}
    assert state_entering({"x": IMAGE, "mask": torch.zeros(2, 5)}, torch.zeros(2, 5, 8)) is IMAGE


def test_arguments_by_name():
    class Block(nn.Module):
        def forward(self, states: Tensor, mask: Tensor | None = None, **kwargs: object) -> Tensor:
            return states

    class Wrapper(nn.Module):
        def forward(self, *args: Tensor, **kwargs: object) -> Tensor:
            return args[0]

    assert named_inputs(Wrapper(), (IMAGE,), {"scale": 2}) == {"argument 0": IMAGE, "scale": 2}
    assert named_inputs(Block(), (IMAGE,), {"mask": None, "scale": 2}) == {"states": IMAGE, "mask": None, "scale": 2}
