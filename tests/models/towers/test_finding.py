"""Any model with a token stream is a tower; what cannot be bridged is said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.models.towers.finding import find_tower
from bridgework.models.towers.visiting import measure, visiting

from ..pairs import FLUX, PIXART, SD3, Named, opened, said, shared, tensors


@pytest.mark.parametrize("name", ZOO)
def test_any_model_of_the_zoo_is_a_tower(name):
    try:
        tower, run = shared(Named(name))
    except ValueError as error:
        assert "say which the bridge enters" in str(error)
        tower, run = shared(Named(name, stream="image"))
    states: dict[int, Tensor] = {}

    def shift(number: int):
        def visit(state: Tensor) -> Tensor:
            states[number] = state
            return state + 0

        return visit

    with torch.no_grad():
        plain = tensors(run())
        with visiting(tower, {number: shift(number) for number in range(len(tower.blocks))}):
            same = tensors(run())
        for number in {0, len(tower.blocks) - 1}:
            with visiting(tower, {number: lambda state: torch.randn(state.shape)}):
                other = tensors(run())
            assert not torch.equal(plain, other)
    assert torch.equal(plain, same)
    batch = 1 if name.startswith("Cosmos3") else 2
    assert all(state.ndim == 3 and len(state) == batch for state in states.values())
    assert measure(tower, run) == {n: (s.shape[2], 0, 0, 0) for n, s in states.items()}


@pytest.mark.parametrize(("named", "rows"), [(SD3, slice(0, 16)), (FLUX, slice(7, 23)), (PIXART, slice(None))])
def test_the_bridged_stream_is_found_in_the_joint_sequence(named, rows):
    tower, run = opened(named)
    calls = []
    with visiting(tower, {0: lambda own: calls.append((own.reads, own.key.shape[2] == own.query.shape[2]))}, True):
        run()
    assert calls == [(rows, True)]  # once: neither SD3.5's second attention nor cross-attention


def test_models_without_tokens_are_refused():
    with pytest.raises(ValueError, match="Linear has no stack of blocks"):
        find_tower(nn.Linear(2, 2), {"input": torch.zeros(2, 2)})
    tiny = ZOO["JanusForConditionalGeneration"][1]()
    with pytest.raises(ValueError, match=r"JanusForCond\w+ does not run 'model.vqmodel.decoder.up'"):
        find_tower(tiny.model, tiny.inputs, stack="model.vqmodel.decoder.up")
    with pytest.raises(ValueError, match="has no stack 'layers': it has"):
        find_tower(tiny.model, tiny.inputs, stack="layers")
    with pytest.raises(ValueError, match="has no text tokens"):
        opened(PIXART._replace(stream="text"))
    with pytest.raises(ValueError, match="say which the bridge enters"):
        opened(SD3._replace(stream=None))


def test_attention_that_cannot_be_visited_is_refused():
    for named, what in (
        (Named("Qwen2_5_VLForConditionalGeneration", "model.visual.blocks"), "by sample or by window"),
        (Named("FlavaModel (uni + fusion encoder)"), "attn_implementation='sdpa'"),
        (Named("SanaTransformer2DModel"), "bridge at block outputs"),
    ):
        tower, _ = opened(named)
        with (
            pytest.raises(ValueError, match=f"block '{tower.blocks[0]}'.*{what}"),
            visiting(tower, {0: said}, inside=True),
        ):
            pass
