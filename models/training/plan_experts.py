"""Find the experts and the data of a recipe: those that it names, those that its plan was chosen on, or ours."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...probes.plans.bridge_plan import BridgePlan
from ...probes.plans.layout_table import TRUNKS
from ...probes.stimuli.sources import load_stimuli
from ...probes.stimuli.stimulus_set import Stimuli
from ..experts.downloads import weights
from ..experts.downloads.expert_sources import OWN

ROOT = Path(__file__).parents[2]
OPTIONS = ("stream", "both_ways", "gated", "rank", "semantic_tokens")  # of `lay_out`
SHIPPED = {"understanding": "scenes-vlm", "generation": "scenes-dit"}  # where neither recipe nor plan names an expert


def chosen_plan(recipe: Any) -> BridgePlan | None:
    """Read the plan of a recipe from its file.

    Parameters
    ----------
    recipe : Recipe
        The recipe.

    Returns
    -------
    BridgePlan or None
        The plan; None where the recipe names a layout.

    Raises
    ------
    FileNotFoundError, ValueError
        As `BridgePlan.load` does.
    """
    if recipe.plan is None:
        return None
    shipped = ROOT / recipe.plan
    return BridgePlan.load(shipped if shipped.is_file() and not Path(recipe.plan).is_file() else recipe.plan)


def plan_of(recipe: Any, understanding: int, generation: int) -> BridgePlan:
    """Return the plan of a recipe: from its file, or the published one of its layout for towers of these depths.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    understanding, generation : int
        How many blocks the two experts have.

    Returns
    -------
    BridgePlan
        The plan.

    Raises
    ------
    FileNotFoundError, ValueError
        As `BridgePlan.load` and `lay_out` do.
    """
    from ...probes.plans.layouts import lay_out

    if (chosen := chosen_plan(recipe)) is not None:
        return chosen
    if recipe.layout in TRUNKS:
        return lay_out(str(recipe.layout), understanding, understanding)
    options = {name: getattr(recipe, name) for name in OPTIONS}
    return lay_out(str(recipe.layout), understanding, generation, **options)


def with_experts(recipe: Any) -> Any:
    """Return a recipe that names both of its experts.

    Parameters
    ----------
    recipe : Recipe
        The recipe.

    Returns
    -------
    Recipe
        An expert that the recipe names stands, whatever its plan says. Otherwise it is the one that the plan was chosen
        on, and scenes-vlm or scenes-dit where nothing says it.

    Raises
    ------
    ValueError
        The plan was chosen on an expert that cannot be opened by what the plan holds.
    FileNotFoundError
        The plan is missing, or the folder of an expert that it names.
    """
    plan = chosen_plan(recipe)
    known = ({}, {}) if plan is None else plan.experts
    sides = zip(SHIPPED, known, strict=True)
    found = {side: getattr(recipe, side) or _source(side, chosen_on, recipe.plan) for side, chosen_on in sides}
    return replace(recipe, **found)


def _source(side: str, chosen_on: dict[str, str], file: str | None) -> str:
    """Return what `open_expert` opens the expert by that a plan was chosen on."""
    source, name = chosen_on.get("opened"), chosen_on.get("subject")
    if name is None:
        return SHIPPED[side]
    if source is not None:
        if Path(source).is_absolute() and not Path(source).is_dir():
            raise FileNotFoundError(
                f"the plan {file} was chosen on the {side} expert in {source}, which is gone: say where it is now, by "
                f"{side} in the recipe or --{side}"
            )
        return source
    if name in (*OWN, *weights.WEIGHTS):
        return name
    raise ValueError(
        f"the plan {file} was chosen on the {side} expert {name!r}, and does not say where that is: name a folder or a "
        f"Hub id, by {side} in the recipe or --{side}"
    )


def open_experts(recipe: Any) -> list[Any]:
    """Open the two experts of a recipe.

    Parameters
    ----------
    recipe : Recipe
        The recipe.

    Returns
    -------
    list of Subject
        The understanding and the generation expert.

    Raises
    ------
    ValueError, FileNotFoundError
        As `with_experts` and `open_expert` do.

    Warns
    -----
    UserWarning
        An expert that the recipe names is another than its plan was chosen on, or has other weights.
    """
    from ...probes.extraction.provenance import opened_from
    from ..experts.opening import open_expert

    named, plan = with_experts(recipe), chosen_plan(recipe)
    experts = [open_expert(getattr(named, side)) for side in SHIPPED]
    for side, expert, known in zip(SHIPPED, experts, ({}, {}) if plan is None else plan.experts, strict=True):
        about = opened_from(expert) if known.get("weights") else {}
        if known.get("subject", expert.name) != expert.name:
            warnings.warn(
                f"the plan {recipe.plan} was chosen on the {side} expert {known['subject']!r} and is trained on "
                f"{expert.name!r}: block numbers are taken over, and may mean other blocks there",
                stacklevel=3,
            )
        elif about and about["weights"] != known["weights"]:
            warnings.warn(
                f"the weights of the {side} expert in {about['opened']} are not those that the plan {recipe.plan} was "
                "chosen on, or were read in another format then: choose the plan again for these",
                stacklevel=3,
            )
    return experts


def data_of(recipe: Any) -> Stimuli | None:
    """Return the recipe's images and captions, or None, which stands for scenes.

    Parameters
    ----------
    recipe : Recipe
        The recipe.

    Returns
    -------
    Stimuli or None
        The images with their captions.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        Something has no caption or is missing; the message names it and the remedy.
    """
    columns = {"image": recipe.image_column, "text": recipe.text_column, "root": recipe.root}
    given: dict[str, Any] = {name: value for name, value in columns.items() if value is not None}
    if recipe.data == "scenes":
        if given:
            raise ValueError(f"scenes have images and captions of their own: leave {min(given)} out, or name data")
        return None
    return load_stimuli(recipe.data, **given)
