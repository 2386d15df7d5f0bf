"""Check what curves and their companions compare: features of one modality, and of one timestep where one is read."""

from __future__ import annotations

from typing import Any

from ..arguments import checked
from ..features.layer_features import LayerFeatures
from ..features.plain_arrays import check_finite


def check_side(name: str, side: Any) -> None:
    """Raise TypeError for what is not the features of one modality.

    Parameters
    ----------
    name : str
        The argument.
    side : Any
        What was given for it.

    Raises
    ------
    TypeError
        It is something else.
    """
    checked(name, side, LayerFeatures, remedy="pass one modality of what extract returns, as features['image']")


def check_one_time(name: str, side: Any) -> None:
    """Raise an error for what is not the features of one modality at one timestep, all of them finite.

    Parameters
    ----------
    name : str
        The argument.
    side : Any
        What was given for it.

    Raises
    ------
    TypeError
        As `check_side`.
    ValueError
        A sweep over timesteps, or a value that is not finite.
    """
    check_side(name, side)
    if side.swept:
        times = ", ".join(f"{time:g}" for time in side.timesteps)
        raise ValueError(
            f"the features {name} hold the timesteps {times}: choose one, as {name}.at({side.timesteps[0]:g})"
        )
    for layer in side.layers:
        values = side.layer(layer)
        check_finite([values.reshape(len(values), -1)], [f"layer {layer!r} of {name}"])
