"""Declare the options of `report`; this module imports no model, so that the command's help comes at once."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EvaluationOptions:
    """Hold the options of `report`, each with the sentence that `bridgework evaluate --help` shows.

    Attributes
    ----------
    part, each, seed, dense, distance, cost
        As the arguments of `report` (models/evaluation/reporting.py).

    Notes
    -----
    The metadata of a field are keywords of `argparse.ArgumentParser.add_argument`. The help of a field whose default is
    None says what None stands for.
    """

    part: str = field(
        default="test", metadata={"help": "The scenes to score on: test (new scenes) or new (new combinations)."}
    )
    each: int = field(default=40, metadata={"help": "How many captions or questions of each skill are scored."})
    seed: int = field(default=0, metadata={"help": "The seed that the scenes are drawn with."})
    dense: bool = field(default=False, metadata={"help": "Score dense captions of two, three and four things as well."})
    distance: str | None = field(
        default=None,
        metadata={
            "help": "Measure the distance of drawn images to real ones as well, by the features of this expert; "
            "without a name, of dinov2-s. (default: no distance is measured)",
            "nargs": "?",
            "const": "dinov2-s",
            "metavar": "EXPERT",
        },
    )
    cost: bool = field(
        default=False,
        metadata={
            "help": "Measure what a training step costs as well: operations, time and memory.",
            "aliases": ("--costs",),
        },
    )
