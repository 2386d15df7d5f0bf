"""Check the arguments of a command before a library that opens what they name is imported: the error comes at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .probes.arguments import checked


def check_experts(*names: str, more: Iterable[str] = ()) -> None:
    """Raise the error that says why an expert cannot be opened by its name.

    Parameters
    ----------
    *names : str
        Names, folders or Hub ids.
    more : iterable of str, optional
        Further names that the command knows.

    Raises
    ------
    FileNotFoundError, ValueError
        As `source_of` (models/experts/downloads/expert_sources.py).
    """
    from .models.experts.downloads.expert_sources import source_of

    for name in names:
        source_of(name, more=more)


def check_model(name: str) -> None:
    """Raise the error that says why neither a trained model nor an expert can be opened by its name.

    Parameters
    ----------
    name : str
        The folder of a trained model, or an expert.

    Raises
    ------
    FileNotFoundError, ValueError
        As `check_experts`, or as `BridgePlan.load` for the plan of the trained model.
    """
    if (plan := Path(name) / "plan.json").is_file():
        check_plans(plan)
    else:
        check_experts(name)


def check_plans(*files: str | Path) -> None:
    """Raise the error that says why a file holds no bridge plan.

    Parameters
    ----------
    *files : path
        The files.

    Raises
    ------
    FileNotFoundError, ValueError
        As `BridgePlan.load`.
    """
    from .probes.plans.bridge_plan import BridgePlan

    for file in files:
        BridgePlan.load(file)


def check_stores(*folders: Path) -> None:
    """Raise the error that says why a folder is no feature store.

    Parameters
    ----------
    *folders : Path
        The folders.

    Raises
    ------
    FileNotFoundError, ValueError
        There is none, or it is a file.
    """
    from .probes.features.store_folder import check_store

    for folder in folders:
        check_store(folder)


def check_measured(
    metric: str, k: int, timesteps: Sequence[float] | None = None, block: int = 1, tolerance: float | None = None
) -> None:
    """Raise the error that says why nothing can be measured in such a way, whatever the features are.

    Parameters
    ----------
    metric, k, block, tolerance
        As of `alignment_curve`.
    timesteps : sequence of float or None
        The noise levels that are asked for.

    Raises
    ------
    ValueError
        A name is unknown, or a number out of its range.
    """
    from .probes.comparison_options import check_comparison

    check_comparison(metric=metric, k=k, block=block, tolerance=tolerance)
    checked("timesteps", timesteps, Sequence[float] | None, above=0, most=1, remedy="0 is the clean image, 1 is noise")


def check_stimuli(data: str, limit: int | None) -> None:
    """Raise the error that says why stimuli cannot be opened by their name.

    Parameters
    ----------
    data : str
        A picture set, scenes-PART, or a folder or file.
    limit : int or None
        How many are shown at most.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_stimuli` and `scene_stimuli`.
    """
    from .probes.stimuli.sources import load_stimuli

    checked("limit", limit, int | None, least=1, remedy="leave it out for all")
    if data.startswith("scenes-"):
        from .models.scenes.scene import check_part

        check_part(data.removeprefix("scenes-"))
    elif not Path(data).expanduser().exists():
        load_stimuli(data, 1)
