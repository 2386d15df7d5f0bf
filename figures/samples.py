"""Draw images that a model made, with their captions or instructions and the checker's verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
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
        if isinstance(given, str) or not hasattr(given, "__len__") or not getattr(given, "ndim", 1):
            raise TypeError(f"sample_grid: {name} is a {type(given).__name__}: expected a list, one part an image")
    if not len(images) or not len(images) == len(captions) == len(verdicts):
        counts = f"{len(images)} images, {len(captions)} captions, {len(verdicts)} verdicts"
        raise ValueError(f"sample_grid: {counts}: expected as many of each, at least one")
    for place, caption in enumerate(captions):
        checked(f"caption {place}", caption, str)
    for place, verdict in enumerate(verdicts):
        checked(f"verdict {place}", verdict, bool)
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
        _framed(ax, colour, page_height(2.5, 1.5))
        ax.set_xlabel(fill(caption, 20), fontsize=points(8), labelpad=page_height(4, 2))
        _badge(ax, mark, colour)
    right = sum(bool(verdict) for verdict in verdicts)
    figure.suptitle(f"{right} of {len(images)} show what the caption says  (✓ yes, ✗ no)", fontsize=points(10))
    table = pd.DataFrame({"caption": list(captions), "correct": [bool(verdict) for verdict in verdicts]})
    table["image_sha256"] = [sha256(np.ascontiguousarray(picture).tobytes()).hexdigest() for picture in pictures]
    text = f"Generated images with their captions: {right} of {len(images)} show what the caption says."
    shown = pd.DataFrame([{"images": len(images), "correct": right, "share": right / len(images)}])
    remember(figure, Drawn("sample_grid", {"samples": table}, text, shown))
    return figure


SCORED = ("kind", "instruction", "change", "stay_objects", "stay_pixels", "success")


@styled
def edit_grid(table: pd.DataFrame, by: str | None = None) -> Figure:
    """Draw edits beside each other: the instruction, the source, and below it what models made of it, with a verdict.

    The verdict has three parts: whether the change is made that was asked for; the share of the objects that had to
    stay and are there; the share of the pixels that had to stay and are the same. A frame is blue with a tick where all
    three hold, and orange with a cross elsewhere.

    Parameters
    ----------
    table : DataFrame
        One row for each edit: what `score_edits` returns, with source_png and result_png. These hold the images, as PNG
        (as in samples.parquet of the study) or as PIL images.
    by : str, optional
        A column of the table, such as the name of the model. Each of its values gets a row of results, and the source
        stands above them once. All values must have the same edits in the same order.

    Returns
    -------
    Figure
        At most six edits in a row.

    Raises
    ------
    TypeError
        If `table` is no DataFrame, `by` is no text, or an image is neither PNG nor a PIL image.
    ValueError
        If columns or rows are missing, or the values of `by` have different edits.

    See Also
    --------
    sample_grid : Draws images that have no source.
    bridgework.models.score_edits : Scores the edits that are drawn here.

    Examples
    --------
    >>> figure = figures.edit_grid(edited)  # score_edits(...).assign(source_png=sources, result_png=results)
    >>> compared = pd.concat([edited.assign(model="one"), edited.assign(model="other")])
    >>> figure = figures.edit_grid(compared, by="model")
    """
    checked("edit_grid, by", by, str | None, remedy="name a column of the table")
    named = [] if by is None else [by]
    table = need(table, (*SCORED, "source_png", "result_png", *named), "edit_grid", "bridgework reproduce editing")
    groups = [("result", table)] if by is None else table.groupby(by, sort=False, dropna=False)
    made = {str(name): rows for name, rows in groups}
    first = next(iter(made.values()))
    for name, rows in made.items():
        if list(rows["instruction"]) != list(first["instruction"]):
            raise ValueError(
                f"edit_grid: {by} {name!r} has other edits than {next(iter(made))!r}: pass the same of each"
            )
    columns = panels_across(len(first), 6, 1.0)
    blocks, parts = -(-len(first) // columns), 1 + len(made)
    said = [fill(str(words), 22) for words in first["instruction"]]
    lines = max(words.count("\n") + 1 for words in said)
    width = page_width(max(1.75 * columns, 4.4))
    high = parts * width / columns + page_height(0.17, 0.12) * lines + page_height(0.46, 0.28) * len(made)
    figure, grid = panels(parts * blocks, columns, (width, blocks * high + page_height(0.5, 0.4)))
    for place, column in enumerate(grid.reshape(blocks, parts, columns).swapaxes(1, 2).reshape(-1, parts)):
        if place >= len(first):
            for empty in column:
                empty.remove()
            continue
        _draw_image(column[0], first["source_png"].iloc[place], QUIET, 0.8)
        column[0].set_title(said[place], loc="center", fontsize=points(8), fontweight="normal", pad=page_height(4, 3))
        for ax, rows in zip(column[1:], made.values(), strict=True):
            _draw_edited(ax, rows.iloc[place])
    counted = {name: f"{int(rows['success'].sum())} of {len(rows)} succeed" for name, rows in made.items()}
    labels = ["source", *(name if by is None else f"{name}\n{words}" for name, words in counted.items())]
    for ax, label in zip(grid[:, 0], labels * blocks, strict=True):
        ax.set_ylabel(label, fontsize=points(8))
    rule = "the change is made,\nall objects and nearly all pixels are kept"
    right = int(table["success"].sum())
    title = f"{right} of {len(table)} edits succeed  (✓ {rule})" if by is None else f"✓ success: {rule}"
    figure.suptitle(title, fontsize=points(9))
    text = "Edits of scenes: the instruction, the source, and below it "
    text += "the result. " if by is None else f"the result of each of: {', '.join(made)}. "
    text += "; ".join(words if by is None else f"{name}: {words}" for name, words in counted.items())
    text += ". Then the change is made that was asked for, and every other object and nearly every other pixel is kept."
    numbers = table[[*named, *SCORED]].reset_index(drop=True)
    remember(figure, Drawn("edit_grid", {"edits": numbers}, text, numbers))
    return figure


def _draw_edited(ax: Axes, row: pd.Series) -> None:
    """Draw one result with its verdict."""
    colour, mark = (YES, "✓") if row["success"] else (NO, "✗")
    _draw_image(ax, row["result_png"], colour, page_height(2.5, 1.5))
    _badge(ax, mark, colour)
    kept = f"objects kept {row['stay_objects']:.0%}\npixels kept {row['stay_pixels']:.0%}"
    verdict = f"change {'made' if row['change'] else 'not made'}\n{kept}"
    ax.set_xlabel(verdict, fontsize=points(8), labelpad=page_height(4, 2), color=colour)


def _draw_image(ax: Axes, given: object, colour: str, line: float) -> None:
    """Draw the image of an edit with a frame."""
    if isinstance(given, bytes):
        with Image.open(BytesIO(given)) as image:
            given = image.convert("RGB")
    if not isinstance(given, Image.Image):
        raise TypeError(f"edit_grid: an image is a {type(given).__name__}: expected PNG as bytes, or a PIL image")
    ax.imshow(given.convert("RGB"), interpolation="nearest")
    _framed(ax, colour, line)


def _framed(ax: Axes, colour: str, line: float) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set(visible=True, color=colour, linewidth=line)


def _badge(ax: Axes, mark: str, colour: str) -> None:
    """Put a tick or cross on the upper right corner of an image."""
    badge = {"boxstyle": "circle,pad=0.18", "facecolor": colour, "edgecolor": "white", "linewidth": 1}
    ax.annotate(
        mark, (1, 1), ha="center", va="center", xycoords="axes fraction", color="white", size=points(8), bbox=badge
    )


def _picture(image: object, place: int) -> np.ndarray:
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if array.dtype.kind not in "fiub" or not array.size:
        raise TypeError(f"sample_grid: image {place} is no picture: expected a PIL image, or an array of numbers")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"sample_grid: image {place} has shape {array.shape}: expected (height, width) or (.., .., 3)")
    if array.dtype != np.uint8 and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"sample_grid: image {place} has values out of 0..1: clip it, or pass uint8")
    return array
