"""A recipe is a small file; an error names the file and the key that is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.fusion.text_states import TextStates
from bridgework.models.training.plan_experts import data_of, plan_of, with_experts
from bridgework.models.training.recipe import Recipe, build, run_recipe
from bridgework.models.unified.flow_model import UnifiedModel
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.layout_table import LAYOUTS, TRUNKS
from bridgework.probes.plans.layouts import lay_out

RECIPES = Path(__file__).parents[3] / "studies" / "recipes"


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_the_recipes_of_the_repository_are_read():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {"scenes", "smollm2-emoji"}
    for path in RECIPES.glob("*.yaml"):
        recipe = Recipe.load(path)
        assert (recipe.layout is None) != (recipe.plan is None)


def test_what_is_left_out_is_as_the_class_has_it(tmp_path):
    read = Recipe.load(written(tmp_path, "layout: dense\nlearning_rate: 1e-3\naverage: 0.99\nsteps: 7\n"))
    assert read == Recipe(layout="dense", learning_rate=0.001, average=0.99, steps=7)
    assert Recipe.load(written(tmp_path, '{"layout": "Y", "objective": "tokens"}')).objective == "tokens"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layout: Z", "unknown layout 'Z': expected one of shared, Y, X, dense, H, double fusion, last, soft"),
        ("layout: H\nlayers: 3", "unknown key 'layers': expected one of layout, understanding"),
        ("layout: H\nsteps: many", "steps is 'many': expected a whole number of at least 1"),
        ("layout: H\nsteps: true", "steps is True: expected a whole number of at least 1"),
        ("layout: H\nsteps: 0", "steps is 0: expected a whole number of at least 1"),
        (
            "layout: H\naverage: 2",
            "average is 2: expected a finite number above 0 and below 1 or None: it is a decay",
        ),
        ("layout: H\ntrained: some", "unknown trained 'some'"),
        ("layout: H\nplan: a.json", "layout or plan must be given, one of the two"),
        ("steps: 3", "layout or plan must be given, one of the two"),
        ("plan: a.json\nrank: 3", "rank is said by the plan a.json: leave it out"),
        ("layout: Y\nrank: 3", "rank is of bridges, and the layout 'Y' has none"),
        ("layout: H\nobjective: tokens", "objective 'tokens' is of one trunk"),
        ("layout: H\nrank: 3\nparameters: 9", "give rank or parameters, not both"),
        ("layout: H\ntext_states: a\ntrained: lora", "text_states 'a' is a folder for states that do not change"),
        ("layout: H\ntext_states: a\nboth_ways: true", "text_states 'a' is a folder for states that do not change"),
        ("layout: Y\ntext_states: a", "text_states 'a' is a folder for states that do not change"),
        ("H", "expected lines such as 'layout: H'"),
        ("layout: [", "expected YAML, lines such as"),
    ],
)
def test_wrong_recipes_are_refused_by_file_and_key(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as raised:
        Recipe.load(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_recipe(tmp_path):
    message = r"no recipe .*absent.yaml: expected a YAML file or one of scenes, smollm2-emoji"
    with pytest.raises(FileNotFoundError, match=message):
        Recipe.load(tmp_path / "absent.yaml")


def test_shipped_recipes_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in RECIPES.glob("*.yaml"):
        assert Recipe.load(path.stem) == Recipe.load(path)
    emoji = Recipe.load("smollm2-emoji")
    assert plan_of(emoji, 30, 13) == BridgePlan.load(RECIPES.parents[1] / str(emoji.plan))
    written(tmp_path, "layout: dense").rename("scenes")
    assert Recipe.load("scenes") == Recipe(layout="dense")  # a file comes first


@pytest.mark.parametrize("layout", ["Y", "last"])
def test_one_line_makes_another_model(layout):
    recipe = replace(Recipe.load(RECIPES / "scenes.yaml"), layout=layout)
    model, again = build(recipe), build(recipe)
    assert layout in LAYOUTS
    assert isinstance(model, UnifiedModel if layout in TRUNKS else FusedModel)
    assert model.plan.layout == layout
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_recipe_keeps_text_states_and_refuses_a_plan_whose_states_change(tmp_path):
    states = str(tmp_path / "states")
    recipe = Recipe(layout="last", data="noto", steps=1, batch_size=2, validate=0, text_states=states)
    model = run_recipe(recipe, tmp_path / "run")
    assert model.text_states.folder == Path(states)
    assert len(TextStates(states).captions) > 1
    assert '"text_states": "float16"' in (tmp_path / "run" / "run.json").read_text()
    both = str(tmp_path / "both.json")
    lay_out("H", 16, 13, both_ways=True).save(both)
    with pytest.raises(ValueError, match=r"text_states .* is for two experts and a plan that runs one way, and .*both"):
        run_recipe(Recipe(plan=both, text_states=str(tmp_path / "other")), tmp_path / "refused")
    assert not (tmp_path / "other").exists() and not (tmp_path / "refused").exists()


def test_a_budget_of_parameters_is_met_through_the_rank():
    model = build(Recipe(layout="H", parameters=100_000))
    count = sum(p.numel() for p in model.bridges.parameters())
    more = build(Recipe(layout="H", rank=model.plan.rank + 1))
    assert count <= 100_000 < sum(p.numel() for p in more.bridges.parameters())


def test_a_plan_says_what_a_layout_would(tmp_path):
    plan = BridgePlan(((1, 2), (3, 4)), "image", "alignment", {}, 16, 13, rank=2)
    plan.save(tmp_path / "plan.json")
    model = build(Recipe(plan=str(tmp_path / "plan.json"), checkpointing=True))
    assert model.plan == plan
    flags = [getattr(m, "gradient_checkpointing", False) for t in model.towers for m in t.model.modules()]
    assert sum(flags) >= 2


def test_data_without_captions_are_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    with pytest.raises(ValueError, match=r"metadata.jsonl has columns \['file_name'\] and no images and texts"):
        data_of(Recipe(layout="H", data=str(tmp_path)))
    assert data_of(Recipe(layout="H")) is None


def chosen_on(understanding: dict[str, str], path: Path) -> str:
    """Write a plan for towers of 16 and 13 blocks that was chosen on an understanding expert, and on scenes-dit."""
    BridgePlan(((0, 0),), "image", "early", {}, 16, 13).of_experts(understanding, {"subject": "scenes-dit"}).save(path)
    return str(path)


def test_a_plan_is_trained_on_the_experts_that_it_was_chosen_on(tmp_path):
    reader = chosen_on({"subject": "scenes-reader"}, tmp_path / "reader.json")
    named = with_experts(Recipe(plan=reader))
    assert (named.understanding, named.generation) == ("scenes-reader", "scenes-dit")
    assert build(Recipe(plan=reader)).experts[0].name == "scenes-reader"
    with pytest.warns(UserWarning, match="understanding expert 'scenes-reader' and is trained on 'scenes-vlm'"):
        assert build(Recipe(plan=reader, understanding="scenes-vlm")).experts[0].name == "scenes-vlm"
    nobody = tmp_path / "nobody.json"
    BridgePlan(((0, 0),), "image", "early", {}, 16, 13).save(nobody)
    assert with_experts(Recipe(plan=str(nobody))).understanding == "scenes-vlm"


def test_an_expert_that_a_plan_cannot_open_is_asked_for(tmp_path):
    mine = chosen_on({"subject": "mine"}, tmp_path / "mine.json")
    with pytest.raises(ValueError, match="chosen on the understanding expert 'mine', and does not say where that is"):
        build(Recipe(plan=mine))
    gone = chosen_on({"subject": "vlm", "opened": str(tmp_path / "vlm")}, tmp_path / "gone.json")
    with pytest.raises(FileNotFoundError, match="gone: say where it is now, by understanding in the recipe or --"):
        build(Recipe(plan=gone))
    assert with_experts(Recipe(plan=gone, understanding="scenes-vlm")).understanding == "scenes-vlm"


def test_columns_are_of_tables(tmp_path):
    with pytest.raises(ValueError, match="scenes have images and captions of their own: leave image out, or name data"):
        data_of(Recipe(layout="H", image_column="file"))
