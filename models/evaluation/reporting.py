"""Report all that is measured of one model: scores, the distance of its images to real ones, and costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...probes.arguments import check_arguments, file_name
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.plans.layout_table import TRUNKS
from ...probes.tensor_files import read_sealed
from ..costs.step_costs import costs
from ..experts.opening import open_expert
from ..fusion.fused_model import FusedModel
from ..generation.sampling import check_sampling, draws, generate
from ..scenes.composing import examples
from ..scenes.dense_captions import dense_captions, dense_score
from ..scenes.rendering import render_scene
from ..training.scene_batches import dit_batch
from ..unified.flow_model import UnifiedModel
from ..unified.token_model import UnifiedTokens
from .evaluation_options import EvaluationOptions
from .image_distance import image_distance
from .scores import answers, draw_scenes, question_accuracy, scene_score, skills_of


def open_model(name: str | Path) -> Any:
    """Open an expert by its name, or a trained model by its folder.

    A folder with a plan.json holds a trained model: a unified one where the plan is for one trunk, else a fused one.
    A recipe.json beside the plan names the experts of a fused model (`understanding`, `generation`); without it they
    are scenes-vlm and scenes-dit.

    Parameters
    ----------
    name : path
        The name of an expert, as `open_expert` takes it, or the folder of a trained model.

    Returns
    -------
    Subject, FusedModel, UnifiedModel or UnifiedTokens
        The model with its weights.

    Raises
    ------
    FileNotFoundError, ValueError
        Something is missing or wrong; the message names it.

    See Also
    --------
    open_expert : Opens an expert alone, with options such as its dtype.
    FusedModel.load : Opens a fused model on two experts that are open already.

    Examples
    --------
    >>> model = open_model("runs/h")
    """
    folder = file_name("name", name)
    if not (folder / "plan.json").is_file():
        return open_expert(name)
    if BridgePlan.load(folder / "plan.json").layout in TRUNKS:
        settings = _read(folder / "unified.json")
        return (UnifiedTokens if settings.get("objective") == UnifiedTokens.objective else UnifiedModel).load(folder)
    recipe = _read(folder / "recipe.json")
    sides = {"understanding": "scenes-vlm", "generation": "scenes-dit"}
    return FusedModel.load(folder, *(open_expert(recipe.get(side, own)) for side, own in sides.items()))


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
    """Return the tables that apply to a model, by name.

    "scene score" is of a model that draws, "question accuracy" of a model that answers.

    Parameters
    ----------
    model : Subject, FusedModel, UnifiedModel or UnifiedTokens
        A model that draws, answers, or does both.
    part, each
        As of `evaluate`: the part of the scenes, and how many of each skill.
    seed : int, optional
        The seed that the scenes are drawn with.
    dense : bool, optional
        Whether "dense captions" is measured as well, with `each` captions of two, three and four things
        (models/scenes/dense_captions.py).
    distance : str, optional
        The name of an expert. Then "image distance" is measured as well: between the features of the images that are
        drawn for the scene score and of pictures of other scenes of the same part and skills
        (models/evaluation/image_distance.py).
    cost : bool, optional
        Whether "costs" of a training step with 32 images are measured as well (models/costs/step_costs.py).
    **sampling
        Arguments of `generate`.

    Returns
    -------
    dict of str to DataFrame
        The tables.

    Raises
    ------
    ValueError
        The part is unknown, there is nothing to score, or dense captions or a distance are asked of a model that draws
        nothing.
    TypeError
        The model neither draws nor answers, or costs are asked of a model without a training loss.

    See Also
    --------
    evaluate : Returns the table of scores alone.
    bridgework.models.evaluation.reporting.tables_as_text : Writes the tables as lines of text.

    Examples
    --------
    >>> tables = report(vlm, each=2)
    >>> tables["question accuracy"][["skill", "score", "low", "high"]]
    """
    asked = {"part": part, "each": each, "seed": seed, "dense": dense, "distance": distance, "cost": cost}
    check_arguments(EvaluationOptions, asked)
    check_sampling(**sampling)
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


def tables_as_text(tables: dict[str, pd.DataFrame]) -> str:
    """Return the tables of `report` as text, each under its name if there are several.

    Parameters
    ----------
    tables : dict of str to DataFrame
        What `report` returned. Costs, which have one row, are written one value a line.

    Returns
    -------
    str
        The text, without a line break at its end.
    """
    texts = {
        name: table.T.to_string(header=False) if name == "costs" else table.round(3).to_string(index=False)
        for name, table in tables.items()
    }
    return "\n".join(f"{name}\n{text}\n" if len(texts) > 1 else text for name, text in texts.items())


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_sealed(path)
    except ValueError:
        raise ValueError(
            f"{path} is not a JSON object, or damaged: put back the one that was written in training"
        ) from None


def evaluate_dense(model: Any, part: str = "test", each: int = 40, seed: int = 0, **sampling: Any) -> pd.DataFrame:
    """Let a generator draw dense captions and score the images by `dense_score`.

    Parameters
    ----------
    model : Subject or FusedModel
        A model that draws.
    part, each, seed
        As of `dense_captions`.
    **sampling
        Arguments of `generate`.

    Returns
    -------
    DataFrame
        As `dense_score` returns it.
    """
    wanted = dense_captions(part, each, seed)
    ids = [f"dense {part} {seed} {number}" for number in range(len(wanted))]
    return dense_score(wanted, generate(model, [w.caption for w in wanted], ids, **sampling), seed)
