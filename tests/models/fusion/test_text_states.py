"""Text states on disk: what bridges read of them is what the tower hands over, and nothing stale is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bridgework.models.experts.opening import open_expert
from bridgework.models.fusion import text_states
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.fusion.text_states import TextStates, keep_text_states
from bridgework.models.scenes.composing import scene_stimuli
from bridgework.models.training.batches import stimuli_batch
from bridgework.models.training.train_model import train
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.layouts import lay_out
from bridgework.tests.models.tiny_folders import write

CAPTIONS = ["a red circle", "three blue crosses and a black square top left", "a ring", "a green square", "a ring"]


def plan_for(layout: str, understanding: int = 4, **changes: Any) -> BridgePlan:
    last = understanding - 1
    pairs = ((last, 0), (last, 2)) if layout in ("last", "soft") else ((0, 0), (2, 1), (last, 2))
    return BridgePlan(pairs, "image", "all", {}, understanding, 3, layout=layout, **changes)


def handed(fused: FusedModel, captions: list[str]) -> list[Tensor]:
    """Everything that the bridges read of captions, without padding."""
    states = fused.condition(captions)
    assert states.mask is not None
    rows = []
    for given in states.handed:
        for part in (part for part in given if isinstance(part, Tensor)):
            axis = part.dim() - 2  # (batch, token, dim) or (batch, head, token, dim)
            mask = states.mask if axis == 1 else states.mask[:, None].expand(-1, part.shape[1], -1)
            rows.append(part[mask])
    return rows


def assert_same(fused: FusedModel, states: TextStates, captions: list[str]) -> None:
    """Relative to the largest of a row, float16 is off by a 2,048th; bridges are linear in the states."""
    fused.read_text_from(None)
    with torch.no_grad():
        tower = handed(fused, captions)
        disk = handed(fused.read_text_from(states), captions)
    assert len(tower) == len(disk) >= len(fused.bridges)
    for own, kept in zip(tower, disk, strict=True):
        assert own.shape == kept.shape
        assert own.abs().max() > 0.01
        assert (own - kept).norm() < 1e-3 * own.norm()


@pytest.fixture
def states(make_experts, tmp_path) -> Callable[..., TextStates]:
    """States of the tiny understanding expert, of each kind in its own folder."""

    def keep(inside: bool = False, captions: list[str] = CAPTIONS, **options: Any) -> TextStates:
        return keep_text_states(make_experts()[0], captions, tmp_path / f"inside {inside}", inside, **options)

    return keep


# ---- the same as the tower


@pytest.mark.parametrize("layout", ["H", "dense", "double fusion", "soft", "last"])
def test_bridges_read_from_disk_what_the_tower_hands_over(layout, fuse, states):
    fused = fuse(plan_for(layout))
    kept = states(fused.inside)
    assert sorted(kept.captions) == sorted({"", *CAPTIONS})
    assert kept.inside == fused.inside
    assert_same(fused, kept, CAPTIONS)
    assert_same(fused, kept, [CAPTIONS[3], "", CAPTIONS[1]])


@pytest.mark.parametrize("inside", [False, True])
def test_padding_and_order_do_not_matter(inside, fuse, states):
    fused = fuse(plan_for("dense" if inside else "last"))
    alone = states(inside, batch_size=1)
    for caption in CAPTIONS:
        assert_same(fused, alone, [caption])
    fused.read_text_from(alone)
    with torch.no_grad():
        together, turned = fused.condition(CAPTIONS), fused.condition(CAPTIONS[::-1])
    assert torch.equal(together.mask, turned.mask.flip(0))
    for one, other in zip(together.handed, turned.handed, strict=True):
        torch.testing.assert_close(one.key, other.key.flip(0))


def test_shipped_experts_and_a_language_model_of_grouped_queries(tmp_path):
    write("LlamaForCausalLM", tmp_path / "llama")
    generation = open_expert("scenes-dit")
    for number, expert in enumerate((open_expert("scenes-vlm"), open_expert(tmp_path / "llama"))):
        blocks = len(expert.blocks)
        folders = tmp_path / f"outside {number}", tmp_path / f"inside {number}"
        kept = [keep_text_states(expert, CAPTIONS, folder, bool(i)) for i, folder in enumerate(folders)]
        for layout in ("H", "soft"):
            plan = lay_out(layout, blocks, 13)
            fused = FusedModel(expert, generation, plan)
            assert_same(fused, kept[fused.inside], CAPTIONS)


# ---- stopped


def test_a_stopped_run_reads_on_and_leaves_the_same_bits(make_experts, tmp_path, monkeypatch):
    expert = make_experts()[0]
    keep_text_states(expert, CAPTIONS, tmp_path / "whole", batch_size=2)
    read: list[list[str]] = []
    text_pass = text_states.text_pass

    def stopping(expert: Any, captions: list[str]) -> Any:
        read.append(list(captions))
        if len(read) == 5:  # of the blocks, of their widths, of the tokens, and of the first batch
            raise KeyboardInterrupt
        return text_pass(expert, captions)

    monkeypatch.setattr(text_states, "text_pass", stopping)
    with pytest.raises(KeyboardInterrupt):
        keep_text_states(expert, CAPTIONS, tmp_path / "stopped", batch_size=2)
    first = read[3]
    assert TextStates(tmp_path / "stopped").captions == tuple(first)
    keep_text_states(expert, CAPTIONS, tmp_path / "stopped", batch_size=2)
    assert not {caption for batch in read[-2:] for caption in batch} & set(first)
    one, other = (TextStates(tmp_path / name) for name in ("whole", "stopped"))
    assert sorted(one.captions) == sorted(other.captions) == sorted({"", *CAPTIONS})
    for mine, theirs in zip(one.read(CAPTIONS, range(4))[0], other.read(CAPTIONS, range(4))[0], strict=True):
        assert torch.equal(mine, theirs)
    keep_text_states(expert, CAPTIONS[::-1], tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("captions-*"))) == 1  # all were there


# ---- added when they are met


def test_captions_are_added_when_they_are_met_and_give_the_same_losses_to_the_bit(fuse, make_experts, tmp_path):
    """Read from disk, added while training, or read by the tower at every step: one log, and the same bridges."""
    data = scene_stimuli("train", 12)

    def run(folder: Path | None, **options: Any) -> tuple[list[float], dict[str, Tensor], int]:
        fused = fuse(plan_for("H"))
        for bridge in fused.bridges:
            torch.nn.init.constant_(bridge.gate, 0.7)  # from the first step on the captions matter
        fused.read_text_from(keep_text_states(fused.experts[0], (), folder, inside=True, **options))
        calls: list[int] = []
        handle = fused.understanding.register_forward_hook(lambda *_: calls.append(1))
        optimizer = torch.optim.AdamW(fused.bridges.parameters(), 0.02)
        losses = []
        for step in range(4):
            optimizer.zero_grad()
            loss = fused.train().loss(stimuli_batch(step, 0, data, size=6))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        handle.remove()
        return losses, dict(fused.bridges.state_dict()), len(calls)

    disk = tmp_path / "states"
    losses, bridges, first = run(disk)
    assert len(set(losses)) == len(losses)
    captions = TextStates(disk).captions
    assert captions[0] == "" and len(captions) == 1 + first > 2
    for folder in (disk, None):
        again, theirs, calls = run(folder)
        assert losses == again
        assert all(torch.equal(bridges[key], theirs[key]) for key in bridges)
        assert (calls == 0) == (folder is disk)
    assert calls > first
    exact, _, _ = run(None, dtype="float32")
    assert losses != exact and losses == pytest.approx(exact, rel=1e-3)


def test_what_a_killed_process_or_a_power_cut_leaves_is_not_read(fuse, states):
    fused = fuse(plan_for("last"))
    kept = states()
    want = kept.read(CAPTIONS, [3])[0][0]
    (part,) = kept.folder.glob("captions-*")
    lines = (part / "captions.jsonl").read_bytes()
    with (part / "block-03.bin").open("ab") as file:  # rows without a line
        file.write(b"xy" * 40)
    (part / "captions.jsonl").write_bytes(lines + b"\0\0\0\n" + lines[:30])
    assert torch.equal(TextStates(kept.folder).read(CAPTIONS, [3])[0][0], want)
    (part / "captions.jsonl").write_bytes(lines.splitlines(keepends=True)[0])  # the lines of the others are lost
    fused.read_text_from(TextStates(kept.folder))
    assert (fused.text_states.read(CAPTIONS, [3])[0][0] - want).abs().max() < 2e-3 * want.abs().max()
    rows = np.fromfile(part / "block-03.bin", np.float16)
    rows[:] = 0  # blocks of the disk that were never written
    rows.tofile(part / "block-03.bin")
    damaged = TextStates(kept.folder)
    with pytest.raises(ValueError, match=r"the caption '' is not kept in .*, and nobody reads it: keep all captions"):
        damaged.read([""], [3])
    fused.read_text_from(damaged)
    assert damaged.read([""], [3])[0][0].abs().max() > 0


def test_two_processes_that_add_at_once_read_what_the_other_has_added(fuse, tmp_path, monkeypatch):
    one, other = fuse(plan_for("last")), fuse(plan_for("last"))
    for fused in (one, other):
        fused.read_text_from(keep_text_states(fused.experts[0], (), tmp_path))
    one.condition(["a ring", "a red circle"])
    monkeypatch.setattr(text_states._Reader, "read", lambda *_: pytest.fail("it was read already"))
    own = one.text_states.read(["a ring", "a red circle"], [1, 3])[0]
    for mine, theirs in zip(own, other.text_states.read(["a ring", "a red circle"], [1, 3])[0], strict=True):
        assert torch.equal(mine, theirs)
    monkeypatch.undo()
    for fused, caption in ((one, "a cross"), (other, "a square"), (one, "a square")):  # both write, in turns
        fused.condition([caption])
    assert set(TextStates(tmp_path).captions) == {"", "a ring", "a red circle", "a cross", "a square"}
    assert len(list(tmp_path.glob("captions-*"))) == 2  # each writes to files of its own


def test_a_folder_of_an_earlier_version_is_read_and_added_to(fuse, states, tmp_path):
    kept, old = states(), tmp_path / "old"
    captions = sorted(kept.captions)
    rows = {caption: kept._files.read(caption, range(4)) for caption in captions}
    old.mkdir()
    for block in range(4):
        np.save(old / f"block-{block:02d}.npy", np.concatenate([rows[caption][block] for caption in captions]))
    tokens = [len(rows[caption][0]) for caption in captions]
    index = {name: kept._index[name] for name in ("expert", "settings", "inside", "heads")}
    index |= {"captions": captions, "tokens": tokens, "read": len(captions)}
    (old / "index.json").write_text(json.dumps(index))
    for mine, theirs in zip(kept.read(captions, range(4))[0], TextStates(old).read(captions, range(4))[0], strict=True):
        assert torch.equal(mine, theirs)
    fused = fuse(plan_for("last"))
    assert_same(fused, keep_text_states(fused.experts[0], ["a cross"], old), ["a cross", "a ring"])
    (old / "index.json").write_text(json.dumps(index | {"read": 2}))  # it was stopped after the two shortest
    shortest = [captions[n] for n in np.argsort(tokens, kind="stable")[:2]]
    assert set(TextStates(old).captions) == {*shortest, "a cross"}


def test_an_expert_on_several_processes_reads_nothing_by_itself(fuse, states, monkeypatch):
    fused = fuse(plan_for("last")).read_text_from(states())
    monkeypatch.setattr(text_states._Reader, "is_shared", True)
    with pytest.raises(ValueError, match=r"'a cross' is not kept in .*, and its expert is sharded, and all processes"):
        fused.condition(["a cross"])
    fused.condition(["a ring"])


# ---- of another expert


def changed_weight(expert: Any) -> None:
    with torch.no_grad():
        expert.model.get_input_embeddings().weight[5] += 1


def another_front(expert: Any) -> None:
    expert.front = "</s>"


@pytest.mark.parametrize("change", [changed_weight, another_front])
def test_states_of_another_expert_are_refused(change, fuse, states):
    kept, fused = states(), fuse(plan_for("last"))
    change(fused.experts[0])
    with pytest.raises(ValueError, match=r"are of another tiny-vlm than tiny-vlm is now: keep them again in a new"):
        fused.read_text_from(kept)
    with pytest.raises(ValueError, match="holds the states of another expert or for other bridges: choose another"):
        keep_text_states(fused.experts[0], CAPTIONS, kept.folder)
    assert fused.text_states is None


def test_what_does_not_fit_is_refused(fuse, states, make_experts, tmp_path):
    outside, inside = states(), states(True)
    fused = fuse(plan_for("last"))
    with pytest.raises(ValueError, match=r"are keys and values inside attention, .* keep them again with inside=False"):
        fused.read_text_from(inside)
    with pytest.raises(ValueError, match=r"are block outputs, and this plan's bridges read keys .* inside=True"):
        fuse(plan_for("H")).read_text_from(outside)
    with pytest.raises(ValueError, match="train the bridges alone, of a plan that runs one way"):
        fuse(plan_for("H", both_ways=True)).read_text_from(inside)
    with pytest.raises(ValueError, match="train the bridges alone, of a plan that runs one way"):
        fuse(plan_for("last")).adapt("all").read_text_from(outside)
    with pytest.raises(ValueError, match=r"the caption 'a cross' is not kept in .*, and nobody reads it: keep all"):
        TextStates(outside.folder).read(["a ring", "a cross"], [3])
    fused.read_text_from(outside)
    with pytest.raises(ValueError, match=r"reads its text from disk, .*: read_text_from\(None\)"):
        fused.adapt("all")
    assert fused.trained_experts == "bridges"
    fused.read_text_from(None).condition(["a cross"])
    with pytest.raises(ValueError, match="holds the states of another expert or for other bridges: choose another"):
        keep_text_states(make_experts()[0], [], outside.folder, inside=True)
    with pytest.raises(ValueError, match=r"holds states in float16, not float32: choose another folder"):
        keep_text_states(make_experts()[0], [], outside.folder, dtype="float32")
    with pytest.raises(ValueError, match="unknown dtype 'bfloat16': expected one of float16, float32"):
        keep_text_states(make_experts()[0], [], tmp_path / "new", dtype="bfloat16")
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError, match="holds no text states: keep them by keep_text_states"):
        TextStates(tmp_path)


# ---- training


def test_training_from_disk_learns_without_the_tower(fuse, states, tmp_path):
    data = scene_stimuli("train", 12)
    fused = fuse(plan_for("soft"))
    fused.read_text_from(states(captions=data.texts))
    calls: list[int] = []
    handle = fused.understanding.register_forward_hook(lambda *_: calls.append(1))
    log = train(fused, tmp_path / "run", steps=3, batch_size=4, data=data)
    assert all(line["loss"] > 0 for line in log)
    batch = stimuli_batch(0, 0, data, size=8)
    optimizer = torch.optim.AdamW([p for p in fused.parameters() if p.requires_grad], 0.02)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = fused.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0], losses
    assert not calls
    from_disk = fused.loss(batch).item()
    assert fused.read_text_from(None).loss(batch).item() == pytest.approx(from_disk, rel=1e-3)
    assert calls
    handle.remove()
