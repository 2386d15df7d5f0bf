"""Quote the benchmarks: which scores are right, what maps, nulls, extraction and bridges cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from .markers import table
from .rounding import rounded, whole

PEERS = ("bridgework", "ckatorch", "torch_cka", "pytorch-cka", "calibrated-similarity", "rsatoolbox")
OWN_COLUMN = ("cka", "cka_biased", "cka_rbf", "rsa")  # metrics that other packages have as well
MAPS = ("cka", "mutual_knn", "cknna", "svcca", "pwcca", "procrustes", "rsa")
FASTEST = 1.02  # times the seconds of the faster way, which rounds differ by
NULLS = (("cka", "200 permutations"), ("cka", "closed form"), ("mutual_knn", "200 permutations"))
NULLS += (("cknna", "200 permutations"),)
TOWERS = ("scenes-vlm + scenes-dit", "smollm2-135m + scenes-dit")
ZOO = (
    "LlavaForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration",
    "Emu3ForConditionalGeneration", "UNet2DConditionModel", "SD3Transformer2DModel", "Flux2Transformer2DModel",
    "Lumina2Transformer2DModel", "Cosmos3OmniTransformer (MoT)",
)  # fmt: skip


def numbers(results: Path) -> dict[str, str]:
    """Return every quotable number of the benchmarks by name."""
    found: dict[str, str] = {}
    for part in (
        _similarity,
        _sampled,
        _workers,
        _extraction,
        _fingerprints,
        _fusion,
        _memory,
        _models,
        _report,
        _fuzzing,
    ):
        found |= part(results)
    return found


def tables(results: Path) -> dict[str, Callable[[], str]]:
    """Return what writes each table of the benchmarks, by name."""
    return {
        "conformance": lambda: conformance_table(results),
        "map speed": lambda: speed_table(results),
        "null speed": lambda: null_table(results),
        "zoo": lambda: zoo_table(results),
        "extraction": lambda: extraction_table(results),
        "bridge overhead": lambda: overhead_table(results),
        "layout costs": lambda: layout_costs_table(results),
        "bad inputs": lambda: bad_inputs_table(results),
    }


# ---------------------------------------------------------------------------------------------------- similarity


def _similarity(results: Path) -> dict[str, str]:
    scores = pd.read_csv(results / "conformance.csv")
    ours = scores[scores["who"] == "bridgework"]
    found = {
        "conformance.regimes": whole(ours["regime"].nunique()),
        "conformance.metrics": whole(ours["metric"].nunique()),
    }
    found["conformance.right"] = whole(ours.groupby("regime")["right"].all().sum())
    timed = pd.read_csv(results / "similarity.csv").set_index(["case", "who"])
    found["speed.pytorch-cka"] = rounded(timed.loc[("cka map", "pytorch-cka"), "speedup of ours"])
    found["speed.calibrated"] = whole(timed.loc[("cka null", "calibrated-similarity"), "speedup of ours"])
    forms = timed["seconds"].unstack().filter(like="cka of", axis=0)
    found["speed.forms"] = whole(len(forms))
    fastest = forms[["by samples", "by dims"]].min(axis=1)
    found["speed.fastest"] = whole((forms["bridgework"] <= FASTEST * fastest).sum())
    run = pd.read_csv(results / "streaming.csv").iloc[0]
    found |= {"streaming.samples": whole(run["samples"]), "streaming.disk": rounded(run["features GB"])}
    found |= {"streaming.minutes": whole(run["seconds"] / 60), "streaming.memory": rounded(run["peak GB"])}
    return found | {"streaming.share": rounded(run["share of torch.mm"])}


def conformance_table(results: Path) -> str:
    """Return in how many regimes each package's scores are right, and the largest error of all."""
    scores = pd.read_csv(results / "conformance.csv")
    scores = scores[~scores["who"].str.endswith("given float64")]
    scores["who"] = scores["who"].str.split(",").str[0]
    count = scores["regime"].nunique()
    others = [metric for metric in scores["metric"].unique() if metric not in OWN_COLUMN]
    rows = []
    for who in PEERS:
        cells = [who]
        for metrics in (*((metric,) for metric in OWN_COLUMN), others):
            of = scores[(scores["who"] == who) & scores["metric"].isin(metrics)]
            cells.append(_right(of, count) if len(of) else "-")
        rows.append(cells)
    return table(["right in, largest error", *(f"`{m}`" for m in OWN_COLUMN), f"the {len(others)} others"], rows)


def _right(scores: pd.DataFrame, count: int) -> str:
    """The regimes in which every score is right, and the largest error; NaN where a score was none."""
    right = scores.groupby("regime")["right"].all().sum()
    ran = scores[scores["error"].isna()]
    worst = ran["difference"].max()
    nothing = ran["value"].isna().any() and not np.isinf(worst)
    return f"{right} of {count}, {'NaN' if nothing else rounded(worst)}"


