"""Training of fused models: what is trained, on which captions, and in whose folder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.training import batches
from bridgework.models.training.scene_batches import dit_batch
from bridgework.models.training.train_model import train


@pytest.fixture
def captions_given(monkeypatch) -> list[list[str]]:
    given = []
    condition = FusedModel.condition

    def spy(self, captions):
        given.append(list(captions))
        return condition(self, captions)

    monkeypatch.setattr(FusedModel, "condition", spy)
    return given


def test_bridges_are_trained_saved_and_loaded(fuse, plan, tmp_path, monkeypatch):
    fused = fuse(plan)
    before = {name: tensor.clone() for name, tensor in fused.state_dict().items()}
    log = train(fused, tmp_path, steps=3, batch_size=4)
    assert [line["step"] for line in log] == [0, 2]
    after = fused.state_dict()
    for bridge in range(3):
        assert not torch.equal(after[f"bridges.{bridge}.gate"], before[f"bridges.{bridge}.gate"])
    assert not [n for n in before if not n.startswith("bridges") and not torch.equal(before[n], after[n])]
    assert not fused.training
    saved = load_file(tmp_path / "bridges.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in saved.items())

    def must_not_run(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(batches, "dit_batch", must_not_run)
    again = fuse(plan)
    assert train(again, tmp_path, steps=3, batch_size=4) == log
    assert again.steps == 3
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in after.items())


def test_shuffled_captions_are_another_images(fuse, plan, tmp_path, captions_given):
    train(fuse(plan), tmp_path / "plain", steps=1, batch_size=6)
    train(fuse(plan), tmp_path / "shuffled", steps=1, batch_size=6, shuffled=True)
    plain, shuffled = captions_given
    assert shuffled == plain[1:] + plain[:1] != plain
    assert plain == dit_batch(0, 0, size=6)["caption"]


def test_seeds_draw_different_batches(fuse, plan, tmp_path, captions_given):
    for seed in (0, 1, 0):
        train(fuse(plan), tmp_path / f"{len(captions_given)}", steps=1, batch_size=4, seed=seed)
    assert captions_given[0] == captions_given[2] != captions_given[1]


def test_a_bare_fusion_is_told_what_to_train_instead(tmp_path):
    with pytest.raises(TypeError, match=r"a Linear has no loss to train by: build a FusedModel\(understanding"):
        train(torch.nn.Linear(1, 1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_plan_in_the_same_folder_is_refused(fuse, plan, tmp_path):
    """As many bridges elsewhere would load without a word."""
    train(fuse(plan), tmp_path, steps=1, batch_size=2)
    with pytest.raises(ValueError, match=r"plan.json is of another run, with pairs .*choose another folder"):
        train(fuse(replace(plan, pairs=((0, 0), (1, 1), (2, 2)))), tmp_path, steps=1, batch_size=2)


def test_data_must_be_stimuli(fuse, plan, tmp_path):
    with pytest.raises(TypeError, match="data are a list: open images with their captions by load_stimuli"):
        train(fuse(plan), tmp_path, steps=1, data=[1, 2])
