"""Open the stimuli that a command names, and say the call of the package that opens them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .command_checks import check_stimuli

SCENES = 512  # scenes that are composed if nobody says how many


def open_stimuli(data: str, limit: int | None, part: str | None, **columns: Any) -> tuple[Any, str]:
    """Return the stimuli that a command names, and the call of the package that returns them.

    Parameters
    ----------
    data : str
        A picture set, scenes-PART, or a folder, table or archive.
    limit : int or None
        How many are shown at most.
    part : str or None
        One part of the data.
    **columns
        Keywords of `load_stimuli`; those that are None are left out.

    Returns
    -------
    stimuli : Stimuli
        The stimuli.
    call : str
        The call.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As `load_stimuli` and `scene_stimuli`; or scenes are given what they have of their own.
    """
    from .models.scenes.composing import scene_stimuli
    from .probes.stimuli.sources import load_stimuli

    check_stimuli(data, limit)
    scenes, given = data.removeprefix("scenes-"), {name: value for name, value in columns.items() if value is not None}
    if data != scenes:
        if named := [*given, *(["part"] if part is not None else [])]:
            raise ValueError(f"{data} has images, texts and a part of its own: leave out {', '.join(named)}")
        count = SCENES if limit is None else limit
        return scene_stimuli(scenes, count), f'scene_stimuli("{scenes}", {count})'
    # Whole paths, so that a script with the call runs in any folder.
    whole = {name: value.resolve() if isinstance(value, Path) else value for name, value in given.items()}
    source = Path(data).resolve() if Path(data).exists() and (Path(data).suffix or "/" in data) else data
    words = ", ".join([f'"{source}"', *(f'{name}="{value}"' for name, value in whole.items())])
    if part is not None:
        few = "" if limit is None else f"[:{limit}]"
        shown = load_stimuli(data, **given).part(part)[: None if limit is None else max(limit, 0)]
        return shown, f'load_stimuli({words}).part("{part}"){few}'
    few = "" if limit is None else f", limit={limit}"
    return load_stimuli(data, limit, **given), f"load_stimuli({words}{few})"
