"""Quote what was measured on the scenes: experts, curves, plans, stability, links and layouts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ...models.scenes.scene import SKILLS
from ...probes.similarity.intervals import mean_interval
from ..settings import PLANS
from .markers import table
from .rounding import between, percent, rounded, whole, with_interval

SUBJECTS = {"scenes-vlm": "vlm", "scenes-dit": "dit"}
METRICS = {"mutual_knn": "knn", "cka": "cka"}
CONTROLS = {
    "none": "own",
    "random weights": "twin",
    "mismatched captions": "mismatched",
    "pixel mean x bag of words": "pixels",
}
SCORES = (*SKILLS, "all")


def numbers(results: Path) -> dict[str, str]:
    """Return every quotable number of the scenes' result files by name."""
    found: dict[str, str] = {}
    for part in (_experts, _curves, _shapes, _gap, _skills, _stability, _links, _layouts, _fused):
        found |= part(results)
    return found


def tables(results: Path) -> dict[str, Callable[[], str]]:
    """Return what writes each table of the scenes, by name."""
    return {
        "experts": lambda: experts_table(results),
        "shapes": lambda: shapes_table(results),
        "gap": lambda: gap_table(results),
        "skills": lambda: skills_table(results),
        "stability": lambda: stability_table(results),
        "links": lambda: links_table(results),
        "layouts": lambda: layouts_table(results),
    }


