"""The command line: `python -m bridgework COMMAND --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> None:
    """Run one command; errors are one line on stderr and exit status 1, or 130 for an interruption."""
    parser = argparse.ArgumentParser(prog="python -m bridgework", description="Measure where to bridge two experts.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Any, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(run.__name__.strip("_"), help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    command(_demo, "the main job on the bundled data, within minutes; writes figures/gallery/index.html")
    command(_reproduce, "the committed long run (hours); writes results/")
    sub = command(_extract, "hidden states of every layer of an expert: a feature store, also under torchrun")
    sub.add_argument("expert", help="scenes-vlm, scenes-dit, smollm2-135m, minilm-l6, dinov2-s, a folder or a Hub id")
    sub.add_argument(
        "stimuli", help="noto, fluent, tuxpaint, openclipart, scenes-evidence, scenes-test, or an image folder"
    )
    sub.add_argument("out", type=Path, help="the folder to write; if it was begun, it is gone on with")
    sub.add_argument("--task", help="understanding or generation, of an expert that has both")
    sub.add_argument("--timesteps", type=float, nargs="*", default=[], help="of a generation expert, such as .2 .5 .8")
    sub.add_argument("--joint", action="store_true", help="one pass with both modalities")
    sub.add_argument("--layers", nargs="+", help="some alone, such as embeddings 0 7")
    sub.add_argument("--pooling", default="mean", help="mean, last, first, none or a patch grid such as grid:4 (mean)")
    sub.add_argument("--special", action="store_true", help="pool sinks, class tokens and the like as well")
    sub.add_argument("--cleaned", action="store_true", help="keep clamped and z-scored features beside the raw ones")
    sub.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"), help="of what is kept")
    sub.add_argument("--precision", help="bf16 or fp16: run the expert under autocast")
    sub.add_argument("--batch-size", type=int, default=32, help="stimuli at once (32)")
    sub.add_argument("--random-weights", action="store_true", help="the random-weight twin")
    sub.add_argument("--limit", type=int, default=512, help="stimuli at most (512)")
    sub = command(_align, "the alignment curve of image and text of one feature store, as CSV")
    sub.add_argument("features", type=Path)
    sub.add_argument("out", type=Path)
    sub.add_argument("--metric", default="mutual_knn", help="any of probes.similarity")
    sub = command(_choose, "a bridge plan from two feature stores")
    sub.add_argument("understanding", type=Path)
    sub.add_argument("generation", type=Path)
    sub.add_argument("out", type=Path, help="the plan to write, JSON")
    sub.add_argument("--timestep", type=float, help="of the generation features, if several were swept")
    sub.add_argument("--metric", default="mutual_knn", help="of the layer map: any of probes.similarity")
    sub.add_argument(
        "--rule",
        default="alignment",
        help="alignment, complementarity, causal, gradient_conflict, divergence, all, middle, uniform, last, random; "
        "or published: the layout's own pairs",
    )
    sub.add_argument("--bridges", type=int, help="4; of middle and divergence their own number")
    sub.add_argument("--seed", type=int, default=0, help="of the rule random")
    sub.add_argument(
        "--evidence",
        type=Path,
        help="of the rule, instead of what the two stores say: a CSV or Parquet table, such as the links of a trained "
        "dense model, or a divergence as JSON",
    )
    sub.add_argument("--layout", default="H", help="H, dense, double fusion, last, shared, Y or X")
    sub.add_argument("--matching", help="of a published layout: prelude, repeat, proportional or optimal")
    sub.add_argument("--stream", default="image", help="the generator's stream that is bridged: image, text or both")
    sub.add_argument("--rank", type=int, help="of the bridges' maps; full without")
    sub = command(
        _train,
        "train a recipe, the bridges of a plan, or one of our experts; goes on where it was stopped; also torchrun",
    )
    sub.add_argument("what", help="a recipe (YAML, see recipes/), a plan (JSON), scenes-vlm, scenes-dit or emoji-dit")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--layout", help="of a recipe: shared, Y, X, dense, H, 'double fusion' or last")
    sub.add_argument("--steps", type=int)
    sub.add_argument("--seed", type=int)
    sub.add_argument("--shuffled", action="store_true", default=None, help="shuffled captions: the floor")
    sub = command(_evaluate, "score an expert or a trained model on scenes, and tell what it costs")
    sub.add_argument("model", help="scenes-vlm, scenes-dit, or the folder of a trained fused or unified model")
    sub.add_argument("--part", default="test", help="test (new scenes) or new (new combinations)")
    sub.add_argument("--each", type=int, default=40, help="captions or questions per skill")
    sub.add_argument("--dense", action="store_true", help="dense captions of up to four things as well")
    sub.add_argument(
        "--distance", nargs="?", const="dinov2-s", metavar="EXPERT", help="to real images, by its features (dinov2-s)"
    )
    sub.add_argument("--costs", dest="cost", action="store_true", help="of a training step: FLOPs, time, memory, ...")
    sub = command(
        _plan, "memory and GPU hours of fusing two experts, computed from their configs; no weights are needed"
    )
    sub.add_argument("understanding", help="qwen2.5-vl-7b, an expert of ours, or a folder with its config.json")
    sub.add_argument("generation", help="wan2.2-ti2v-5b, sd3.5-medium, an expert of ours, or a folder with its config")
    sub.add_argument("--layout", nargs="+", default=["H"], help="dense, H, 'double fusion', last, or plans (JSON)")
    sub.add_argument("--trained", default="bridges", help="bridges, lora or all")
    sub.add_argument("--batch", type=int, default=1, help="samples on each GPU (1)")
    sub.add_argument("--tokens", type=int, default=128, help="of a caption (128)")
    sub.add_argument("--resolution", type=int, help="pixels a side of what is drawn; the expert's own without")
    sub.add_argument("--precision", default="mixed", help="float32, mixed (autocast), or bf16 (frozen weights as well)")
    sub.add_argument("--checkpointing", action="store_true", help="compute blocks again in the backward pass")
    sub.add_argument("--gpus", type=int, default=1, help="that FSDP2 shards the model among (1)")
    sub.add_argument("--replicated", action="store_true", help="every GPU holds all of it")
    sub.add_argument("--steps", type=int, default=10_000)
    sub.add_argument("--gpu", default="H100", help="H100 or A100")
    sub.add_argument("--utilisation", type=float, default=0.4, help="of the GPU's peak rate; an assumption (.4)")
    sub.add_argument("--out", type=Path, help="also write the table, as CSV")

    options = vars(parser.parse_args(arguments))
    try:
        options.pop("run")(**options)
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError, MemoryError) as error:
        sys.exit(f"bridgework: {error}")
    except KeyError as error:  # a modality that a store has not: its text is what KeyError would quote
        sys.exit(f"bridgework: {error.args[0]}")
    except KeyboardInterrupt:
        print("bridgework: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _demo() -> None:
    from .studies.runs import demo

    demo()


def _reproduce() -> None:
    from .studies.runs import reproduce

    reproduce()


def _extract(
    expert: str, stimuli: str, out: Path, limit: int, random_weights: bool, dtype: str, **options: Any
) -> None:
    import torch

    from .models.experts.opening import open_expert
    from .models.scenes.composing import scene_stimuli
    from .probes.extraction.extracting import extract
    from .probes.stimuli.sources import load_stimuli

    part = stimuli.removeprefix("scenes-")
    shown = scene_stimuli(part, limit) if stimuli != part else load_stimuli(stimuli, limit)
    extract(open_expert(expert, random_weights), shown, store=out, dtype=getattr(torch, dtype), **options)


def _align(features: Path, out: Path, metric: str) -> None:
    from .probes.curves.curve import alignment_curve
    from .probes.features.features import Features
    from .probes.files import write_csv

    seen = Features.load(features)
    curve = alignment_curve(seen["image"], seen["text"], metric=metric)
    write_csv(out, curve)
    print(curve[["timestep", "layer", "depth", "score", "low", "high", "chance", "null95", "p"]].to_string(index=False))


def _choose(
    understanding: Path,
    generation: Path,
    out: Path,
    timestep: float | None,
    metric: str,
    rule: str,
    bridges: int | None,
    seed: int,
    evidence: Path | None,
    layout: str,
    matching: str | None,
    stream: str,
    rank: int | None,
) -> None:
    from time import perf_counter

    from .probes.features.features import Features
    from .probes.plans.choosing import choose_bridges
    from .probes.plans.layouts import lay_out
    from .probes.plans.matching import count_towers
    from .probes.plans.rules import RULES, read_evidence

    seen, made = Features.load(understanding), Features.load(generation)
    if timestep is not None:
        made = Features({name: part.at(timestep) for name, part in made.modalities.items()}, made.provenance)
    layers = count_towers(seen["text"], made["image"])
    if matching is not None and rule != "published":
        raise ValueError("--matching is of --rule published: the other rules choose their pairs themselves")
    if bridges is not None and rule == "published":
        raise ValueError("--bridges is of the other rules: --rule published has as many as the layout")
    known, spent, began = None, {}, perf_counter()
    if evidence is not None:
        known = read_evidence(evidence)
    elif rule in RULES or matching == "optimal":
        known = _evidence(seen, made, metric, rule)
        spent = {"seconds": round(perf_counter() - began, 1)}
        if rule == "alignment":
            known.attrs["cost"] = spent
    if rule == "published":
        plan = lay_out(layout, *layers, matching=matching, heat=known, stream=stream, rank=rank)
    else:
        plan = choose_bridges(known, rule, bridges, seed, stream, layers=layers, layout=layout, rank=rank)
    plan.save(out)
    print("understanding block - generation block:", ", ".join(f"{u}-{g}" for u, g in plan.pairs))
    if rule in RULES:
        estimate_cost = plan.evidence.get("cost") or spent
        told = (
            ", ".join(f"{amount} {unit}" for unit, amount in estimate_cost.items()) if estimate_cost else "not recorded"
        )
        print(f"the evidence of {rule}, {RULES[rule].needs}, cost: {told}")


def _evidence(seen: Any, made: Any, metric: str, rule: str) -> Any:
    """What two feature stores say to a rule."""
    from .probes.curves.curve import alignment_curve
    from .probes.curves.divergence_depth import divergence
    from .probes.evidence.complementarity import complementarity_map
    from .probes.plans.rules import RULES
    from .probes.similarity.scoring import similarity_map

    if rule in RULES and RULES[rule].trained:
        raise ValueError(f"the rule {rule!r} needs {RULES[rule].needs}: pass it as --evidence FILE")
    if rule == "divergence":
        return divergence(*(alignment_curve(store["image"], store["text"], metric=metric) for store in (seen, made)))
    if rule == "complementarity":
        # what a bridge ought to bring: the caption as the generation expert's own text route begins with it
        return complementarity_map(seen["text"], made["image"], made["text"].layer(made["text"].layers[0]))
    return similarity_map(seen["text"], made["image"], metric=metric)


def _train(what: str, folder: Path, steps: int | None, **options: Any) -> None:
    from .models.training.pretraining import STEPS, pretrain

    given: dict[str, Any] = {name: value for name, value in ({"steps": steps} | options).items() if value is not None}
    if what in STEPS:
        print(f"trained: {pretrain(what, folder, steps)}")
        return
    from dataclasses import replace

    from .models.training.recipe import Recipe, run_recipe

    if Path(what).suffix == ".json":
        run_recipe(Recipe(plan=what, validate=0, **given), folder)
    else:
        run_recipe(replace(Recipe.load(what), **given), folder)


def _evaluate(model: str, **options: Any) -> None:
    from .models.evaluation.reporting import open_model, report

    tables = report(open_model(model), **options)
    for name, cost_table in tables.items():
        wide = name == "costs"  # one row: read downwards
        text = cost_table.T.to_string(header=False) if wide else cost_table.round(3).to_string(index=False)
        print(f"{name}\n{text}\n" if len(tables) > 1 else text)


def _plan(layout: list[str], out: Path | None, steps: int, gpu: str, utilisation: float, **options: Any) -> None:
    import pandas as pd

    from .models.costs.estimate import cost_table, estimate_cost
    from .probes.files import write_csv
    from .probes.plans.bridge_plan import BridgePlan

    plans = [BridgePlan.load(each) if each.endswith(".json") else each for each in layout]
    rows = pd.concat([cost_table(estimate_cost(layout=each, **options), steps, gpu, utilisation) for each in plans])
    if out:
        write_csv(out, rows)
    shown = rows.map(lambda value: f"{value:.4g}" if isinstance(value, float) else value).set_index("layout")
    print(shown.T.to_string())


if __name__ == "__main__":
    main()
