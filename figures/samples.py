"""What a fused model made, and how it scored: samples with their verdicts, and the share of the gap closed."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from .style import NO, QUIET, YES, need, styled


@styled
def sample_grid(images: Sequence, captions: Sequence[str], verdicts: Sequence[bool]) -> Figure:
    """Generated images with their captions and the checker's verdicts, as a coloured frame and a tick or cross.

    ``images``: PIL images or arrays, (height, width) or (height, width, 3), uint8 or float in 0..1; ``captions`` and
    ``verdicts`` of the same length. Raises ValueError for none, unequal lengths, other shapes or floats out of 0..1.
    """
    if not len(images) or not len(images) == len(captions) == len(verdicts):
        counts = f"{len(images)} images, {len(captions)} captions, {len(verdicts)} verdicts"
        raise ValueError(f"sample_grid: {counts}: expected as many of each, at least one")
    pictures = [_picture(image, place) for place, image in enumerate(images)]
    columns = min(len(images), 6)
    rows = -(-len(images) // columns)
    lines = max(fill(caption, 20).count("\n") + 1 for caption in captions)
    figure, grid = plt.subplots(
        rows, columns, figsize=(max(1.55 * columns, 4.4), (1.45 + 0.16 * lines) * rows + 0.4), squeeze=False
    )
    for ax in grid.flat[len(images) :]:
        ax.remove()
    for ax, picture, caption, verdict in zip(grid.flat, pictures, captions, verdicts, strict=False):
        colour, mark = (YES, "✓") if verdict else (NO, "✗")
        ax.imshow(picture, cmap="gray", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set(visible=True, color=colour, linewidth=2.5)
        ax.set_xlabel(fill(caption, 20), fontsize=8, labelpad=4)
        badge = {"boxstyle": "circle,pad=0.18", "facecolor": colour, "edgecolor": "white", "linewidth": 1}
        ax.annotate(mark, (1, 1), ha="center", va="center", xycoords="axes fraction", color="white", size=8, bbox=badge)
    right = sum(bool(verdict) for verdict in verdicts)
    figure.suptitle(f"{right} of {len(images)} show what the caption says  (✓ yes, ✗ no)", fontsize=10)
    return figure


@styled
def gap_closed(table: pd.DataFrame) -> Figure:
    """Share of the gap closed per plan, best mean on top: each seed a small dot, the mean a large one.

    ``table`` has columns plan, seed, score, share; share 0 is the floor (shuffled captions), share 1 the ceiling (the
    expert's own text route). The interval is Student's 95 % t interval of the mean over seeds; one seed has none.
    Raises TypeError or ValueError for another table or a seed named twice for one plan.
    """
    table = need(table, ("plan", "seed", "score", "share"), "gap_closed", "the evaluation of the fused models")
    if table.duplicated(["plan", "seed"]).any():
        row = table[table.duplicated(["plan", "seed"])].iloc[0]
        raise ValueError(f"gap_closed: plan {row.plan!r} has seed {row.seed} twice: pass one row per plan and seed")
    means = table.groupby("plan", sort=False).share.mean().sort_values()
    figure, ax = plt.subplots(figsize=(7.2, 1.3 + 0.5 * len(means)))
    for height, (plan, mean) in enumerate(means.items()):
        shares = table.share[table.plan == plan]
        count = len(shares)
        text = f"{mean:.2f}"
        if count > 1:
            half = float(stats.t.ppf(0.975, count - 1) * shares.std() / np.sqrt(count))
            ax.plot([mean - half, mean + half], [height, height], color=YES, lw=2, solid_capstyle="butt")
            text += f"  [{mean - half:.2f}, {mean + half:.2f}]"
        ax.plot(shares, np.full(count, height + 0.22), "o", color=QUIET, ms=4, mew=0, alpha=0.8)
        ax.plot([mean], [height], "o", color=YES, ms=8)
        ax.annotate(
            f"{text}  n = {count}",
            (1.02, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )
    for value, name in ((0, "floor:\nshuffled captions"), (1, "ceiling:\nown text route")):
        ax.axvline(value, color=QUIET, lw=1, ls=(0, (4, 2)), zorder=1.5)
        ax.annotate(
            name, (value, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center",
            va="bottom", fontsize=8, color=QUIET, annotation_clip=False,
        )  # fmt: skip
    ax.set_yticks(range(len(means)), [str(plan) for plan in means.index], fontsize=9)
    ax.set(
        xlabel="share of the gap closed (small dots: seeds; bar: 95 % t interval of the mean)",
        ylim=(-0.6, len(means) - 0.4),
    )
    ax.grid(visible=False)
    left, right = ax.get_xlim()
    ax.set_xlim(min(left, -0.05), max(right, 1.05))
    return figure


def _picture(image: object, place: int) -> np.ndarray:
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"sample_grid: image {place} has shape {array.shape}: expected (height, width) or (.., .., 3)")
    if array.dtype != np.uint8 and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"sample_grid: image {place} has values out of 0..1: clip it, or pass uint8")
    return array
