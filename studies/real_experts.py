"""Compare DINOv2-S with two text models on four sets of pictures, and measure what a first-token sink does.

Weights and pictures are not ours. `make setup` fetches the weights, `make stimuli` three of the four sets.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from ..models.experts.opening import open_expert
from ..probes.curves.curve import alignment_curve
from ..probes.extraction.extracting import extract_cached
from ..probes.features.layer_features import LayerFeatures
from ..probes.files import write_csv, write_parquet
from ..probes.similarity.nulls import map_null
from ..probes.similarity.scoring import used_k
from ..probes.stimuli.sources import load_stimuli
from ..probes.stimuli.stimulus_set import Stimuli
from .settings import METRICS

SEER = "dinov2-s"
READERS = ("minilm-l6", "smollm2-135m")
SETS = ("noto", "fluent", "tuxpaint", "openclipart")
SAMPLES = 480  # of every set: mutual-kNN depends on the number of samples, and the smallest set has 498
ANCHOR = 9  # index of DINOv2's block 8, at three quarters of the depth: its curves on the emoji peak there
FILES = ("real_curves.parquet", "real_sink.parquet", "real_maps.csv")


def measure_real(folder: Path, samples: int) -> None:
    """Compare DINOv2-S with the last layers of MiniLM-L6 and SmolLM2-135M on emoji, and write real.parquet.

    Parameters
    ----------
    folder : Path
        Folder of the table and of the stores of features.
    samples : int
        Number of emoji.
    """
    if not (folder / "real.parquet").exists():
        curves = image_curves(folder, load_stimuli("noto", limit=samples), metrics=METRICS[:1])
        write_parquet(folder / "real.parquet", curves.drop(columns="set"))


def measure_sets(folder: Path) -> None:
    """Measure everything below on all four sets, `SAMPLES` of each, and the curves on all of Noto as well.

    It writes real_curves.parquet (`image_curves` and `style_curves`), real_sink.parquet (`sink_curves`) and
    real_maps.csv (`map_peaks`).

    Parameters
    ----------
    folder : Path
        Folder of the tables and of the stores of features.
    """
    if all((folder / name).exists() for name in FILES):
        return
    sets = {name: load_stimuli(name, limit=SAMPLES) for name in SETS}
    curves = [image_curves(folder, stimuli) for stimuli in (*sets.values(), load_stimuli("noto"))]
    curves.append(style_curves(folder, sets["noto"], sets["fluent"]))
    maps = pd.concat([map_peaks(folder, stimuli) for stimuli in sets.values()], ignore_index=True)
    sink = pd.concat([sink_curves(folder, stimuli) for stimuli in sets.values()], ignore_index=True)
    write_parquet(folder / FILES[0], pd.concat(curves, ignore_index=True))
    write_parquet(folder / FILES[1], sink)
    write_csv(folder / FILES[2], maps.round(4))


def image_curves(folder: Path, stimuli: Stimuli, metrics: tuple[str, ...] = METRICS) -> pd.DataFrame:
    """Compare every layer of DINOv2-S and of its random-weight twin with the last layer of each text model.

    Parameters
    ----------
    folder : Path
        Folder of the stores of features.
    stimuli : Stimuli
        One set.
    metrics : tuple of str
        Names of the metrics.

    Returns
    -------
    pandas.DataFrame
        The columns of `alignment_curve`, control ("none" or "random weights") and set.
    """
    curves = []
    for twin, reader in product((False, True), READERS):
        image, text = images(folder, stimuli, twin), texts(folder, stimuli, reader)
        for metric in metrics:
            curve = alignment_curve(image, text.values[-1], metric, samples=text.samples)
            curves.append(curve.assign(subject=f"{SEER} x {reader}", control=control(twin), set=stimuli.name))
    return pd.concat(curves, ignore_index=True)


def style_curves(folder: Path, ours: Stimuli, theirs: Stimuli) -> pd.DataFrame:
    """Compare every layer of DINOv2-S with itself, on one set and on the same things drawn in another style.

    Parameters
    ----------
    folder : Path
        Folder of the stores of features.
    ours, theirs : Stimuli
        The two sets, in the same order.

    Returns
    -------
    pandas.DataFrame
        The columns of `image_curves`, for DINOv2-S and its random-weight twin.
    """
    curves = []
    for twin, metric in product((False, True), METRICS):
        curve = alignment_curve(images(folder, ours, twin), images(folder, theirs, twin), metric)
        curves.append(curve.assign(subject=SEER, control=control(twin), set=f"{ours.name} x {theirs.name}"))
    return pd.concat(curves, ignore_index=True)


def sink_curves(folder: Path, stimuli: Stimuli) -> pd.DataFrame:
    """Compare every layer of SmolLM2-135M, pooled in several ways, with block 8 of DINOv2-S and the last of MiniLM-L6.

    Behind the token that is put in front (`open_expert` measures it) the mean is taken over the words only (pooling
    "mean") or over the first token as well ("mean + special"), each raw and cleaned. Behind the begin token that the
    tokenizer declares, and with no token in front, it is taken over all words, those that are sinks as well ("mean +
    sinks"). By CKA the first token's weight in the mean, 1 / (1 + words), is compared as well: one number per caption
    (pooling "weight", without a layer).

    Parameters
    ----------
    folder : Path
        Folder of the stores of features.
    stimuli : Stimuli
        One set.

    Returns
    -------
    pandas.DataFrame
        set, against, front, pooling, layer, depth, metric, k, samples, score, null95, p.
    """
    curves: list[dict[str, Any]] = []
    anchors = {SEER: images(folder, stimuli).values[ANCHOR], READERS[0]: texts(folder, stimuli, READERS[0]).values[-1]}
    reader = open_expert(READERS[1])
    words: Any = reader.show(stimuli, ("text",), "understanding", None).tokens["text"]
    weight = 1 / (1 + words.sum(1).double())
    pooled: list[tuple[str, str, Any, Any, Any]] = [(reader.front, "weight", [None], [None], weight[None, :, None])]
    for special in (False, True):
        raw = extract_cached(folder, reader, stimuli, special=special, cleaned=True)["text"]
        pooled += [(reader.front, text.pooling, text.layers, text.depths, text) for text in (raw, raw.cleaned) if text]
    for front in (reader.tokenizer.bos_token, ""):
        raw = extract_cached(folder, open_expert(READERS[1], front=front), stimuli, sinks=True)["text"]
        pooled.append((front or "none", raw.pooling, raw.layers, raw.depths, raw))
    for (front, pooling, layers, depths, text), (name, anchor), metric in product(pooled, anchors.items(), METRICS):
        if pooling == "weight" and metric != "cka":
            continue  # the cosine of one number is 1 or -1: neighbours would be half of the samples
        null = map_null(text, anchor[None], metric)
        curve = {"set": stimuli.name, "against": name, "front": front, "pooling": pooling, "layer": layers}
        curve |= {"depth": depths, "metric": metric, "k": used_k(metric, 10), "samples": len(stimuli)}
        curves.append(curve | {"score": null.observed[:, 0], "null95": null.top95[:, 0], "p": null.p[:, 0]})
    return pd.concat([pd.DataFrame(curve) for curve in curves], ignore_index=True)


def map_peaks(folder: Path, stimuli: Stimuli) -> pd.DataFrame:
    """Return the largest score of every layer map, beside the largest of maps with permuted pairs.

    Parameters
    ----------
    folder : Path
        Folder of the stores of features.
    stimuli : Stimuli
        One set.

    Returns
    -------
    pandas.DataFrame
        set, control, reader, metric, k, samples, image and text (the layers of the pair), score, peak95, p.
    """
    rows = []
    for twin, reader, metric in product((False, True), READERS, METRICS):
        image, text = images(folder, stimuli, twin), texts(folder, stimuli, reader)
        null = map_null(image, text, metric)
        image_layer, text_layer = divmod(int(null.observed.argmax()), null.observed.shape[1])
        row = {"set": stimuli.name, "control": control(twin), "reader": reader, "metric": metric}
        row |= {"k": used_k(metric, 10), "samples": len(stimuli), "image": image.layers[image_layer]}
        row |= {"text": text.layers[text_layer]}
        rows.append(row | {"score": null.observed.max(), "peak95": null.peak95, "p": null.peak_p})
    return pd.DataFrame(rows)


def images(folder: Path, stimuli: Stimuli, twin: bool = False) -> LayerFeatures:
    """Extract the features of images by DINOv2-S, the mean over patches of every layer.

    Parameters
    ----------
    folder : Path
        Folder of the stores of features.
    stimuli : Stimuli
        One set.
    twin : bool
        Whether its random-weight twin takes the place of DINOv2-S.

    Returns
    -------
    LayerFeatures
        (layer, sample, dim).
    """
    return extract_cached(folder, open_expert(SEER, random_weights=twin), stimuli)["image"]


def texts(folder: Path, stimuli: Stimuli, reader: str) -> LayerFeatures:
    """Extract the features of texts by a text model, the mean over words of every layer.

    Parameters
    ----------
    folder : Path
        Folder of the stores of features.
    stimuli : Stimuli
        One set.
    reader : str
        Name of the text model.

    Returns
    -------
    LayerFeatures
        (layer, sample, dim).
    """
    return extract_cached(folder, open_expert(reader), stimuli)["text"]


def control(twin: bool) -> str:
    """Return the name of the control in tables of curves.

    Parameters
    ----------
    twin : bool
        Whether the curve is of the random-weight twin.

    Returns
    -------
    str
        "random weights" or "none".
    """
    return "random weights" if twin else "none"
