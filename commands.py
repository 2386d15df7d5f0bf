"""Run the commands of the command line: open what the arguments name, call one function, print what it returns.

Everything is imported inside the commands, so that the help of one command does not wait for the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .command_checks import check_experts, check_measured, check_model, check_plans, check_stimuli, check_stores
from .command_stimuli import open_stimuli
from .probes.arguments import checked, folder_name


def _is_first() -> bool:
    """Return whether this process speaks for those that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def _at(timestep: float, *sides: Any) -> list[Any]:
    """Return the features of two stores at one timestep; those of a store without timesteps stay as they are."""
    if not any(side.timesteps for side in sides):
        raise ValueError(f"--timesteps {timestep:g} is given, and neither store holds timesteps: leave it out")
    return [side.at(timestep) if side.timesteps else side for side in sides]


def extract(
    expert: str,
    stimuli: str,
    out: Path,
    limit: int | None,
    random_weights: bool,
    front: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    root: Path | None = None,
    captions: str | None = None,
    expert_dtype: str | None = None,
    device_map: str | None = None,
    quantization: str | None = None,
    part: str | None = None,
    **options: Any,
) -> None:
    """Write the features of an expert to a store; `options` are fields of `ExtractionOptions`."""
    from .probes.extraction_options import ExtractionOptions
    from .probes.features.store_folder import check_folder

    asked = ExtractionOptions(store=out, **options)
    check_folder(out)
    check_experts(expert)
    shown, _ = open_stimuli(stimuli, limit, part, image=image_column, text=text_column, root=root, captions=captions)
    from .models.experts.opening import open_expert
    from .probes.extraction.extracting import extract_with

    began = time.perf_counter()
    loaded = {"front": front, "dtype": expert_dtype, "device_map": device_map, "quantization": quantization}
    found = extract_with(open_expert(expert, random_weights, **loaded), shown, asked)
    if _is_first():
        parts = ", ".join(f"{len(part.layers)} layers of {name}" for name, part in found.items())
        print(f"{out}: {parts}, over {len(shown)} stimuli of {shown.name!r}, in {time.perf_counter() - began:.0f} s")
        if len(found) > 1:
            print(
                f"next: bridgework align {out} --out curve.csv, or with the store of another expert bridgework choose"
            )


def align(
    features: Path,
    text: Path | None,
    out: Path | None,
    text_layer: str | int | float | None,
    modalities: tuple[str, str],
    timestep: float | None,
    metric: str,
    k: int,
    block: int,
    tolerance: float | None,
) -> None:
    """Print the alignment curve of one store's image and text, or of two stores, and write it if asked."""
    if text is not None and text.suffix in (".csv", ".parquet"):  # STORE OUT, as earlier versions had it
        text, out = None, out or text
    if text is None and text_layer is not None:
        raise ValueError("--text-layer is a layer of the second store: name that store, or leave the layer out")
    check_measured(metric, k, None if timestep is None else [timestep], block, tolerance)
    check_stores(features, *([] if text is None else [text]))
    import pandas as pd

    from .probes.curves.curve import alignment_curve
    from .probes.features.features import Features
    from .probes.files import write_csv, write_parquet
    from .probes.metrics import METRICS

    stores = Features.load(features), Features.load(features if text is None else text)
    x, y = (store[modality] for store, modality in zip(stores, modalities, strict=True))
    if timestep is not None:
        x, y = _at(timestep, x, y)
    if text is not None:
        y = y.at_layer("last" if text_layer is None else text_layer)
    curve = alignment_curve(x, y, metric, k, block=block, tolerance=tolerance)
    shown = ["timestep"] * bool(x.timesteps) + ["layer", "depth", "score", "low", "high", "chance", "null95", "p"]
    print(curve[shown].to_string(index=False, float_format="{:.3f}".format))
    if curve["score"].notna().any():
        best = curve.loc[curve["score"].idxmin() if METRICS[metric].is_distance else curve["score"].idxmax()]
        when = "" if pd.isna(best["timestep"]) else f" at t = {best['timestep']:g}"
        print(
            f"best: {best['score']:.3f} in layer {best['layer']}{when}; the best of unrelated features reaches "
            f"{curve.attrs['peak95']:.3f} in 5 of 100 cases (p = {curve.attrs['peak_p']:.2g})"
        )
    whom = f"{x.subject} ({x.modality})" + (f" x {y.subject} ({y.modality}), layer {y.layers[0]}" if text else "")
    wrote = "" if out is None else f"{out}: "
    print(f"{wrote}{metric} of {len(x.samples)} stimuli, {whom}")
    if tolerance is not None:
        print(f"of {curve.attrs['rows']} rows; the largest standard error is {max(curve.attrs['errors']):.2g}")
    if out is not None and out.suffix == ".parquet":
        write_parquet(out, curve)
    elif out is not None:
        write_csv(out, curve)


