"""Quote what was measured on experts that others trained: curves on pictures, the sink, the emoji pair, costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ...probes.similarity.intervals import interval
from .markers import table
from .rounding import between, percent, rounded, whole, with_interval

SETS = {"noto": "Noto emoji", "fluent": "Fluent emoji", "tuxpaint": "Tux Paint", "openclipart": "Open Clip Art"}
READERS = {"minilm-l6": "MiniLM-L6", "smollm2-135m": "SmolLM2-135M"}
METRICS = {"mutual_knn": "knn", "cka": "cka"}
FRONT = "<|endoftext|>"  # what SmolLM2 reads behind
POOLINGS = {
    (FRONT, "mean"): "words",
    (FRONT, "mean + cleaned"): "words-cleaned",
    (FRONT, "mean + special"): "sink",
    (FRONT, "mean + special + cleaned"): "sink-cleaned",
    ("<|im_start|>", "mean + sinks"): "marker",
    ("none", "mean + sinks"): "nothing",
}  # what stands in front and what is in the mean, as numbers are named
SAMPLES = 480  # of each set in the curves that are compared
MODELS = {"emoji-dit, its own text": "own", "alignment": "alignment", "middle": "middle"}


def numbers(results: Path) -> dict[str, str]:
    """Return every quotable number of the result files on real experts by name."""
    return _curves(results) | _style(results) | _sink(results) | _emoji(results) | _emoji_training(results)


def tables(results: Path) -> dict[str, Callable[[], str]]:
    """Return what writes each table on real experts, by name."""
    return {
        "real": lambda: real_table(results),
        "emoji losses": lambda: emoji_table(results),
        "real costs": lambda: costs_table(results),
    }


# ---------------------------------------------------------------------------------------------------- curves


def _curves(results: Path) -> dict[str, str]:
    curves = pd.read_parquet(results / "real_curves.parquet")
    found = {"real.samples": whole(SAMPLES)}
    keys = ["set", "subject", "metric", "samples"]
    for (pictures, subject, metric, samples), pair in curves.groupby(keys, sort=False):
        if pictures not in SETS:
            continue
        reader = subject.split(" x ")[1].split("-")[0]
        name = f"real.{pictures}.{reader}.{METRICS[metric]}" + ("" if samples == SAMPLES else f".{samples}")
        own, twin = (pair[pair["control"] == control] for control in ("none", "random weights"))
        scores = own["score"].to_numpy()
        found |= {f"{name}.first": rounded(scores[0]), f"{name}.peak": rounded(scores.max())}
        found |= {f"{name}.last": rounded(scores[-1]), f"{name}.twin": rounded(twin["score"].max())}
        found |= {f"{name}.chance": rounded(own["chance"].max()), f"{name}.null95": rounded(own["null95"].max())}
        above, low, _ = _above(own, twin)
        found |= {f"{name}.above": rounded(above), f"{name}.above.low": rounded(low)}
    for reader in ("minilm", "smollm2"):
        for what in ("peak", "above", "above.low"):
            values = [float(found[f"real.{pictures}.{reader}.knn.{what}"]) for pictures in SETS]
            found |= {f"real.{reader}.{what}.least": rounded(min(values))}
            found |= {f"real.{reader}.{what}.most": rounded(max(values))}
    return found


def _above(own: pd.DataFrame, twin: pd.DataFrame) -> tuple[float, float, float]:
    """The peak's distance from the random-weight twin at the same layer, with its interval from paired draws."""
    place = int(own["score"].argmax())
    gap = own["score"].to_numpy()[place] - twin["score"].to_numpy()[place]
    low, high = interval(gap, own["draws"].iloc[place] - twin["draws"].iloc[place])
    return float(gap), float(low), float(high)


def real_table(results: Path) -> str:
    """Return the curves of DINOv2-S against two text models on four sets of pictures, by mutual-kNN."""
    curves = pd.read_parquet(results / "real_curves.parquet")
    curves = curves[(curves["samples"] == SAMPLES) & (curves["metric"] == "mutual_knn")]
    rows = []
    for reader, title in READERS.items():
        for pictures, name in SETS.items():
            pair = curves[(curves["set"] == pictures) & curves["subject"].str.endswith(reader)]
            own, twin = (pair[pair["control"] == control] for control in ("none", "random weights"))
            scores = own["score"].to_numpy()
            row = [title, name, *map(rounded, (scores[0], scores.max(), scores[-1]))]
            rows.append([*row, rounded(twin["score"].max()), with_interval(*_above(own, twin))])
    return table(["text model", "pictures", "embeddings", "peak", "last block", "twin's peak", "peak above twin"], rows)


def _style(results: Path) -> dict[str, str]:
    curves = pd.read_parquet(results / "real_curves.parquet")
    found = {}
    for (metric, control), line in curves[curves["set"] == "noto x fluent"].groupby(["metric", "control"]):
        name = f"style.{METRICS[metric]}.{'own' if control == 'none' else 'twin'}"
        found |= {f"{name}.least": rounded(line["score"].min()), f"{name}.peak": rounded(line["score"].max())}
    return found


