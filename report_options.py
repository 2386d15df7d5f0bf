"""Declare the options of `report`; this module imports no library of models, so that what is wrong is said at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .figures.publishing.page import VENUES
from .probes.arguments import check_options, option
from .probes.comparison_options import DEFAULT_METRIC, METRIC_NAMES, MOST_DRAWS
from .probes.plans.choice_options import FEWEST_DRAWS


@dataclass(frozen=True)
class ReportOptions:
    """Hold the options of `bridgework report`, each with its help.

    Attributes
    ----------
    timesteps
        The noise levels of generation; the layer map is of the middle one.
    metric, k, bridges, draws
        As of `alignment_curve` and `choose_bridges`.
    twin
        Whether the experts' twins with random weights are probed as well, as a control.
    controls
        Whether bundled scenes are shown again with words scrambled and with an object removed, as controls.
    venue, columns
        As of `figures.paper`.
    device, batch_size
        As of `extract`.

    Raises
    ------
    ValueError, TypeError
        A field has an unknown value, a number out of its range or another type.
    """

    timesteps: Sequence[float] = option(
        (0.2, 0.5, 0.8),
        "The noise levels of generation; the layer map is of the middle one.",
        {"above": 0, "most": 1, "remedy": "0 is the clean image, 1 is noise"},
        type=float,
        nargs="+",
        metavar="T",
    )
    metric: str = option(DEFAULT_METRIC, "The similarity of curves and maps.", {"known": METRIC_NAMES})
    k: int = option(10, "The number of neighbours of mutual_knn and cknna.", {"least": 1})
    bridges: int = option(4, "How many bridges the plans have.", {"least": 1})
    draws: int = option(
        200,
        "Random halves of the samples that say how stable the plan of the map is.",
        {"least": FEWEST_DRAWS, "most": MOST_DRAWS, "remedy": "200 are usual"},
    )
    twin: bool = option(True, "Probe the experts' twins with random weights as a control.")
    controls: bool = option(
        True, "Show bundled scenes again with words scrambled and with an object removed, as controls."
    )
    venue: str | None = option(
        None, "Draw for a venue's paper: cvpr, icml, neurips or iclr. (default: for the screen)", {"known": VENUES}
    )
    columns: int = option(1, "How many columns of the venue's page a figure takes.", {"least": 1, "most": 2})
    device: str = option("auto", "The device that the experts run on, such as cuda:1.")
    batch_size: int = option(32, "How many stimuli are shown at once.", {"least": 1})

    def __post_init__(self) -> None:
        check_options(self)
