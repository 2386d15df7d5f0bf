"""Draw images that a model made, with their captions and the checker's verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from .publishing.drawn import Drawn, remember
from .publishing.page import page_height, page_width, panels_across, points
from .style import NO, YES, panels, styled


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
    if not len(images) or not len(images) == len(captions) == len(verdicts):
        counts = f"{len(images)} images, {len(captions)} captions, {len(verdicts)} verdicts"
        raise ValueError(f"sample_grid: {counts}: expected as many of each, at least one")
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


def _picture(image: object, place: int) -> np.ndarray:
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"sample_grid: image {place} has shape {array.shape}: expected (height, width) or (.., .., 3)")
    if array.dtype != np.uint8 and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"sample_grid: image {place} has values out of 0..1: clip it, or pass uint8")
    return array