def _sampled(results: Path) -> dict[str, str]:
    """Return what a tolerance saves, and how often its errors cover the exact score."""
    found = {}
    table = pd.read_csv(results / "tolerance.csv")
    simulated = table["case"] == "coverage"
    covered = table.loc[simulated, "covered"]
    found |= {"tolerance.covered_least": rounded(covered.min()), "tolerance.covered_most": rounded(covered.max())}
    found["tolerance.draws"] = whole(table.loc[simulated, "draws"].min())
    for row in table[~simulated].to_dict("records"):
        name = f"tolerance.{'disk.' * (row['case'] == 'disk')}{row['metric']}"
        found |= {f"{name}.times": rounded(row["times as fast"]), f"{name}.rows": whole(row["rows"])}
        found |= {f"{name}.samples": whole(row["samples"]), f"{name}.minutes": rounded(row["seconds"] / 60)}
        found[f"{name}.memory"] = rounded(row["own memory"])
    return found


def _workers(results: Path) -> dict[str, str]:
    """Return how many times as fast workers are as one process, the start of them included, least and most."""
    found = {}
    for (metric, layers), ratios in pd.read_csv(results / "map_workers.csv").groupby(["metric", "layers"])["ratio"]:
        name = f"workers.{metric}.{layers}"
        found |= {f"{name}.least": rounded(ratios.min()), f"{name}.most": rounded(ratios.max())}
    return found


def speed_table(results: Path) -> str:
    """Return the time of each layer map, beside its floor and other packages in the same run."""
    timed = pd.read_csv(results / "similarity.csv")
    rows = []
    for metric in MAPS:
        case = timed[timed["case"] == f"{metric} map"].set_index("who")
        ours = case.loc["bridgework"]
        others = case.drop("bridgework")[lambda rest: ~rest.index.str.startswith("floor")]
        fastest = others.assign(name=others.index.str.split(",").str[0]).groupby("name")["speedup of ours"].min()
        names = {"NumPy reference": "NumPy"}
        longer = ", ".join(f"{names.get(name, name)} {rounded(x)} x" for name, x in fastest.sort_values().items())
        floor = "-" if np.isnan(ours["ratio to floor"]) else rounded(ours["ratio to floor"])
        rows.append([f"`{metric}`", f"{rounded(ours['seconds'])} s", floor, longer])
    return table(["layer map", "time", "over its floor", "how much longer others take"], rows)


def null_table(results: Path) -> str:
    """Return the time of each null, beside that of its map."""
    timed = pd.read_csv(results / "similarity.csv")
    timed = timed[timed["who"].str.startswith("bridgework")]
    rows = []
    for metric, kind in NULLS:
        row = timed[(timed["case"] == f"{metric} null") & timed["note"].str.startswith(kind, na=False)].iloc[0]
        title = "exact moments" if kind == "closed form" else kind
        rows.append([f"`{metric}`, {title}", f"{rounded(row['seconds'])} s", rounded(row["ratio to floor"])])
    return table(["null", "time", "over its map"], rows)


# ---------------------------------------------------------------------------------------------------- any model


def _models(results: Path) -> dict[str, str]:
    found, stacks = pd.read_csv(results / "architectures.csv"), pd.read_csv(results / "zoo.csv")
    built = found[~found["note"].str.startswith("not built", na=False)]
    numbers = {"architectures.built": whole(len(built)), "zoo.models": whole(stacks["model"].nunique())}
    numbers["architectures.found"] = whole((built["note"] != "no stack").sum())
    numbers["architectures.other"] = whole(built["note"].str.contains("number of layers", na=False).sum())
    numbers["zoo.native"] = whole(stacks["native"].notna().sum())
    return numbers


def zoo_table(results: Path) -> str:
    """Return some rows of the zoo: what enters each stack, which tokens stand where, agreement with native states."""
    stacks = pd.read_csv(results / "zoo.csv").fillna({"native": "-", "between": ""})
    rows = []
    for row in stacks[stacks["model"].isin(ZOO) & stacks["shape"].notna()].itertuples():
        name, added = row.model.split(" (")[0], f"; changed before block {row.between}" if row.between else ""
        rows.append([name, f"`{row.stack}` ({row.blocks})", row.shape, row.tokens + added, row.native])
    return table(["model", "stack", "what enters it", "tokens", "native"], rows)


def _extraction(results: Path) -> dict[str, str]:
    race = pd.read_csv(results / "extraction.csv").set_index(["expert", "contestant"])
    timed = race["seconds"]
    headless = timed["smollm2-135m", "bridgework"] / timed["smollm2-135m", "bare, without its head"]
    tolls = pd.read_csv(results / "extraction_tolls.csv").set_index(["expert", "contestant"])
    return {
        "extraction.headless": rounded(headless),
        "extraction.differs": rounded(race["differs"].max()),
        "extraction.on_top": rounded(tolls.loc[("smollm2-135m", "bridgework"), "on top"]),
        "extraction.captions": whole(tolls.loc[("smollm2-135m", "bridgework"), "stimuli"]),
        "extraction.pictures": whole(tolls.loc[("dinov2-s", "described"), "stimuli"]),
        "extraction.remembered": rounded(tolls.loc[("dinov2-s", "AnyModel, remembered"), "ratio"]),
        "extraction.new": rounded(tolls.loc[("dinov2-s", "AnyModel, new"), "ratio"]),
    }


