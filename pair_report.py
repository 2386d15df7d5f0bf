"""Report on two experts and one set of stimuli: features, curves, layer map, plans, cost, and one page of figures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from . import figures
from .figures.gallery import Entry
from .figures.publishing.drawn import drawn_into
from .models.costs.estimate import estimate_cost
from .models.experts.opening import open_expert
from .probes.curves.curve import alignment_curve
from .probes.extraction.extracting import extract
from .probes.features.features import Features
from .probes.features.layer_features import LayerFeatures
from .probes.files import write_atomically
from .probes.metrics import METRICS
from .probes.plans.bridge_plan import BridgePlan
from .probes.plans.choice_options import DEFAULT_RULE
from .probes.plans.choosing import choose_bridges, score_plan
from .probes.similarity.nulls import map_null
from .probes.similarity.scoring import similarity_map
from .probes.stimuli.stimulus_set import Stimuli
from .report_companions import Extract, companion_tables, patch_table, scene_controls
from .report_options import ReportOptions

RULE = "alignment"  # the rule that reads the layer map, beside depth
TWIN = "random weights"  # the name of that control in curves


def write_report(
    understanding: Any,
    generation: Any,
    stimuli: Stimuli,
    folder: str | Path,
    options: ReportOptions | None = None,
    data: str = "",
) -> Path:
    """Measure two experts on the same stimuli, and write a page with every figure, its numbers and its files.

    Parameters
    ----------
    understanding : str or Subject
        The understanding expert: what `open_expert` takes, or a subject such as an `AnyModel`.
    generation : str or Subject
        The generation expert, likewise.
    stimuli : Stimuli
        What both are shown.
    folder : str or Path
        The folder to write. Features lie in it too, so that the same call, stopped, resumes.
    options : ReportOptions, optional
        The defaults if left out.
    data : str, optional
        How the stimuli are loaded again, for the script: an argument of `load_stimuli`.

    Returns
    -------
    Path
        The page, `index.html`. Beside it: figures/ with each figure as PDF, SVG and PNG, its numbers as CSV, its
        provenance as JSON and its caption as LaTeX; plan.json and alignment_plan.json; features/; and report.py, which
        makes the same again by the package's public names.

    Raises
    ------
    ValueError
        The understanding expert reads no text, the generation expert draws no image, or an option does not fit them.
        It is raised before anything is extracted.

    See Also
    --------
    check_model : Says first whether a model of your own is read rightly.
    write_gallery : Writes such a page from figures of your own.

    Examples
    --------
    >>> write_report("my/vlm", "my/dit", load_stimuli("my/captions.csv", root="my/images"), "runs/report")
    """
    options, folder = options or ReportOptions(), Path(folder)
    experts = {"understanding": _opened(understanding), "generation": _opened(generation)}
    for side, modality, verb in (("understanding", "text", "reads"), ("generation", "image", "shows")):
        if modality not in experts[side].modalities:
            raise ValueError(
                f"the {side} expert {experts[side].name!r} {verb} no {modality}: give the expert that reads as "
                "understanding and the one that draws as generation"
            )
    names = {"understanding": understanding, "generation": generation}

    def extracted(expert: Any, side: str, shown: Stimuli, store: str, **more: Any) -> Features:
        return _features(expert, side, shown, folder / "features" / store, options, **more)

    features = {side: extracted(expert, side, stimuli, side) for side, expert in experts.items()}
    curves = _curves(features, names, stimuli, extracted, options)
    controls, said = [], "The controls with words scrambled and with an object removed are left out."
    if options.controls:
        controls, said = scene_controls(experts, features, stimuli, extracted, options.metric, options.k)
    seen, made = features["understanding"]["text"], _middle(features["generation"]["image"])
    heat = similarity_map(seen, made, options.metric, options.k)
    heat.attrs |= map_null(seen, made, options.metric, options.k).summary
    plans, notes = _plans(heat, seen, made, options)
    parts = {(side, name): _middle(part) for side, found in features.items() for name, part in found.items()}
    tables = companion_tables(made, seen.at_layer("last"), parts, options.metric, options.k)
    patches, missing = patch_table(experts, stimuli, extracted)
    tables |= {} if patches is None else {"spatial similarity": patches}
    companions = dict(tables)
    tables["plans"] = _compared(plans, heat)
    notes += [said, *missing, _cost(experts, plans[DEFAULT_RULE])]
    for rule, plan in plans.items():
        plan.save(folder / ("plan.json" if rule == DEFAULT_RULE else f"{rule}_plan.json"))
    drawing = figures.paper(options.venue, options.columns) if options.venue else None
    try:
        named = experts["understanding"].name, experts["generation"].name
        entries = [*_entries(curves, heat, plans, named), *_control_entries(controls), _companion_entry(companions)]
        for entry in entries:
            path = folder / "figures" / entry.name.replace(" ", "_")
            figures.save(entry.figure, path)
            _write_text(path.with_name(f"{path.name}.tex"), figures.caption(entry.figure) + "\n")
        page = figures.write_gallery(
            folder,
            entries,
            tables,
            title=f"{experts['understanding'].name} and {experts['generation'].name}",
            notes=[f"{len(stimuli)} stimuli of {stimuli.name}, digest {stimuli.digest[:12]}.", *notes],
            headline=_headline(heat, plans),
        )
    finally:
        if drawing is not None:
            drawing.close()
        plt.close("all")
    script = _script(names, features, stimuli, data, options)
    _write_text(folder / "report.py", script)
    return page


def _write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _opened(given: Any) -> Any:
    return given if hasattr(given, "show") else open_expert(given)


def _features(
    expert: Any, side: str, stimuli: Stimuli, store: Path, options: ReportOptions, pooling: str = "mean"
) -> Features:
    task = side if side in expert.tasks else expert.tasks[0]
    times = tuple(options.timesteps)
    if pooling != "mean":  # patches are compared at one noise level
        times = (sorted(times)[len(times) // 2],)
    return extract(
        expert,
        stimuli,
        task=task,
        timesteps=times if task in expert.timed_tasks else (),
        pooling=pooling,
        device=options.device,
        batch_size=options.batch_size,
        store=store,
    )


def _middle(part: LayerFeatures) -> LayerFeatures:
    """Return features at the middle one of their timesteps."""
    return part.at(sorted(part.timesteps)[len(part.timesteps) // 2]) if part.swept else part


def _curves(
    features: dict[str, Features], names: dict[str, Any], stimuli: Stimuli, extracted: Extract, options: ReportOptions
) -> pd.DataFrame:
    """Return the curve of image and text of each expert that has both, with its twin, and that of the two experts."""
    measured = options.metric, options.k
    tables = []
    for side, found in features.items():
        if not {"image", "text"} <= set(found):
            continue
        own = alignment_curve(found["image"], found["text"], *measured).assign(control="none")
        tables.append(own)
        if options.twin and not hasattr(names[side], "show"):
            twin = extracted(open_expert(names[side], random_weights=True), side, stimuli, f"{side} twin")
            control = alignment_curve(twin["image"], twin["text"], *measured)
            tables.append(control.assign(control=TWIN, subject=own["subject"].iloc[0]))
    across = alignment_curve(
        features["generation"]["image"], features["understanding"]["text"].at_layer("last"), *measured
    )
    return pd.concat([*tables, across.assign(control="none")], ignore_index=True)


def _plans(
    heat: pd.DataFrame, seen: LayerFeatures, made: LayerFeatures, options: ReportOptions
) -> tuple[dict[str, BridgePlan], list[str]]:
    """Return the plan by depth and the plan of the map, and what is to be said of them."""
    plans = {DEFAULT_RULE: choose_bridges(heat, DEFAULT_RULE, options.bridges)}
    notes = [
        f"The plan by depth ({DEFAULT_RULE}) measures nothing. No rule that reads a map is shown to choose better."
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what they say stands in the plan, and on the page
            plan = choose_bridges(heat, RULE, options.bridges, draws=options.draws, features=(seen, made))
        plans[RULE] = plan
        notes += [plan.evidence["stability"]["sentence"], *([plan.null_sentence] if plan.null_sentence else [])]
    except ValueError as error:
        notes.append(f"The layer map gives no plan: {error}.")
    return plans, notes


def _compared(plans: dict[str, BridgePlan], heat: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for rule, plan in plans.items():
        pairs = ", ".join(f"{u}-{g}" for u, g in plan.pairs)
        rows.append(
            {
                "rule": rule,
                "bridges": pairs,
                "sum of the map's scores": score_plan(plan, heat) if RULE in plans else None,
            }
        )
    return pd.DataFrame(rows)


def _cost(experts: dict[str, Any], plan: BridgePlan) -> str:
    """Return a sentence on what a training step of the plan takes, or why that is not known."""
    try:
        cost = estimate_cost(experts["understanding"], experts["generation"], plan)
    except Exception as error:  # fusing refuses more than probing does
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"What fusing costs is not estimated: {reason}."
    return (
        f"A training step of one image with the plan by depth takes {cost.peak / 2**20:,.0f} MiB and "
        f"{cost.operations / 1e9:,.1f} billion operations, for {cost.trained:,} trained parameters."
    )


def _entries(
    curves: pd.DataFrame, heat: pd.DataFrame, plans: dict[str, BridgePlan], names: tuple[str, str]
) -> Iterator[Entry]:
    for subject, rows in curves.groupby("subject", sort=False):
        for reference, part in rows.groupby(rows["reference"].fillna(""), sort=False):
            name = f"curve {subject}" + (f" and {reference}" if reference else "")
            figure = figures.alignment_curves(part)
            yield Entry(name, figure, _caption(figure), part.drop(columns=["draws", "pairing"]))
    figure = figures.layer_map(heat, plans.get(RULE, plans[DEFAULT_RULE]))
    yield Entry("layer map", figure, _caption(figure), heat.reset_index())
    for rule, plan in plans.items():
        figure = figures.architecture(plan, names)
        pairs = pd.DataFrame(plan.pairs, columns=["understanding block", "generation block"])
        yield Entry(f"plan {rule}", figure, str(plan), pairs)


def _control_entries(controls: list[pd.DataFrame]) -> Iterator[Entry]:
    for part in controls:
        subject, reference = part[["subject", "reference"]].iloc[0]
        name = f"controls {subject}" + ("" if pd.isna(reference) else f" and {reference}")
        figure = figures.alignment_curves(part)
        yield Entry(name, figure, _caption(figure), part.drop(columns=["draws", "pairing"]))


def _companion_entry(tables: dict[str, pd.DataFrame]) -> Entry:
    figure = figures.companions(tables)
    numbers = pd.concat([table.assign(table=name) for name, table in tables.items()], ignore_index=True)
    return Entry("companions", figure, _caption(figure), numbers)


def _caption(figure: Figure) -> str:
    return " ".join(drawn.caption for drawn in drawn_into(figure))


def _headline(heat: pd.DataFrame, plans: dict[str, BridgePlan]) -> dict[str, object]:
    scores = heat.stack()
    best = scores.idxmin() if METRICS[heat.attrs["metric"]].is_distance else scores.idxmax()
    return {
        "best pair of layers": f"{best[0]}-{best[1]}",
        "its score": float(scores[best]),
        "chance": heat.attrs.get("chance") if heat.attrs.get("chance") is not None else "depends on the features",
        "p of the best pair": float(heat.attrs["peak_p"]),
    } | {f"bridges, {rule}": ", ".join(f"{u}-{g}" for u, g in plan.pairs) for rule, plan in plans.items()}


def _script(
    names: dict[str, Any], features: dict[str, Features], stimuli: Stimuli, data: str, options: ReportOptions
) -> str:
    """Return a script that measures the same by the public names of the package."""
    scenes = ", scene_stimuli" if data.startswith("scene_stimuli") else ""
    loaders = "" if scenes else ", load_stimuli"
    image = features["generation"]["image"]
    at = f".at({_middle(image).timesteps[0]:g})" if image.swept else ""
    lines = [
        '"""Measure the layer map of two experts, and choose bridges: what the page beside this file rests on."""',
        "",
        "from bridgework import figures",
        f"from bridgework.models import open_expert{scenes}",
        f"from bridgework.probes import alignment_curve, choose_bridges, extract{loaders}, map_null, similarity_map",
        "",
        f"stimuli = {data or f'...  # {len(stimuli)} stimuli of {stimuli.name}'}",
        f'assert stimuli.digest == "{stimuli.digest}"  # else these are other stimuli than those of the report',
        *(_extraction(side, names[side], found) for side, found in features.items()),
        "",
        f'text, image = understanding["text"], generation["image"]{at}',
        f'curve = alignment_curve(generation["image"], text.at_layer("last"), "{options.metric}", {options.k})',
        f'heat = similarity_map(text, image, "{options.metric}", {options.k})',
        f'heat.attrs |= map_null(text, image, "{options.metric}", {options.k}).summary',
        f'plan = choose_bridges(heat, "{DEFAULT_RULE}", {options.bridges})',
        "print(plan)",
        'figures.save(figures.alignment_curves(curve), "again/curve")',
        'figures.save(figures.layer_map(heat, plan), "again/layer_map")',
    ]
    return "\n".join(lines) + "\n"


def _extraction(side: str, given: Any, found: Features) -> str:
    """Return the line that extracts one side's features again, into the store that is there."""
    part = next(iter(found.values()))
    times = f", timesteps={tuple(part.timesteps)}" if part.timesteps else ""
    rest = f'stimuli, task="{part.task}"{times}, store="features/{side}")'
    if hasattr(given, "show"):
        return f"expert = ...  # your {given.name}\n{side} = extract(expert, {rest}"
    source = Path(given).resolve() if Path(given).is_dir() else given
    return f'{side} = extract(open_expert("{source}"), {rest}'
