"""Show stimuli, features, subjects and plans in a notebook, as small HTML tables, thumbnails and drawings."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import islice
from typing import Any

from PIL import Image

SIDE = 72  # pixels of a thumbnail
SHOWN = 8  # thumbnails of a set
STEP, GAP, EDGE, RADIUS = 18, 130, 24, 5  # of the drawing of a plan, in pixels


def table_view(title: str, rows: Mapping[str, object]) -> str:
    """Return a table of two columns, names and what they are.

    Parameters
    ----------
    title : str
        What stands above it.
    rows : mapping of str to object
        The rows; a value that is already HTML is an `Html`.

    Returns
    -------
    str
        HTML.
    """
    style = "text-align:left;vertical-align:top;padding:1px 8px"
    lines = [
        f'<tr><th style="{style}">{escape(name)}</th><td style="{style}">{_cell(value)}</td></tr>'
        for name, value in rows.items()
    ]
    return f"<div><strong>{escape(title)}</strong><table>{''.join(lines)}</table></div>"


class Html(str):
    """Mark text that is HTML already, and is not escaped."""


def _cell(value: object) -> str:
    return value if isinstance(value, Html) else escape(str(value))


def thumbnails(shown: Iterable[tuple[Image.Image, str]]) -> Html:
    """Return the first images of a set with their texts, small, inside the page.

    Parameters
    ----------
    shown : iterable of (PIL.Image.Image, str)
        Images and texts. No more than 8 are read.

    Returns
    -------
    Html
        Figures side by side.
    """
    parts = []
    for image, text in islice(shown, SHOWN):
        small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        written = BytesIO()
        small.save(written, "PNG")
        source = base64.b64encode(written.getvalue()).decode()
        label = escape(text if len(text) <= 40 else f"{text[:39]}…")
        parts.append(
            f'<figure style="display:inline-block;width:{SIDE + 24}px;margin:2px;vertical-align:top;text-align:center">'
            f'<img src="data:image/png;base64,{source}" alt="{label}">'
            f'<figcaption style="font-size:11px">{label}</figcaption></figure>'
        )
    return Html("".join(parts))


def plan_drawing(pairs: Sequence[tuple[int, int]], understanding: int, generation: int) -> Html:
    """Return the blocks of two towers, with a line for each bridge, as SVG.

    Parameters
    ----------
    pairs : sequence of (int, int)
        (understanding block, generation block).
    understanding, generation : int
        The number of blocks of each tower. The first block is at the bottom.

    Returns
    -------
    Html
        An SVG element.
    """
    height = EDGE * 2 + STEP * (max(understanding, generation) - 1)
    width = GAP + 2 * 50
    left, right = 50, 50 + GAP

    def place(block: int) -> int:
        return height - EDGE - STEP * block

    parts = [
        f'<line x1="{left}" y1="{place(u)}" x2="{right}" y2="{place(g)}" stroke="#b5482a" stroke-width="2"/>'
        for u, g in pairs
    ]
    for x, count, bridged, shift in (
        (left, understanding, {u for u, _ in pairs}, -12),
        (right, generation, {g for _, g in pairs}, 12),
    ):
        for block in range(count):
            fill = "#b5482a" if block in bridged else "#ffffff"
            parts.append(f'<circle cx="{x}" cy="{place(block)}" r="{RADIUS}" fill="{fill}" stroke="#555555"/>')
            if block in bridged:
                anchor = "end" if shift < 0 else "start"
                parts.append(f'<text x="{x + shift}" y="{place(block) + 4}" text-anchor="{anchor}">{block}</text>')
    parts += [
        f'<text x="{left}" y="{height - 4}" text-anchor="middle">understanding</text>',
        f'<text x="{right}" y="{height - 4}" text-anchor="middle">generation</text>',
    ]
    head = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    style = 'font-size="11" font-family="sans-serif"'
    return Html(f'<svg xmlns="http://www.w3.org/2000/svg" {head} {style} fill="#333333">{"".join(parts)}</svg>')


class SubjectView:
    """Give a subject a table in notebooks: model, blocks, tasks, modalities, weights."""

    def _repr_html_(self) -> str:
        subject: Any = self
        weights = list(subject.model.parameters())
        kinds = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights})
        places = sorted({str(weight.device) for weight in weights})
        rows: dict[str, object] = {
            "model": type(subject.model).__name__,
            "blocks": f"{len(subject.blocks)}, {subject.blocks[0]} to {subject.blocks[-1]}",
            "modalities": ", ".join(subject.modalities),
            "tasks": ", ".join(f"{t} at timesteps" if t in subject.timed_tasks else t for t in subject.tasks),
            "weights": f"{sum(weight.numel() for weight in weights):,} in {', '.join(kinds)} on {', '.join(places)}",
        }
        return table_view(subject.name, rows)