def slug(name: str) -> str:
    """Return a name as part of the name of a number."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")


# ---------------------------------------------------------------------------------------------------- experts


def _experts(results: Path) -> dict[str, str]:
    scores = pd.read_csv(results / "experts.csv")
    found = {}
    for row in scores.itertuples():
        found[f"{SUBJECTS[row.expert]}.{row.part}.{slug(row.skill)}"] = rounded(row.score)
    return found


def experts_table(results: Path) -> str:
    """Return the scores of both shipped experts on new scenes and on new combinations."""
    scores = pd.read_csv(results / "experts.csv").set_index(["expert", "part", "skill"])
    columns = ["skill", "answers, new scenes", "commonest answer", "without the image", "answers, new combinations"]
    columns += ["drawings, new scenes", "drawings, new combinations"]
    rows = []
    for skill in SCORES:
        answers, new = (scores.loc[("scenes-vlm", part, skill)] for part in ("test", "new"))
        row = [skill, rounded(answers.score), rounded(answers.majority), rounded(answers.question_only)]
        row.append(rounded(new.score))
        for part in ("test", "new"):
            key = ("scenes-dit", part, skill)
            row.append(rounded(scores.loc[key].score) if key in scores.index else "-")
        rows.append(row)
    return table(columns, rows)


# ---------------------------------------------------------------------------------------------------- curves


def _curves(results: Path) -> dict[str, str]:
    curves = pd.read_parquet(results / "curves.parquet")
    found = {"curve.samples": whole(curves["samples"].iloc[0]), "curve.chance": rounded(curves["chance"].max())}
    keys = ["subject", "pass", "metric", "control", "timestep"]
    for (subject, kind, metric, control, time), line in curves.groupby(keys, dropna=False, sort=False):
        name = f"{'curve' if kind == 'separate' else 'joint'}.{SUBJECTS[subject]}.{METRICS[metric]}.{CONTROLS[control]}"
        name += "" if np.isnan(time) else f".{time:g}"
        scores, peak = line["score"], line.loc[line["score"].idxmax()]
        found |= {f"{name}.first": rounded(scores.iloc[0]), f"{name}.last": rounded(scores.iloc[-1])}
        found |= {f"{name}.peak": rounded(scores.max()), f"{name}.least": rounded(scores.min())}
        found |= {f"{name}.depth": rounded(peak["depth"]), f"{name}.interval": between(peak["low"], peak["high"])}
        if control == "none":
            after = scores.iloc[scores.argmax() :].min()
            found[f"{name}.dip"] = rounded(scores.max() - after)
    return found


def _shapes(results: Path) -> dict[str, str]:
    found = {}
    for key, shape in json.loads((results / "shapes.json").read_text()).items():
        if key.startswith("divergence"):
            _, metric, time = key.split(" | ")
            name = f"divergence.{METRICS[metric]}.{time}"
            if shape["depth"] is not None:
                found[name] = rounded(shape["depth"])
                found[f"{name}.spearman"] = rounded(float(re.findall(r"Spearman is (\S+)", shape["reason"])[0]))
            continue
        subject, kind, metric, control, *time = key.split(" | ")
        name = f"shape.{'joint.' if kind == 'joint' else ''}{SUBJECTS[subject]}.{METRICS[metric]}.{CONTROLS[control]}"
        name = ".".join([name, *time])
        for what, (value, low, high) in ((w, v) for w, v in shape.items() if isinstance(v, list)):
            found |= {f"{name}.{slug(what)}": rounded(value), f"{name}.{slug(what)}.interval": between(low, high)}
    return found


def shapes_table(results: Path) -> str:
    """Return the verdict and the numbers of both published shapes, for the experts and their controls."""
    shapes = json.loads((results / "shapes.json").read_text())
    columns = ["metric", "control", "understanding rises: Spearman", "generation peak minus first", "peak minus last"]
    columns += ["rises, then falls"]
    rows = []
    for metric in METRICS:
        for control in ("none", "random weights", "mismatched captions"):
            understanding = shapes[f"scenes-vlm | separate | {metric} | {control}"]
            generation = shapes[f"scenes-dit | separate | {metric} | {control} | 0.5"]
            row = [f"`{metric}`", "the expert" if control == "none" else control]
            row.append(f"{_verdict(understanding)} {with_interval(*understanding['spearman'])}")
            row += [with_interval(*generation[name]) for name in ("peak minus first", "peak minus last")]
            rows.append([*row, _verdict(generation).rstrip(":")])
    return table(columns, rows)


def _verdict(shape: dict) -> str:
    return "yes:" if shape["holds"] else "no:"


def _fused(results: Path) -> dict[str, str]:
    again = pd.read_parquet(results / "fused.parquet")
    generation = again[again["task"] == "generation"]
    after, before = (generation[generation["when"] == when]["score"] for when in ("after", "before"))
    return {"fused.chance": rounded(generation["chance"].iloc[0]), "fused.after": rounded(after.max())} | {
        "fused.before": rounded(before.max())
    }


# ---------------------------------------------------------------------------------------------------- plans


def _gap(results: Path) -> dict[str, str]:
    scores = pd.read_csv(results / "gap.csv")
    first = scores.iloc[0]
    found = {"gap.floor": rounded(first["floor"]), "gap.ceiling": rounded(first["ceiling"])}
    found |= {"gap.steps": whole(first["steps"]), "gap.seeds": whole(scores["seed"].nunique())}
    found["gap.images"] = whole(first["each"] * len(SKILLS))
    for plan, rows in scores.groupby("plan"):
        name = f"gap.{slug(str(plan))}"
        mean, low, high = map(float, mean_interval(rows["share"].to_numpy()))
        found |= {name: rounded(mean), f"{name}.score": rounded(rows["score"].mean())}
        if len(rows) > 1:
            found[f"{name}.interval"] = between(low, high)
    return found


def gap_table(results: Path) -> str:
    """Return the share of the gap that each plan closes, over training seeds."""
    scores = pd.read_csv(results / "gap.csv")
    rows = []
    for plan in in_order(scores["plan"]):
        of_plan = scores[scores["plan"] == plan].sort_values("seed")
        same = of_plan["pairs"].nunique() == 1
        pairs = plan_pairs(of_plan["pairs"].iloc[0]) if same else "another one for each seed"
        mean, low, high = map(float, mean_interval(of_plan["share"].to_numpy()))
        interval = between(low, high) if len(of_plan) > 1 else "-"
        rows.append([plan, pairs, rounded(mean), interval, ", ".join(map(rounded, of_plan["score"]))])
    columns = ["plan", "bridges", "share of the gap", "95 % interval over seeds", "scene score of each seed"]
    return table(columns, rows)


def in_order(plans: Iterable[str]) -> list[str]:
    """Return the names of plans, each once, in the order in which they are shown."""
    names = dict.fromkeys(plans)
    return sorted(names, key=lambda name: PLANS.index(name) if name in PLANS else len(PLANS))


def plan_pairs(pairs: str) -> str:
    """Return the pairs of a plan, JSON, as text such as "0-4 1-5"."""
    return " ".join(f"{u}-{g}" for u, g in json.loads(pairs))


def _skills(results: Path) -> dict[str, str]:
    means = _skill_means(results)
    return {f"skill.{slug(p)}.{slug(s)}": rounded(means.loc[p, s]) for p in means.index for s in means.columns}


def _skill_means(results: Path) -> pd.DataFrame:
    scores = pd.read_csv(results / "scores.csv")
    scores = scores[scores["part"] == "test"].assign(plan=scores["run"].str.replace(r"-\d+$", "", regex=True))
    return scores.pivot_table(index="plan", columns="skill", values="score", aggfunc="mean")


def skills_table(results: Path) -> str:
    """Return the scene score of each skill, the mean over the seeds of each plan."""
    means = _skill_means(results)
    order = in_order(plan.replace("-", " ") for plan in means.index.drop("ceiling"))
    rows = [[plan, *(rounded(means.loc[slug(plan), skill]) for skill in SCORES)] for plan in order]
    rows.append(["the expert's own text route", *(rounded(means.loc["ceiling", skill]) for skill in SCORES)])
    return table(["plan", *SCORES], rows)


def _stability(results: Path) -> dict[str, str]:
    plans = pd.read_csv(results / "plan_stability.csv")
    committed = plan_pairs(json.dumps(json.loads((results / "plan.json").read_text())["pairs"]))
    found = {"plan.pairs": committed, "stability.scenes": whole(plans["samples"].max())}
    for metric, name in METRICS.items():
        of_metric = plans[plans["metric"] == metric]
        drawn = of_metric[of_metric["scenes"] == "drawn"]["pairs"].map(plan_pairs)
        found |= {f"stability.{name}.draws": whole(len(drawn)), f"stability.{name}.plans": whole(drawn.nunique())}
        commonest = drawn.value_counts()
        found |= {f"stability.{name}.commonest": commonest.index[0]}
        found |= {f"stability.{name}.commonest.draws": whole(commonest.iloc[0])}
        found |= {f"stability.{name}.committed.draws": whole((drawn == committed).sum())}
        found |= {f"stability.{name}.0-4.draws": whole(drawn.str.startswith("0-4 ").sum())}
        for row in of_metric[of_metric["scenes"] == "first"].itertuples():
            found[f"stability.{name}.{row.samples}"] = plan_pairs(row.pairs)
    return found


def stability_table(results: Path) -> str:
    """Return the alignment plan by metric and number of scenes, and how many plans random sets of scenes give."""
    plans = pd.read_csv(results / "plan_stability.csv")
    first = plans[plans["scenes"] == "first"].pivot_table(
        index="samples", columns="metric", values="pairs", aggfunc="first"
    )
    rows = [[f"the first {whole(n)}", *(plan_pairs(row[metric]) for metric in METRICS)] for n, row in first.iterrows()]
    drawn = plans[plans["scenes"] == "drawn"]
    counts = drawn.groupby("metric")["pairs"].nunique()
    many = f"{drawn['draw'].nunique()} random sets of {whole(drawn['samples'].iloc[0])}"
    rows.append([many, *(f"{counts[metric]} different plans" for metric in METRICS)])
    return table(["evidence scenes", *(f"plan by `{metric}`" for metric in METRICS)], rows)


# ---------------------------------------------------------------------------------------------------- links, layouts


def _links(results: Path) -> dict[str, str]:
    links = pd.read_csv(results / "links.csv")
    found = {"link.score": rounded(links.groupby("seed")["score"].first().mean())}
    for link, rows in links.groupby("link"):
        for column in ("drift", "loss_increase", "score_lost"):
            found[f"link.{link}.{slug(column).replace('_', '-')}"] = rounded(rows[column].mean())
    return found | _evidence(results)


def links_table(results: Path) -> str:
    """Return what breaking each bridge of the alignment plan does: the mean, and the lowest and highest model."""
    links = pd.read_csv(results / "links.csv")
    rows = []
    for link, of_link in links.groupby("link", sort=False):
        cells = [rounded(of_link["drift"].mean())]
        for column in ("loss_increase", "score_lost"):
            values = of_link[column]
            cells.append(f"{rounded(values.mean())} {between(values.min(), values.max())}")
        rows.append([str(link), *cells])
    return table(["broken bridge", "drift behind the last block", "loss increase", "scene score lost"], rows)


def _evidence(results: Path) -> dict[str, str]:
    """The numbers of attribution.csv, attention.csv and conflict.csv."""
    found = {}
    attribution = pd.read_csv(results / "attribution.csv")
    for row in attribution[attribution["method"] == "ablation"].itertuples():
        name = f"ablation.{SUBJECTS[row.subject]}.{row.modality}.{row.layer}"
        found |= {name: rounded(row.attribution), f"{name}.interval": between(row.low, row.high)}
    for (subject, method), rows in attribution.groupby(["subject", "method"]):
        name, errors = f"attribution.{SUBJECTS[subject]}.{slug(method)}", rows["error"].dropna()
        found[f"attribution.{SUBJECTS[subject]}.gain"] = rounded(rows["gain"].iloc[0])
        if len(errors):
            found |= {f"{name}.least-error": rounded(errors.min()), f"{name}.largest-error": rounded(errors.max())}
            found[f"{name}.largest-error.percent"] = percent(errors.max() / rows["gain"].iloc[0])
    attention = pd.read_csv(results / "attention.csv")
    looks = attention[(attention["subject"] == "scenes-vlm") & (attention["query"] == "text")]
    looks = looks[(looks["key"] == "image") & (looks["layer"] > 9)]["mass"]  # behind block 9 images are read no more
    found |= {"attention.least": rounded(looks.min()), "attention.most": rounded(looks.max())}
    conflict = pd.read_csv(results / "conflict.csv")
    asked, swept = (conflict[conflict["tasks"].str.startswith(start)] for start in ("asked", "t ="))
    first, last = asked.iloc[0], swept.iloc[-1]
    found |= {"conflict.first": rounded(first["conflict"]), "conflict.first.interval": between(first.low, first.high)}
    found |= {"conflict.others.least": rounded(asked["conflict"].iloc[1:].min())}
    found |= {"conflict.others.most": rounded(asked["conflict"].iloc[1:].max())}
    found |= {
        "conflict.dit.last": rounded(last["conflict"]),
        "conflict.dit.last.interval": between(last.low, last.high),
    }
    halves = swept[swept["layer"] <= 10]["baseline"]
    found |= {"conflict.dit.halves.least": rounded(halves.min()), "conflict.dit.halves.most": rounded(halves.max())}
    return found


def _layouts(results: Path) -> dict[str, str]:
    layouts = pd.read_csv(results / "layouts.csv")
    found = {
        "layouts.least": rounded(layouts["difference"].min()),
        "layouts.most": rounded(layouts["difference"].max()),
    }
    found["layouts.steps"] = whole(layouts["steps"].iloc[0])
    for row in layouts.itertuples():
        name = f"layouts.{slug(row.layout)}"
        found |= {name: rounded(row.difference), f"{name}.interval": between(row.low, row.high)}
    return found


def layouts_table(results: Path) -> str:
    """Return what drawing held-out scenes costs each trained layout, with their captions and with others'."""
    rows = []
    for row in pd.read_csv(results / "layouts.csv").itertuples():
        cells = [row.layout, f"{rounded(row.parameters / 1e6)} M", f"{rounded(row.step_seconds)} s"]
        cells += [rounded(row.loss), rounded(row.shuffled), with_interval(row.difference, row.low, row.high)]
        rows.append([*cells, "not run" if np.isnan(row.floor) else rounded(row.floor)])
    columns = ["layout", "trained", "step", "own captions", "other captions", "difference", "floor"]
    return table(columns, rows)
