"""Measure what linear probes know of captions that must be read: from every layer of an expert, and from bags of words.

A caption names two values, such as two colours, and the probe has to say which of two things has which: chance is a
half. It is a ridge regression of every possible fact of a scene, fitted on captions of the training part and asked
about the part evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ...models.experts.opening import open_expert
from ...models.scenes.read_captions import KINDS, ReadCaption, read_captions
from ...models.scenes.scene import COLOURS, COUNTS, QUARTERS, SHAPES
from ...probes.extraction.extracting import extract
from ...probes.files import write_csv
from ...probes.metrics.metric import Array
from ...probes.stimuli.stimulus_set import Stimuli, Stimulus

EXPERTS = ("smollm2-135m", "scenes-reader", "minilm-l6")
PER_KIND = {"train": 400, "evidence": 150}
FEWEST = 50  # captions that must be asked about; of "sums" nearly all are known by heart
ENOUGH = 0.15  # by so much an inner layer has to know more than the embeddings, for a kind to be kept
BAGS = {"bag of words": (1, 1), "word pairs": (1, 2)}
COLOUR_NAMES = tuple(COLOURS)
_PENALTIES = 10.0 ** np.arange(-1, 6)


def measure_knowledge(folder: Path) -> pd.DataFrame:
    """Probe every layer of every expert, and bags of words, for what the captions say: kinds.csv.

    Parameters
    ----------
    folder : Path
        The folder of the study. What is there already is not measured again.

    Returns
    -------
    DataFrame
        One row for each source, layer, kind and attribute: source (an expert or a bag), layer ("embeddings", "0", ...),
        kind, attribute ("colour", "place", "presence", "count"), accuracy, chance, train and asked (captions).
    """
    path = folder / "kinds.csv"
    if path.is_file():
        return pd.read_csv(path, dtype={"layer": str})
    reads = {part: [read_captions(part, each, kinds=[kind]) for kind in KINDS] for part, each in PER_KIND.items()}
    rows: list[dict[str, object]] = []
    texts = [read.caption for part in reads.values() for kind in part for read in kind]
    for name, spans in BAGS.items():
        counted = csr_array(CountVectorizer(token_pattern=r"\S+", ngram_range=spans, min_df=2).fit_transform(texts))
        rows += _rows(name, "", counted.toarray().astype(float), reads)
    blank = Image.new("RGB", (2, 2))
    stimuli = Stimuli([Stimulus(blank, text, str(n)) for n, text in enumerate(texts)], name="captions")
    for name in EXPERTS:
        features = extract(open_expert(name), stimuli, store=folder / "captions" / name)["text"]
        for layer in features.layers:
            rows += _rows(name, str(layer), features.layer(layer).double().numpy(), reads)
    table = pd.DataFrame(rows)
    write_csv(path, table)
    return table


def kept_kinds(table: pd.DataFrame, expert: str = EXPERTS[0]) -> dict[str, float]:
    """Return how much more of each kind some inner layer knows than the embeddings, by the attribute that gains most.

    Parameters
    ----------
    table : DataFrame
        Of `measure_knowledge`.
    expert : str
        The expert that decides.

    Returns
    -------
    dict of str to float
        The gain in accuracy of the kinds that gain at least `ENOUGH`.

    See Also
    --------
    label_probe : Probes features of your own for labels of your own.

    Examples
    --------
    >>> gains = kept_kinds(pd.read_csv(RESULTS / "verdict" / "kinds.csv", dtype={"layer": str}))
    """
    own = table[(table["source"] == expert) & (table["asked"] >= FEWEST)]
    first = own["layer"] == "embeddings"
    keys = ["kind", "attribute"]
    inner = own[~first].groupby(keys)["accuracy"].max() - own[first].groupby(keys)["accuracy"].max()
    gains = inner.groupby("kind").max()
    return {str(kind): float(gains[kind]) for kind in KINDS if kind in gains and gains[kind] >= ENOUGH}


def _rows(
    source: str, layer: str, values: Array, reads: dict[str, list[list[ReadCaption]]]
) -> Iterator[dict[str, object]]:
    counts = {part: [len(kind) for kind in kinds] for part, kinds in reads.items()}
    start = {"train": 0, "evidence": sum(counts["train"])}
    for number, kind in enumerate(KINDS):
        fitted, asked = (
            values[start[part] + sum(counts[part][:number]) :][: counts[part][number]] for part in ("train", "evidence")
        )
        known, tested = reads["train"][number], reads["evidence"][number]
        probe = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
        probe.fit(fitted, np.array([_facts(read) for read in known]))
        found: dict[str, list[float]] = {}
        seen = {read.caption for read in known}
        for facts, read in zip(probe.predict(asked), tested, strict=True):
            if read.caption in seen:  # a probe may know it by heart
                continue
            for attribute, right in _asked(facts, read):
                found.setdefault(attribute, []).append(right)
        for attribute, right in found.items():
            yield {
                "source": source, "layer": layer, "kind": kind, "attribute": attribute,
                "accuracy": round(float(np.mean(right)), 4),
                "chance": round(1 / 3, 4) if attribute == "count" else 0.5, "train": len(known), "asked": len(right),
            }  # fmt: skip


def _facts(read: ReadCaption) -> Array:
    """Return 1 for what holds of (shape, colours then quarters then presence), and for the number of things."""
    facts = np.zeros((len(SHAPES), len(COLOURS) + len(QUARTERS) + 1))
    for thing in read.scene.things:
        row = SHAPES.index(thing.shape)
        facts[row, [COLOUR_NAMES.index(thing.colour), len(COLOURS) + thing.quarter, -1]] = 1
    return np.append(facts.ravel(), [len(read.scene.things) == count + 1 for count in range(len(COUNTS))])


def _asked(facts: Array, read: ReadCaption) -> Iterator[tuple[str, float]]:
    """Yield whether the probe is right about each attribute of a caption."""
    of_shape, numbers = facts[: -len(COUNTS)].reshape(len(SHAPES), -1), facts[-len(COUNTS) :]
    things = read.scene.things
    if read.skill == "counting":
        yield "count", float(numbers[1:].argmax() + 2 == len(things))
        return
    words = read.caption.split()
    there = {thing.shape for thing in things}
    if absent := [shape for shape in SHAPES if shape in words and shape not in there]:
        present = min(of_shape[SHAPES.index(shape), -1] for shape in there)
        yield "presence", float(present > of_shape[SHAPES.index(absent[0]), -1])
    if len(things) == 2:
        colours = [COLOUR_NAMES.index(thing.colour) for thing in things]
        places = [len(COLOURS) + thing.quarter for thing in things]
        rows: Sequence[int] = [SHAPES.index(thing.shape) for thing in things]
        for attribute, (one, other) in (("colour", colours), ("place", places)):
            own = of_shape[rows[0], one] + of_shape[rows[1], other]
            yield attribute, float(own > of_shape[rows[0], other] + of_shape[rows[1], one])
