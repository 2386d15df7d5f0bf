"""Pack what the explorer's page needs: a header of plain JSON, and one run of bytes that holds all arrays."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.colors import to_hex
from PIL import Image, ImageOps

from ...probes.metrics.metric import Array
from ...probes.plans.matching import count_blocks
from ...probes.stimuli.stimulus_set import Stimuli
from .explored_layers import LIVE, ExploredLayers
from .map_views import MapView

COLOURS = 128
THUMBNAIL = 64  # pixels


class Bundle(NamedTuple):
    """Hold what a page needs.

    Attributes
    ----------
    header : dict
        Plain JSON, without NaN.
    data : bytes
        The arrays, at the offsets that the header says.
    """

    header: dict[str, Any]
    data: bytes


def pack(arrays: Mapping[str, Array]) -> tuple[dict[str, Any], bytes]:
    """Put arrays behind each other.

    Parameters
    ----------
    arrays : mapping of str to Array
        The arrays by name, of dtypes that JavaScript has.

    Returns
    -------
    dict
        By name, dtype, shape and offset.
    bytes
        The arrays, each at a multiple of 8 bytes, little-endian.
    """
    listed, parts, offset = {}, [], 0
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        listed[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}
        raw += bytes(-len(raw) % 8)
        parts.append(raw)
        offset += len(raw)
    return listed, b"".join(parts)


def make_bundle(
    explored: ExploredLayers, views: Iterable[MapView], start: Mapping[str, Any], stimuli: Stimuli | None
) -> Bundle:
    """Make the bundle of an explorer.

    Parameters
    ----------
    explored : ExploredLayers
        Both sides.
    views : iterable of MapView
        The maps that have been measured; those of mutual_knn are left to the page, except that one is its pattern.
    start : mapping
        What the page begins with, under "start", and other entries of the header: metrics, plan, costs, costed.
    stimuli : Stimuli or None
        The stimuli, for thumbnails and captions.

    Returns
    -------
    Bundle
        Header and arrays.
    """
    views = list(views)
    rows, columns = explored.ranks()
    found = [one for some in (rows, *columns) for one in some if one is not None]
    ranks = found[0].shape[1] if found else 1
    word = np.uint16 if explored.samples < 2**16 else np.uint32
    blank = np.zeros((explored.samples, ranks), word)

    def stacked(layers: Iterable[Array | None]) -> Array:
        return np.stack([blank if one is None else one.astype(word) for one in layers])

    def missing(layers: Iterable[Array | None]) -> list[int]:
        return [place for place, one in enumerate(layers) if one is None]

    arrays = {
        "rows": stacked(rows),
        "columns": np.stack([stacked(some) for some in columns]),
        "orders": explored.orders.astype(word),
        "halves": explored.halves.astype(word),
    }
    metas = []
    for number, view in enumerate(views):
        meta, held = describe_view(view, f"view{number}")
        if view.metric != LIVE:
            metas.append(meta)
            arrays |= held
    pattern = views[0].heat
    blocks = count_blocks(pattern)
    x_about, y_about = explored.about
    header: dict[str, Any] = {
        "live": LIVE,
        "samples": explored.samples,
        "ranks": ranks,
        "mostK": explored.largest_k,
        "halfK": [0, *(explored.near(LIVE, k) for k in range(1, explored.largest_k + 1))],
        "permutations": len(explored.orders),
        "splits": len(explored.halves),
        "half": explored.half,
        "rows": [str(name) for name in explored.rows],
        "columns": [str(name) for name in explored.columns],
        "rowBlocks": [_block(name) for name in explored.rows],
        "columnBlocks": [_block(name) for name in explored.columns],
        "understandingLayers": blocks[0],
        "generationLayers": blocks[1],
        "undefinedRows": missing(rows),
        "undefinedColumns": [missing(some) for some in columns],
        "timesteps": list(explored.timesteps),
        "origin": {"understanding": _origin(x_about), "generation": _origin(y_about[0])},
        "about": {
            "both": {"x_depths": explored.depths[0], "y_depths": explored.depths[1]},
            "x": x_about,
            "y": y_about,
        },
        "views": metas,
        "ids": list(explored.ids),
        "texts": None,
        "sprite": None,
        "colours": [to_hex(colour) for colour in sns.color_palette("mako", COLOURS)],
        **start,
    }
    if stimuli is not None:
        places = {id: place for place, id in enumerate(stimuli.ids)}
        header["texts"] = [stimuli.texts[places[id]] for id in explored.ids]
        sprite, across, down = draw_thumbnails([stimuli[places[id]].image for id in explored.ids])
        header["sprite"] = {"columns": across, "rows": down}
        arrays["sprite"] = np.frombuffer(sprite, np.uint8)
    header["arrays"], data = pack(arrays)
    return Bundle(header, data)


def describe_view(view: MapView, key: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Describe a view for the page.

    Parameters
    ----------
    view : MapView
        The view.
    key : str
        What the names of its arrays begin with.

    Returns
    -------
    dict
        What the page knows of it, plain JSON.
    dict
        Its arrays.
    """
    attrs = view.heat.attrs
    meta = {
        "key": key,
        "metric": view.metric,
        "timestep": view.timestep,
        "k": view.k,
        "rule": view.rule,
        "chance": attrs.get("chance"),
        "scaled": bool(attrs.get("scaled")),
        "attrs": attrs,
        "noise": view.halves is not None or view.timestep is None,
    }
    arrays = {f"{key}.scores": view.heat.to_numpy(float)}
    for name, values, dtype in (
        ("p", view.p, float),
        ("adjusted", view.adjusted, float),
        ("null95", view.null95, float),
        ("halves", view.halves, np.float32),
    ):
        if values is not None:
            arrays[f"{key}.{name}"] = np.asarray(values, dtype)
    return meta, arrays


def draw_thumbnails(images: Iterable[Image.Image], side: int = THUMBNAIL) -> tuple[bytes, int, int]:
    """Draw all stimuli into one picture, row by row.

    Parameters
    ----------
    images : iterable of Image
        RGB images.
    side : int
        Pixels of a thumbnail's side.

    Returns
    -------
    bytes
        A JPEG.
    columns, rows : int
        How many thumbnails lie beside and below each other.
    """
    small = [ImageOps.pad(image.convert("RGB"), (side, side), color="white") for image in images]
    columns = math.ceil(math.sqrt(len(small)))
    rows = math.ceil(len(small) / columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for place, image in enumerate(small):
        sheet.paste(image, (place % columns * side, place // columns * side))
    written = io.BytesIO()
    sheet.save(written, "JPEG", quality=82)
    return written.getvalue(), columns, rows


def _block(name: object) -> int | None:
    return None if str(name) == "embeddings" else int(str(name))


def _origin(about: Mapping[str, Any]) -> str:
    return ", ".join(str(about[key]) for key in ("subject", "modality") if about.get(key))
