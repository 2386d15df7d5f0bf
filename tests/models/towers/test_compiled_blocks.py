"""Blocks that torch compiled are visited as others are; a model that was compiled whole is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bridgework.models.towers.visiting import visiting

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
