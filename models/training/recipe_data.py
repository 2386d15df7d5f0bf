"""Open the images and captions that a recipe trains on."""

from __future__ import annotations

from typing import Any

from ...probes.stimuli.sources import load_stimuli
from ...probes.stimuli.stimulus_set import Stimuli


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
