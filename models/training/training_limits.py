"""Say which numbers a training run takes; recipes and `train` check them, and this module imports no model."""

from __future__ import annotations

from typing import Any

from ...probes.arguments import SEEDS, checked

KINDS: dict[str, Any] = {
    "steps": int,
    "seed": int,
    "batch_size": int,
    "learning_rate": float | None,
    "average": float | None,
    "validate": int,
    "shuffled": bool,
    "tensorboard": bool,
}
LIMITS: dict[str, dict[str, Any]] = {
    "steps": {"least": 1},
    "seed": SEEDS,
    "batch_size": {"least": 1, "most": 10**6},
    "learning_rate": {"above": 0, "remedy": "leave it out for the one that suits what is trained"},
    "average": {"above": 0, "below": 1, "remedy": "it is a decay, such as 0.99"},
    "validate": {"least": 0, "most": 10**6},
}


def check_training(**options: Any) -> dict[str, Any]:
    """Return options of training as plain numbers.

    Parameters
    ----------
    **options
        Arguments of `train`, by name.

    Returns
    -------
    dict
        The same, as `checked` returns them.

    Raises
    ------
    TypeError, ValueError
        One is of another type or out of its range; the message names it.
    """
    return {name: checked(name, value, KINDS[name], **LIMITS.get(name, {})) for name, value in options.items()}