def check(
    model: str,
    stimuli: str,
    timesteps: list[float],
    device: str,
    expert_dtype: str | None,
    device_map: str | None,
    quantization: str | None,
) -> None:
    """Print what is right and wrong with a model; exit status 1 where something is wrong."""
    check_experts(model)
    check_stimuli(stimuli, None)
    checked("timesteps", timesteps, Sequence[float], above=0, most=1, remedy="0 is the clean image, 1 is noise")
    from .models.experts.opening import open_expert
    from .probes.checks.model_checks import AMONG, FAILS, check_model
    from .probes.stimuli.sources import load_stimuli

    subject = open_expert(model, dtype=expert_dtype, device_map=device_map, quantization=quantization)
    table = check_model(subject, load_stimuli(stimuli, AMONG), timesteps=timesteps, device=device)
    for row in table.itertuples():
        print(f"{row.verdict:<8} {row.check:<14} {f'{row.shown}: ' if row.shown else ''}{row.found}")
        if row.remedy:
            print(f"{'':<23} remedy: {row.remedy}")
    print("\nNo check can know:", *table.attrs["not_checked"], sep="\n- ")
    wrong = table[table["verdict"] == FAILS]["check"].unique()
    if len(wrong):
        raise SystemExit(f"bridgework: {model} fails {', '.join(wrong)}")


def report(
    understanding: str,
    generation: str,
    data: str,
    out: Path,
    limit: int | None,
    image_column: str | None,
    text_column: str | None,
    root: Path | None,
    captions: str | None,
    part: str | None,
    **options: Any,
) -> None:
    """Write the page of two experts on one set of stimuli; `options` are fields of `ReportOptions`."""
    from .report_options import ReportOptions

    asked, out = ReportOptions(**options), folder_name("out", out)
    check_experts(understanding, generation)
    stimuli, call = open_stimuli(data, limit, part, image=image_column, text=text_column, root=root, captions=captions)
    from .pair_report import write_report

    page = write_report(understanding, generation, stimuli, out, asked, call)
    print(f"{page}: {len(stimuli)} stimuli of {stimuli.name!r}")
    print(f"figures as PDF, SVG and PNG with their numbers: {out / 'figures'}; the script: {out / 'report.py'}")


def figure(
    kind: str,
    sources: list[Path],
    out: Path,
    metric: str,
    k: int,
    timestep: float | None,
    text_layer: str | int | float | None,
    plan: Path | None,
    venue: str | None,
    columns: int,
) -> None:
    """Draw one figure from feature stores, or from a plan, and save it with its numbers and its record."""
    expected = {"curve": (1, 2), "map": (2,), "plan": (1,)}[kind]
    if len(sources) not in expected:
        wanted = {"curve": "one store, or two of different models", "map": "two stores", "plan": "one plan"}[kind]
        raise ValueError(f"{len(sources)} sources are given: figure {kind} is drawn from {wanted}")
    if text_layer is not None and (kind, len(sources)) != ("curve", 2):
        raise ValueError("--text-layer is a layer of the second store of a curve: leave it out")
    if plan is not None and kind != "map":
        raise ValueError("--plan is drawn into a map: leave it out, or draw it by itself, as figure plan FILE")
    from .figures.publishing.page import VENUES
    from .probes.plans.bridge_plan import BridgePlan

    check_measured(metric, k, None if timestep is None else [timestep])
    checked("venue", venue, str | None, known=VENUES)
    checked("columns", columns, int, least=1, most=2, remedy="one column, or the whole width of the text")
    file = sources[0] if kind == "plan" else plan
    drawn = BridgePlan.load(file) if file is not None else None
    check_stores(*([] if kind == "plan" else sources))
    from contextlib import nullcontext

    from . import figures
    from .probes.curves.curve import alignment_curve
    from .probes.features.features import Features
    from .probes.similarity.scoring import similarity_map

    sides = [] if kind == "plan" else [Features.load(store) for store in (sources[0], sources[-1])]
    with figures.paper(venue, columns) if venue else nullcontext():
        if kind == "plan":
            assert drawn is not None
            made = figures.architecture(drawn)
        else:
            wanted = ("image", "text") if kind == "curve" else ("text", "image")
            x, y = (side[modality] for side, modality in zip(sides, wanted, strict=True))
            if timestep is not None:
                x, y = _at(timestep, x, y)
            if kind == "curve":
                y = y.at_layer("last" if text_layer is None else text_layer) if len(sources) == 2 else y
                made = figures.alignment_curves(alignment_curve(x, y, metric, k))
            else:
                made = figures.layer_map(similarity_map(x, y, metric, k, permutations=200), drawn)
        for path in figures.save(made, out):
            print(path)


def doctor() -> None:
    """Print what is installed and what is missing; exit status 1 where something is wrong."""
    from .installation import WRONG, describe_installation

    table = describe_installation()
    for row in table.itertuples():
        print(f"{row.verdict:<7} {row.part:<22} {row.found}{f': {row.remedy}' if row.remedy else ''}")
    if wrong := list(table.loc[table["verdict"] == WRONG, "part"]):
        raise SystemExit(f"bridgework: wrong: {', '.join(wrong)}")


