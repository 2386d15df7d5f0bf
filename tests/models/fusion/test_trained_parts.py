"""What of an expert is trained: adapters in its blocks, and in no others of the same name."""

from __future__ import annotations

import pytest
from torch import nn

from bridgework.models.fusion.trained_parts import adapt


class TwoStacks(nn.Module):
    """Blocks at the top, and a vision tower's whose paths end alike."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.vision = self.stack(), nn.Module()
        self.vision.layers = self.stack()

    def stack(self) -> nn.ModuleList:
        return nn.ModuleList(nn.ModuleDict({"query": nn.Linear(4, 4)}) for _ in range(2))


def test_adapters_stand_in_the_blocks_alone():
    model = TwoStacks()
    adapt(model, ["layers.0", "layers.1"], "lora", rank=2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 4
    assert all(name.startswith("layers.") and "lora_" in name for name in trained)


@pytest.mark.parametrize(("trained", "share"), [("bridges", False), ("all", True)])
def test_all_or_nothing_of_a_tower_is_trained(trained, share):
    model = TwoStacks()
    adapt(model, ["layers.0", "layers.1"], trained)
    assert {parameter.requires_grad for parameter in model.parameters()} == {share}


def test_blocks_without_a_linear_layer_are_refused():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Conv2d(1, 1, 1)])})
    with pytest.raises(ValueError, match="the blocks of ModuleDict have no linear layer: train 'bridges' or 'all'"):
        adapt(model, ["blocks.0"], "lora")
