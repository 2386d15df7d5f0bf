"""The report: which tables a model has, and what a folder is opened as."""

from __future__ import annotations

import json

import pytest

from bridgework.models.evaluation import reporting
from bridgework.models.evaluation.reporting import open_model
from bridgework.models.evaluation.scores import draw_scenes
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.training.scene_batches import dit_batch
from bridgework.models.unified.flow_model import UnifiedModel
from bridgework.models.unified.token_model import UnifiedTokens
from bridgework.probes.plans.bridge_plan import BridgePlan

TRUNK = BridgePlan(((0, 0), (1, 1)), "image", "Y", {}, 4, 4, layout="Y")


@pytest.fixture
def opened(monkeypatch, tiny_vlm, tiny_dit):
    """The names of the experts that were asked for; the tiny ones are given."""
    names = []

    def open_expert(name):
        names.append(name)
        return tiny_dit if "dit" in name else tiny_vlm

    monkeypatch.setattr(reporting, "open_expert", open_expert)
    return names


def test_every_table_of_a_fused_model(fuse, plan, opened):
    tables = reporting.report(fuse(plan), each=2, dense=True, distance="scenes-vlm", cost=True, steps=1)
    assert list(tables) == ["costs", "scene score", "image distance", "dense captions"]
    assert opened == ["scenes-vlm"]
    assert tables["costs"].iloc[0].layout == "H"
    assert list(tables["scene score"].samples) == [2] * 6 + [12]
    assert (tables["image distance"].samples == 12).all()
    assert (tables["image distance"].layer == "embeddings").all()
    assert (tables["dense captions"].images == 6).all()


def test_an_expert_has_the_table_of_what_it_does(tiny_dit, tiny_vlm):
    assert list(reporting.report(tiny_dit, each=1, steps=1)) == ["scene score"]
    assert list(reporting.report(tiny_vlm, "train", each=1)) == ["question accuracy"]


def test_a_unified_model_draws_and_answers(tiny_vlm, tiny_dit):
    model = UnifiedModel.from_experts(TRUNK, tiny_vlm, tiny_dit)
    assert list(reporting.report(model, "train", each=1, steps=1)) == ["scene score", "question accuracy"]


def test_real_images_are_other_scenes_of_the_same_part_and_skills(monkeypatch, tiny_dit, opened):
    asked = {}
    monkeypatch.setattr(reporting, "image_distance", lambda drawn, real, expert: asked.update(drawn=drawn, real=real))
    drawn = draw_scenes
    monkeypatch.setattr(reporting, "draw_scenes", lambda *args, **how: asked.setdefault("scored", drawn(*args, **how)))
    reporting.report(tiny_dit, "new", 2, distance="scenes-vlm", steps=1)
    assert asked["drawn"] == [d.image for d in asked["scored"]]
    assert len(asked["real"]) == 2 * len(asked["drawn"]) == 20
    assert len({image.tobytes() for image in asked["real"]}) == 20


def test_what_cannot_be_reported(tiny_vlm, tiny_dit, opened):
    with pytest.raises(TypeError, match="expected a model that draws or answers, got str"):
        reporting.report("scenes-dit")
    for options in ({"dense": True}, {"distance": "scenes-vlm"}):
        with pytest.raises(ValueError, match="tiny-vlm draws nothing: dense captions and image distance"):
            reporting.report(tiny_vlm, **options)
    with pytest.raises(TypeError, match="expected a fused or unified model, with a loss and a plan, got DitExpert"):
        reporting.report(tiny_dit, cost=True)
    with pytest.raises(ValueError, match="unknown part 'dev'"):
        reporting.report(tiny_dit, "dev")


def test_a_fused_folder_is_opened_on_our_experts(fuse, plan, opened, tmp_path):
    fuse(plan).save(tmp_path)
    model = open_model(tmp_path)
    assert isinstance(model, FusedModel)
    assert model.plan == plan
    assert opened == ["scenes-vlm", "scenes-dit"]


def test_a_recipe_names_its_experts(fuse, plan, opened, tmp_path):
    fuse(plan).save(tmp_path)
    recipe = {"understanding": "my-vlm", "generation": "my-dit", "layout": "H"}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert isinstance(open_model(tmp_path), FusedModel)
    assert opened == ["my-vlm", "my-dit"]


@pytest.mark.parametrize("kind", [UnifiedModel, UnifiedTokens])
def test_a_unified_folder_is_opened_by_its_objective(kind, tiny_vlm, tiny_dit, opened, tmp_path):
    saved = kind.from_experts(TRUNK, tiny_vlm, tiny_dit)
    saved.save(tmp_path)
    model = open_model(tmp_path)
    assert type(model) is kind
    assert model.plan == TRUNK
    assert not opened
    batch = dit_batch(0, 0, size=2)
    assert model.loss(batch).item() == pytest.approx(saved.loss(batch).item())


def test_a_name_is_an_experts(opened, tiny_dit):
    assert open_model("scenes-dit") is tiny_dit


def test_a_folder_that_cannot_be_opened(fuse, plan, opened, tmp_path):
    plan.save(tmp_path / "plan.json")
    with pytest.raises(FileNotFoundError, match="no bridges in"):
        open_model(tmp_path)
    (tmp_path / "recipe.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"recipe\.json is not a JSON object"):
        open_model(tmp_path)