def map_layers(
    understanding: Path,
    generation: Path,
    out: Path,
    metric: str,
    k: int,
    modalities: tuple[str, str],
    timesteps: list[float] | None,
) -> None:
    """Write and print the layer map of two stores, of each timestep; processes of torchrun share it."""
    check_measured(metric, k, timesteps)
    check_stores(understanding, generation)
    out = folder_name("out", out)
    from .probes.features.features import Features
    from .probes.files import write_csv
    from .probes.similarity.scoring import similarity_map

    sides = [Features.load(folder)[part] for folder, part in zip((understanding, generation), modalities, strict=True)]
    times = timesteps or next((side.timesteps for side in sides if side.swept), None) or (None,)
    for at in times:
        x, y = sides if at is None else _at(at, *sides)
        folder = out if len(times) == 1 else out / f"t{at:g}"
        heat = similarity_map(x, y, metric, k, store=folder)
        if _is_first():
            write_csv(folder / "map.csv", heat, index=True)
            print(heat.round(3).to_string())
            when = "" if at is None else f" at t = {at:g}"
            print(f"{folder / 'map.csv'}: {metric} of {heat.attrs['samples']} stimuli{when}")


def choose(understanding: Path, generation: Path, out: Path, **options: Any) -> None:
    """Write and print the bridge plan of two stores; `options` are fields of `ChoiceOptions`."""
    from .probes.plans.choice_options import ChoiceOptions

    asked = ChoiceOptions(**options)
    check_stores(understanding, generation)
    from .probes.features.features import Features
    from .probes.plans.fixed_rules import FIXED
    from .probes.plans.measured_evidence import choose_from_features
    from .probes.plans.rules import RULES

    experts = Features.load(understanding), Features.load(generation)
    plan, cost = choose_from_features(*experts, asked)
    plan.save(out)
    print("understanding block - generation block:", ", ".join(f"{u}-{g}" for u, g in plan.pairs))
    if plan.rule in RULES:
        amounts = ", ".join(f"{amount} {unit}" for unit, amount in cost.items()) or "not recorded"
        print(f"the rule {plan.rule} read {RULES[plan.rule].needs}; its cost: {amounts}")
    elif plan.rule in FIXED:
        print(f"the rule {plan.rule} measures nothing: {FIXED[plan.rule].about}")
    if plan.null_sentence:
        print(plan.null_sentence)
    if found := plan.evidence.get("stability"):
        print(found["sentence"])


def train(what: str, folder: Path, **options: Any) -> None:
    """Train a recipe, a plan or a shipped expert; `options` are fields of `Recipe` that replace those of the recipe."""
    from dataclasses import replace

    from .models.experts.downloads.expert_sources import STEPS
    from .models.training.recipe import Recipe, run_recipe
    from .models.training.training_limits import check_training

    folder = folder_name("the folder of the run", folder)
    if what in STEPS:
        if others := options.keys() - {"steps"}:
            raise ValueError(f"{what} is trained as it was shipped: it takes no {min(others)}, only steps")
        check_training(**options)
        from .models.training.pretraining import pretrain

        print(f"trained: {pretrain(what, folder, **options)}")
    elif Path(what).suffix == ".json":
        settings: dict[str, Any] = {"plan": what, "validate": 0} | options
        run_recipe(Recipe(**settings), folder)
    else:
        run_recipe(replace(Recipe.load(what), **options), folder)


def evaluate(model: str, **options: Any) -> None:
    """Print all tables of a model; `options` are fields of `EvaluationOptions`."""
    from dataclasses import asdict

    from .models.evaluation.evaluation_options import EvaluationOptions

    asked = EvaluationOptions(**options)
    check_model(model)
    check_experts(*([] if asked.distance is None else [asked.distance]))
    from .models.evaluation.reporting import open_model, report, tables_as_text

    print(tables_as_text(report(open_model(model), **asdict(asked))))


def estimate(understanding: str, generation: str, out: Path | None, **options: Any) -> None:
    """Print what fusing two experts takes, and write it if asked; `options` are fields of `CostOptions`."""
    from .models.costs.cost_options import CostOptions, published_names

    asked = CostOptions(**options)
    check_plans(*(layout for layout in asked.layout if layout.endswith(".json")))
    check_experts(understanding, generation, more=published_names())
    from .models.costs.estimate import costs_as_text, estimate_costs
    from .probes.files import write_csv

    table = estimate_costs(understanding, generation, asked)
    if out:
        write_csv(out, table)
    print(costs_as_text(table))


def fetch(what: list[str]) -> None:
    """Download weights, pictures or both, and verify their hashes."""
    if "weights" in what:
        from .models.experts.downloads.weights import fetch_all as fetch_weights

        fetch_weights()
    if "pictures" in what:
        from .probes.stimuli.downloads import fetch_all as fetch_pictures

        fetch_pictures()


def demo() -> None:
    """Run the demo."""
    from .studies.runs import demo as run_demo

    run_demo()


def reproduce(names: list[str], **folders: Path) -> None:
    """Run studies; `folders` are `runs` and `results` of `bridgework.studies.reproduce`, where they are given."""
    from .studies.runs import reproduce as run_studies

    run_studies(names, **{name: folder for name, folder in folders.items() if folder is not None})
