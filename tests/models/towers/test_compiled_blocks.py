"""Blocks that torch compiled are visited as others are; a model that was compiled whole is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.models.towers.finding import find_tower
from bridgework.models.towers.visiting import visiting
from bridgework.probes.hooks.block_stacks import find_stacks
from bridgework.probes.hooks.capturing import capture

from ..pairs import PIXART, opened, said, tensors, traces


@pytest.mark.parametrize(("way", "backend"), [("in place", "eager"), ("wrapped", "aot_eager")])
def test_compiled_blocks_are_visited(way, backend):
    torch._dynamo.reset()
    tower, run = opened(PIXART)
    model: Any = tower.model
    blocks = model.transformer_blocks
    with torch.no_grad():
        plain = tensors(run())
        if way == "in place":
            blocks[1].compile(backend=backend)
        else:
            blocks[1] = torch.compile(blocks[1], backend=backend)
        compiled = tensors(run())
        torch.testing.assert_close(compiled, plain)
        for inside in (False, True):  # one compilation for both
            count = []
            with visiting(tower, {1: lambda own, count=count: count.append(1)}, inside):
                torch.testing.assert_close(tensors(run()), plain)
            assert count == [1]
            with visiting(tower, {1: lambda own, inside=inside: own.own + 1 if inside else own + 1}, inside):
                assert not torch.allclose(tensors(run()), plain)
            assert torch.equal(tensors(run()), compiled)
    assert traces(model) == (0, [])


def test_a_model_compiled_whole_is_refused():
    tower, _ = opened(PIXART)
    tower.model.compile(backend="eager")
    with pytest.raises(ValueError, match="compile the blocks one by one"), visiting(tower, {1: said}):
        pass


@pytest.mark.parametrize("way", ["in place", "wrapped", "a part wrapped"])
def test_a_compiled_model_is_probed_as_it_was_and_refused_as_a_tower(way):
    torch._dynamo.reset()
    torch.manual_seed(0)
    tiny = ZOO["LlavaForConditionalGeneration"][1]()
    model: Any = tiny.model.eval()
    stacks = find_stacks(model)
    layers = stacks["model.language_model.layers"]
    with torch.no_grad(), capture(model, layers) as expected:
        model(**tiny.inputs)
    if way == "in place":
        model.compile(backend="eager")
    elif way == "wrapped":
        model = torch.compile(model, backend="eager")
    else:
        model.model.language_model = torch.compile(model.model.language_model, backend="eager")
    assert find_stacks(model) == stacks
    with torch.no_grad(), capture(model, layers) as taps:
        model(**tiny.inputs)
    for path in layers:
        assert torch.equal(taps[path], expected[path])
    with pytest.raises(ValueError, match=r"LlavaForCond\w+ is compiled around block .*: compile the blocks one by one"):
        find_tower(model, tiny.inputs, stack="model.language_model.layers")