def _sink(results: Path) -> dict[str, str]:
    sink = pd.read_parquet(results / "real_sink.parquet")
    sink["against"] = sink["against"].str.split("-").str[0]
    found = {}
    for row in sink[sink["pooling"] == "weight"].itertuples():
        found[f"sink.{row.against}.{row.set}.weight"] = rounded(row.score)
    keys = ["metric", "against", "set", "front", "pooling"]
    places = {
        "": sink[(sink["depth"] > 0.35) & (sink["depth"] < 0.95)],  # blocks 10 to 27 of 30
        ".15": sink[sink["layer"] == "15"],
        ".last": sink[sink["depth"] == 1],
    }
    means = {place: of.groupby(keys)[["score", "null95"]].mean() for place, of in places.items()}
    for place, of in means.items():
        for (metric, against, pictures, *how), row in of.iterrows():
            name = f"sink.{METRICS[metric]}.{against}.{pictures}.{POOLINGS[*how]}{place}"
            found |= {name: rounded(row["score"]), f"{name}.null95": rounded(row["null95"])}
    scores = means[""]["score"].unstack().xs(FRONT, level="front").loc["mutual_knn"]
    for kind, cleaned in (("raw", ""), ("cleaned", " + cleaned")):
        lost = 1 - scores[f"mean + special{cleaned}"] / scores[f"mean{cleaned}"]
        found |= {f"sink.lost.{kind}.least": percent(lost.min()), f"sink.lost.{kind}.most": percent(lost.max())}
    return found


# ---------------------------------------------------------------------------------------------------- the emoji pair


def _emoji(results: Path) -> dict[str, str]:
    folder = results / "smollm2_emoji"
    heat = pd.read_csv(folder / "map.csv", index_col=0, dtype={0: str})
    rows = heat.max(axis=1)
    found = {"emoji.map.least": rounded(heat.min().min()), "emoji.map.most": rounded(heat.max().max())}
    found |= {"emoji.map.first": rounded(rows["0"]), "emoji.map.last": rounded(rows.iloc[-1])}
    found |= {"emoji.map.embeddings": rounded(rows.iloc[0]), "emoji.map.block": str(rows.idxmax())}
    for plan in ("alignment", "middle"):
        stored = json.loads((folder / f"{plan}.json").read_text())
        found[f"emoji.{plan}.pairs"] = " ".join(f"{u}-{g}" for u, g in stored["pairs"])
    found["emoji.chance"] = rounded(json.loads((folder / "alignment.json").read_text())["evidence"]["chance"])
    for row in pd.read_csv(folder / "losses.csv").itertuples():
        name = f"emoji.{MODELS[row.model]}.{row.part}.{row.names.rstrip(chr(39))}"
        found |= {
            f"{name}.loss": rounded(row.loss),
            name: rounded(row.more),
            f"{name}.interval": between(row.low, row.high),
        }
    for row in pd.read_csv(folder / "likeness.csv").itertuples():
        name = f"emoji.likeness.{MODELS[row.model]}.{row.part}"
        found |= {name: rounded(row.nearer), f"{name}.interval": between(row.low, row.high)}
    return found


def _emoji_training(results: Path) -> dict[str, str]:
    checkpoint = results.parents[1] / "models" / "experts" / "checkpoints" / "emoji-dit" / "training.json"
    log = json.loads(checkpoint.read_text())["log"]
    means = {
        step: np.mean([line["loss"] for line in log if step - 100 <= line["step"] < step]) for step in (500, 2500, 4000)
    }
    return {f"emoji.training.{step}": rounded(mean) for step, mean in means.items()}


def emoji_table(results: Path) -> str:
    """Return what names of others and no names cost beyond an emoji's own name."""
    losses = pd.read_csv(results / "smollm2_emoji" / "losses.csv").set_index(["model", "part", "names"])
    rows = []
    for model in MODELS:
        for part in ("train", "validation"):
            others, none = (losses.loc[(model, part, names)] for names in ("others'", "none"))
            title = model if model.startswith("emoji") else f"SmolLM2, {model}"
            row = [title, part, rounded(losses.loc[(model, part, "own")].loss)]
            rows.append([*row, *(with_interval(line.more, line.low, line.high) for line in (others, none))])
    return table(["model", "part", "own names", "others' names cost", "no name costs"], rows)


def costs_table(results: Path) -> str:
    """Return what fusing Qwen2.5-VL-7B and Wan2.2-TI2V-5B takes, as `bridgework estimate` computed it."""
    columns = ["weights GB", "trained GB", "gradients GB", "optimizer GB", "activations GB", "transient GB"]
    columns += ["gathered GB", "peak GB", "forward TFLOP", "backward TFLOP", "GPU hours"]
    rows = []
    for name, trained in (("real_costs.csv", "bridges"), ("real_costs_lora.csv", "bridges and LoRA")):
        for _, row in pd.read_csv(results / name).iterrows():
            parameters = round(row["trained parameters"] / 1e6)
            first = [row["layout"], trained, str(row["bridges"]), str(parameters)]
            rows.append([*first, *(rounded(row[column]) for column in columns)])
    return table(["layout", "trained", "bridges", "trained M", *columns], rows)