def extraction_table(results: Path) -> str:
    """Return what features of two real models cost over a bare forward pass, beside other ways to get them."""
    timed = pd.read_csv(results / "extraction.csv").set_index(["expert", "contestant"])
    titles = {
        "bare": "bare forward",
        "bare, without its head": "without the head that comes after the last layer",
        "bridgework": "**bridgework** (`extract`)",
        "captum": "captum, `LayerActivation`",
        "output_hidden_states": "`output_hidden_states`",
        "nnsight": "nnsight",
    }
    rows = []
    for contestant, title in titles.items():
        cells = [title]
        for expert in ("smollm2-135m", "dinov2-s"):
            row = timed.loc[(expert, contestant)]
            cells += [rounded(row["over bare"]), whole(row["extra MB"])]
        rows.append(cells)
    return table(["", "SmolLM2-135M, time over bare", "extra MB", "DINOv2-S, time over bare", "extra MB"], rows)


# ---------------------------------------------------------------------------------------------------- bridges


def _fingerprints(results: Path) -> dict[str, str]:
    row = pd.read_csv(results / "fingerprints.csv").set_index("expert").loc["smollm2-135m"]
    return {"fingerprint.seconds": rounded(row["seconds a GB"])}


def _fusion(results: Path) -> dict[str, str]:
    sampling = pd.read_csv(results / "fusion_sampling.csv").set_index("towers")["times_as_long"]
    found = {f"sampling.{name.split('-')[0]}": rounded(sampling[name]) for name in TOWERS}
    bare = pd.read_csv(results / "fusion_overhead.csv").query("what == 'nothing'").set_index("towers")["seconds"]
    found |= {f"fusion.bare.{name.split('-')[0]}": whole(1000 * bare[name]) for name in TOWERS}
    steps = pd.read_csv(results / "fusion_text_states.csv").set_index(["what", "bridges"])["over_own"]
    kinds = {"disk": "from disk", "expert": "by the expert"}
    return found | {f"text_states.{name}": rounded(steps[kind, 4]) for name, kind in kinds.items()}


def overhead_table(results: Path) -> str:
    """Return what bridges cost over two bare forward passes, without and with their own arithmetic."""
    timed = pd.read_csv(results / "fusion_overhead.csv").set_index(["towers", "at", "ways", "what"])["over_bare"]
    rows = []
    for at in ("block outputs", "attention"):
        for ways in ("one way", "both ways"):
            kinds = ("no-op bridges", "gated bridges")
            rows.append([f"{at}, {ways}", *(rounded(timed[t, at, ways, kind]) for t in TOWERS for kind in kinds)])
    published = [rounded(timed[t, "attention, H as published", "one way", "gated bridges"]) for t in TOWERS]
    rows.append(["attention, layout H as published", *(cell for gated in published for cell in ("-", gated))])
    names = [name.replace("smollm2-135m", "SmolLM2-135M") for name in TOWERS]
    return table(["bridges", *(f"{name}, {kind}" for name in names for kind in ("no-op", "gated"))], rows)


def layout_costs_table(results: Path) -> str:
    """Return what a training step of each published plan costs on the shipped experts."""
    costs = pd.read_csv(results / "fusion_layouts.csv")
    rows = []
    for row in costs[costs["pairs"] == "published"].itertuples():
        cells = [f"{row.layout}, {row.bridges} bridges", f"{rounded(row.step_seconds)} s"]
        rows.append([*cells, f"{whole(row.step_peak_bytes / 1e6)} MB", rounded(row.over_bare_attention)])
    return table(["published plan", "step", "peak memory", "attention FLOPs over the bare experts'"], rows)


def _memory(results: Path) -> dict[str, str]:
    quotients = pd.read_csv(results / "memory.csv")["quotient"]
    found = {"memory.least": rounded(quotients.min()), "memory.most": rounded(quotients.max())}
    return found | {"memory.plans": whole(len(quotients))}


# -------------------------------------------------------------------------------------------------------- report


def _report(results: Path) -> dict[str, str]:
    (row,) = pd.read_csv(results / "first_report.csv").to_dict("records")
    found = {name: whole(row[name]) for name in ("images", "figures")} | {"seconds": whole(row["cpu_seconds"])}
    return {f"report.{name}": value for name, value in found.items()}


def _fuzzing(results: Path) -> dict[str, str]:
    rows = pd.read_csv(results / "fuzzing.csv")
    found = {name: whole(rows[name].sum()) for name in ("files", "values", "refused", "unhandled")}
    found |= {"readers": whole(len(rows)), "seconds": whole(rows["seconds"].sum())}
    return {f"fuzzing.{name}": value for name, value in found.items()}


def bad_inputs_table(results: Path) -> str:
    """Return how many bad inputs of each kind are tried, and of how many public names and commands."""
    rows = pd.read_csv(results / "bad_inputs.csv")
    return table(
        ["what is wrong", *rows.columns[1:]], [[str(cell) for cell in row] for row in rows.to_numpy().tolist()]
    )
