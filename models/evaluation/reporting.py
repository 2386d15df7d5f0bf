"""All that is measured of one model: scores, distance of its images to real ones, and costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...probes.plans.bridge_plan import TRUNKS, BridgePlan
from ..costs.step_costs import costs
from ..experts.opening import OWN, open_expert
from ..fusion.fused_model import FusedModel
from ..generation.sampling import draws, generate
from ..scenes.composing import examples
from ..scenes.dense_captions import dense_captions, dense_score
from ..scenes.rendering import render_scene
from ..training.scene_batches import dit_batch
from ..unified.flow_model import UnifiedModel
from ..unified.token_model import UnifiedTokens
from .image_distance import image_distance
from .scores import answers, draw_scenes, question_accuracy, scene_score, skills_of


def open_model(name: str | Path) -> Any:
    """Open an expert by its name, or the folder of a trained model by what it holds.

    A folder with a plan.json holds a unified model, where the plan is of one trunk, or a fused one; its experts are
    those that a recipe.json beside it names (`understanding`, `generation`), else scenes-vlm and scenes-dit.

    Raises FileNotFoundError or ValueError, naming what is missing or wrong.
    """
    folder = Path(name)
    if not (folder / "plan.json").is_file():
        return open_expert(name)
    if BridgePlan.load(folder / "plan.json").layout in TRUNKS:
        told = _read(folder / "unified.json")
        return (UnifiedTokens if told.get("objective") == UnifiedTokens.objective else UnifiedModel).load(folder)
    told = _read(folder / "recipe.json")
    sides = zip(("understanding", "generation"), OWN[:2], strict=True)
    return FusedModel.load(folder, *(open_expert(told.get(side, own)) for side, own in sides))


def report(
    model: Any,
    part: str = "test",
    each: int = 40,
    seed: int = 0,
    *,
    dense: bool = False,
    distance: str | None = None,
    cost: bool = False,
    **sampling: Any,
) -> dict[str, pd.DataFrame]:
    """Tables of a model by name: "scene score" of one that draws, "question accuracy" of one that answers, and more.

    Args:
        part, each: as of `evaluate`.
        dense: "dense captions" as well, `each` of two, three and four things (models/scenes/dense_captions.py).
        distance: "image distance" as well, of the images drawn for the scene score to pictures of other scenes of the
            part, the same skills: the name of the expert whose features are compared (models/evaluation/image_distance.py).
        cost: "costs" as well, of a training step with 32 images (models/costs/step_costs.py).

    Raises:
        ValueError: an unknown part; nothing to score; dense captions or a distance of a model that draws nothing.
        TypeError: a model that neither draws nor answers; costs of one without a training loss.
    """
    skills = skills_of(part, each)
    if not draws(model) and not answers(model):
        raise TypeError(f"expected a model that draws or answers, got {type(model).__name__}")
    if not draws(model) and (dense or distance):
        raise ValueError(f"{model.name} draws nothing: dense captions and image distance are of generators")
    expert = open_expert(distance) if distance else None
    tables = {}
    if cost:
        tables["costs"] = pd.DataFrame([costs(model, dit_batch(0, seed))])
    if draws(model):
        drawn = draw_scenes(model, part, each, seed, **sampling)
        tables["scene score"] = scene_score(drawn)
        if expert:
            rng = np.random.default_rng((seed, 6))
            others = [e for offset in (1, 2) for e in examples(part, skills, each, seed + offset)]
            real = [render_scene(e.scene, rng) for e in others]
            tables["image distance"] = image_distance([d.image for d in drawn], real, expert)
    if dense:
        tables["dense captions"] = evaluate_dense(model, part, each, seed, **sampling)
    if answers(model):
        tables["question accuracy"] = question_accuracy(model, part, each, seed)
    return tables


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError):
        raise ValueError(f"{path} is not a JSON object: put back the one that was written in training") from None


def evaluate_dense(model: Any, part: str = "test", each: int = 40, seed: int = 0, **sampling: Any) -> pd.DataFrame:
    """Let a generator draw dense captions and score it by `dense_score`. `sampling` goes to `generate`."""
    wanted = dense_captions(part, each, seed)
    ids = [f"dense {part} {seed} {number}" for number in range(len(wanted))]
    return dense_score(wanted, generate(model, [w.caption for w in wanted], ids, **sampling), seed)
