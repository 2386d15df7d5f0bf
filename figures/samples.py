"""Draw images that a model made, with their captions or instructions and the checker's verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ..probes.arguments import checked
from .publishing.drawn import Drawn, remember
from .publishing.page import page_height, page_width, panels_across, points
from .style import NO, QUIET, YES, need, panels, styled


@styled
def sample_grid(images: Sequence, captions: Sequence[str], verdicts: Sequence[bool]) -> Figure:
    """Draw generated images with their captions and the checker's verdicts, as a coloured frame and a tick or cross.

    Parameters
    ----------
    images : sequence of PIL images or arrays
        Arrays are (height, width) or (height, width, 3), uint8 or float in 0..1.
    captions : sequence of str
        The caption of each image.
    verdicts : sequence of bool
        Whether each image shows what its caption says.

    Returns
    -------
    Figure
        The images, at most six in a row.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If there are no images, or if lengths differ, an array has another shape, or floats lie out of 0..1.

    See Also
    --------
    bridgework.models.generate : Draws the images that are shown here.
    bridgework.models.evaluate : Scores many of them, where this shows a few.

    Examples
    --------
    >>> images = generate(dit, ["a red circle"], ["first"], steps=2)
    >>> figure = figures.sample_grid(images, ["a red circle"], [True])
    """
    for name, given in (("images", images), ("captions", captions), ("verdicts", verdicts)):
        if isinstance(given, str) or not hasattr(given, "__len__"):
            raise TypeError(f"sample_grid: {name} is a {type(given).__name__}: expected a list, one part an image")
    if not len(images) or not len(images) == len(captions) == len(verdicts):
        counts = f"{len(images)} images, {len(captions)} captions, {len(verdicts)} verdicts"
        raise ValueError(f"sample_grid: {counts}: expected as many of each, at least one")
    for place, caption in enumerate(captions):
        checked(f"caption {place}", caption, str)
    pictures = [_picture(image, place) for place, image in enumerate(images)]
    columns = panels_across(len(images), 6, 1.0)
    rows = -(-len(images) // columns)
    lines = max(fill(caption, 20).count("\n") + 1 for caption in captions)
    width = page_width(max(1.55 * columns, 4.4))
    height = page_height(1.45 + 0.16 * lines, width / columns + 0.14 * lines) * rows + page_height(0.4, 0.25)
    figure, grid = panels(rows, columns, (width, height))
    for ax in grid.flat[len(images) :]:
        ax.remove()
    for ax, picture, caption, verdict in zip(grid.flat, pictures, captions, verdicts, strict=False):
        colour, mark = (YES, "✓") if verdict else (NO, "✗")
        ax.imshow(picture, cmap="gray", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set(visible=True, color=colour, linewidth=page_height(2.5, 1.5))
        ax.set_xlabel(fill(caption, 20), fontsize=points(8), labelpad=page_height(4, 2))
        badge = {"boxstyle": "circle,pad=0.18", "facecolor": colour, "edgecolor": "white", "linewidth": 1}
        ax.annotate(
            mark, (1, 1), ha="center", va="center", xycoords="axes fraction", color="white",
            size=points(8), bbox=badge,
        )  # fmt: skip
    right = sum(bool(verdict) for verdict in verdicts)
    figure.suptitle(f"{right} of {len(images)} show what the caption says  (✓ yes, ✗ no)", fontsize=points(10))
    table = pd.DataFrame({"caption": list(captions), "correct": [bool(verdict) for verdict in verdicts]})
    table["image_sha256"] = [sha256(np.ascontiguousarray(picture).tobytes()).hexdigest() for picture in pictures]
    text = f"Generated images with their captions: {right} of {len(images)} show what the caption says."
    shown = pd.DataFrame([{"images": len(images), "correct": right, "share": right / len(images)}])
    remember(figure, Drawn("sample_grid", {"samples": table}, text, shown))
    return figure


EDIT_COLUMNS = ("kind", "instruction", "change", "stay_objects", "stay_pixels", "success", "source_png", "result_png")


@styled
def edit_grid(table: pd.DataFrame) -> Figure:
    """Draw edits beside each other: the source above, the instruction, what a model made of it below, and the verdict.

    The verdict has three parts: whether what had to change has changed; the share of the objects that had to stay and
    are there; the share of the pixels that had to stay and are the same. A frame is blue where all three hold.

    Parameters
    ----------
    table : DataFrame
        One row for each edit: what `score_edits` returns, with source_png and result_png, the images as PNG, as the
        samples.parquet of the study holds them.

    Returns
    -------
    Figure
        At most six edits in a row.

    Raises
    ------
    TypeError
        If `table` is no DataFrame.
    ValueError
        If columns or rows are missing.

    See Also
    --------
    sample_grid : Draws images that have no source.
    bridgework.models.score_edits : Scores the edits that are drawn here.

    Examples
    --------
    >>> figure = figures.edit_grid(edited)                        # as `score_edits` returns it, with the images
    """
    table = need(table, EDIT_COLUMNS, "edit_grid", "bridgework reproduce editing")
    columns = panels_across(len(table), 6, 1.0)
    rows = -(-len(table) // columns)
    width = page_width(max(1.75 * columns, 4.4))
    size = width, page_height(4.6, 2 * width / columns + 0.9) * rows + page_height(0.4, 0.25)
    figure, grid = panels(2 * rows, columns, size)
    for place, ax in enumerate(grid.reshape(rows, 2, columns).swapaxes(1, 2).reshape(-1, 2)):
        if place >= len(table):
            for empty in ax:
                empty.remove()
            continue
        row = table.iloc[place]
        colour = YES if row["success"] else NO
        for part, name, frame in ((ax[0], "source_png", QUIET), (ax[1], "result_png", colour)):
            with Image.open(BytesIO(row[name])) as image:
                part.imshow(image.convert("RGB"))
            part.set(xticks=[], yticks=[])
            part.grid(False)
            part.spines[:].set(visible=True, color=frame, linewidth=page_height(2.5, 1.5) if frame != QUIET else 0.8)
        ax[0].set_xlabel(fill(str(row["instruction"]), 22), fontsize=points(8), labelpad=page_height(4, 2))
        changed = "✓" if row["change"] else "✗"
        verdict = f"change {changed}\nobjects {row['stay_objects']:.0%}, pixels {row['stay_pixels']:.0%}"
        ax[1].set_xlabel(verdict, fontsize=points(8), labelpad=page_height(4, 2), color=colour)
    for first, name in zip(grid[:2, 0], ("source", "result"), strict=True):
        first.set_ylabel(name, fontsize=points(9))
    right = int(table["success"].sum())
    figure.suptitle(f"{right} of {len(table)} edits succeed", fontsize=points(10))
    text = (
        f"Edits of scenes: the source above, the instruction, the result below. {right} of {len(table)} make the "
        "change that was asked for and leave every other object, and nearly every other pixel, as it was."
    )
    numbers = table[[*EDIT_COLUMNS[:-2]]].reset_index(drop=True)
    remember(figure, Drawn("edit_grid", {"edits": numbers}, text, numbers))
    return figure


def _picture(image: object, place: int) -> np.ndarray:
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if array.dtype.kind not in "fiub" or not array.size:
        raise TypeError(f"sample_grid: image {place} is no picture: expected a PIL image, or an array of numbers")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"sample_grid: image {place} has shape {array.shape}: expected (height, width) or (.., .., 3)")
    if array.dtype != np.uint8 and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"sample_grid: image {place} has values out of 0..1: clip it, or pass uint8")
    return array
