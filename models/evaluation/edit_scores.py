"""Score edited images: what had to change, and what had to stay, by object and by pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ..scenes.checker import DetectedThing, detect_things, quarter_of
from ..scenes.edits import Edit
from ..scenes.scene import QUARTERS, SIZE, Thing

TOLERANCE = 51  # of 255: how far a pixel may be off in any channel, and still count as the same
PIXELS_HELD = 0.9  # the share of pixels that has to be the same for an edit to have left the rest alone

Look = tuple[str | None, str | None]


class EditScore(NamedTuple):
    """Hold what an edited image has changed and left alone.

    Attributes
    ----------
    change : float
        1 if every quarter that had to change shows what was asked for, else 0.
    stay_objects : float
        The share of the things that had to stay which are there, in colour, shape and quarter. Things that appear in
        quarters that had to stay count as things that did not.
    stay_pixels : float
        The share of the pixels that are the same as in the source, within `TOLERANCE`, over the quarters that had to
        stay, where the source or the image is not white.
    """

    change: float
    stay_objects: float
    stay_pixels: float

    @property
    def success(self) -> bool:
        """Whether all three hold: the change, every object, and `PIXELS_HELD` of the pixels."""
        return self.change == 1 and self.stay_objects == 1 and self.stay_pixels >= PIXELS_HELD


def score_edit(edit: Edit, source: Image.Image, result: Image.Image) -> EditScore:
    """Score what a model made of a source by an instruction, from pixels alone.

    Parameters
    ----------
    edit : Edit
        What was asked for.
    source, result : PIL.Image.Image
        32x32 RGB: the image that was given, and the one that was made of it.

    Returns
    -------
    EditScore
        All 1 for the true result; change 0 and the others 1 for the source itself.

    Raises
    ------
    ValueError
        If an image has another size, or is not RGB.

    See Also
    --------
    score_edits : Scores many, as a table.
    matches_caption : Checks an image against a caption, where there is no source.

    Examples
    --------
    >>> edit = scene_edits("test", 1)[0]
    >>> source, result = render_edit(edit, np.random.default_rng(0))
    >>> score_edit(edit, source, result)
    EditScore(change=1.0, stay_objects=1.0, stay_pixels=1.0)
    """
    for name, image in (("source", source), ("result", result)):
        if image.size != (SIZE, SIZE) or image.mode != "RGB":
            width, height = image.size
            raise ValueError(f"the {name} is a {width}x{height} {image.mode} image: give one of {SIZE}x{SIZE} RGB")
    found: list[list[Look]] = [[] for _ in QUARTERS]
    for thing in detect_things(result):
        found[quarter_of(thing)].append(_look(thing))
    changed = set(edit.changed)
    kept = [(thing.quarter, _look(thing)) for thing in edit.kept]
    there = [(quarter, look) for quarter in range(len(QUARTERS)) if quarter not in changed for look in found[quarter]]
    held = sum((Counter(kept) & Counter(there)).values())
    strangers = len(there) - held
    return EditScore(
        float(_has_changed(edit, found)),
        held / (len(kept) + max(0, strangers - (len(kept) - held))),
        _same_pixels(np.asarray(source, float), np.asarray(result, float), changed),
    )


def score_edits(edits: Sequence[Edit], sources: Sequence[Image.Image], results: Sequence[Image.Image]) -> pd.DataFrame:
    """Score what a model made of sources by instructions, one row for each.

    Parameters
    ----------
    edits : sequence of Edit
        What was asked for.
    sources, results : sequence of PIL.Image.Image
        The images that were given, and those that were made of them.

    Returns
    -------
    DataFrame
        Columns kind, source, instruction; change, stay_objects, stay_pixels and success, from 0 to 1. A model that
        copies its source has change and success 0, and both others 1.

    Raises
    ------
    ValueError
        If there are no edits, as many images are not there, or an image has another size.

    See Also
    --------
    scene_edits : Composes the edits that are scored.
    bridgework.models.evaluate : Scores drawing from captions.

    Examples
    --------
    >>> edits, rng = scene_edits("test", 1), np.random.default_rng(0)
    >>> sources, results = zip(*(render_edit(edit, rng) for edit in edits))
    >>> float(score_edits(edits, sources, results)["success"].mean())
    1.0
    """
    if not edits or not len(edits) == len(sources) == len(results):
        raise ValueError(
            f"{len(edits)} edits, {len(sources)} sources and {len(results)} results: give as many of each, at least one"
        )
    rows = []
    for edit, source, result in zip(edits, sources, results, strict=True):
        score = score_edit(edit, source, result)
        said = {"kind": edit.kind, "source": edit.source.caption, "instruction": edit.instruction}
        rows.append(said | score._asdict() | {"success": float(score.success)})
    return pd.DataFrame(rows)


def _look(thing: Thing | DetectedThing) -> Look:
    return thing.colour, thing.shape


def _has_changed(edit: Edit, found: Sequence[Sequence[Look]]) -> bool:
    """Return whether the quarters that may change show what was asked for, and nothing else."""
    wanted = {thing.quarter: [_look(thing)] for thing in edit.result.things}
    if edit.kind == "count up":  # it may come into any free quarter
        shown = [look for quarter in edit.changed for look in found[quarter]]
        return shown == [look for quarter in edit.changed for look in wanted.get(quarter, [])]
    return all(list(found[quarter]) == wanted.get(quarter, []) for quarter in edit.changed)


def _same_pixels(source: np.ndarray, result: np.ndarray, changed: set[int]) -> float:
    """Return the share of inked pixels that are the same, outside of the quarters that may change."""
    half = SIZE // 2
    stays = np.ones((SIZE, SIZE), dtype=bool)
    for quarter in changed:
        top, left = (half * place for place in divmod(quarter, 2))
        stays[top : top + half, left : left + half] = False
    inked = stays & ((255 - np.minimum(source, result)).max(-1) > TOLERANCE)
    same = np.abs(source - result).max(-1) <= TOLERANCE
    return float(same[inked].mean()) if inked.any() else 1.0
