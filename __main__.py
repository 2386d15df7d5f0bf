"""Start one command of the command line: `bridgework COMMAND --help`, or `python -m bridgework COMMAND --help`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import commands
from .command_line import Command, layer_of, parse
from .probes.comparison_options import DEFAULT_METRIC

FORESEEN = (ValueError, TypeError, OSError, RuntimeError, FloatingPointError, MemoryError, ImportError)
EXPERTS = (
    "a name (scenes-vlm, scenes-reader, scenes-dit, scenes-dit-wide, emoji-dit, smollm2-135m, minilm-l6, dinov2-s), "
    "a folder or a Hub id"
)
PICTURES = "noto, fluent, tuxpaint, openclipart, scenes-evidence, scenes-test, or a folder, table or archive"
PLANNED = "a published expert, one of ours, or a folder, of which a step is computed if its family is not known"
WEIGHTS = {  # how the weights of an expert are read, as `open_expert` takes it
    "--expert-dtype": {
        "help": "The format of the weights: fp32, bf16, fp16 or auto. (default: fp32)",
        "choices": ("fp32", "bf16", "fp16", "auto", "float32", "bfloat16", "float16"),
        "metavar": "FORMAT",
    },
    "--device-map": {"help": "Where the weights lie, such as auto over all GPUs. (default: one device)"},
    "--quantization": {
        "help": "How the weights are quantised, by a name of transformers such as bitsandbytes_4bit. (default: not)"
    },
}
COLUMNS = {  # where images and captions stand in a user's own data
    "--image-column": {"help": "The column of images or their paths. (default: found by its name)"},
    "--text-column": {"help": "The column of captions. (default: found by its name)"},
    "--root": {"help": "The folder that paths of images begin at. (default: that of the table)", "type": Path},
    "--captions": {
        "help": "What becomes of an image with several: first keeps the first; all keeps all, and images are "
        "compared. (default: an error)",
    },
    "--part": {"help": "One part of the data: train, evidence, validation or test. (default: all of them)"},
}
MEASURED_BY = {
    "--metric": {"help": "The similarity, any of `bridgework.probes.METRICS`.", "default": DEFAULT_METRIC},
    "--k": {
        "help": "The number of neighbours of mutual_knn, cknna and information_imbalance.",
        "type": int,
        "default": 10,
    },
}

COMMANDS = {
    "demo": Command(
        "Run the main job on the bundled data, within minutes, and write a page of figures to figures/gallery.",
        "bridgework demo",
        commands.demo,
    ),
    "extract": Command(
        "Write the hidden states of every layer of an expert to a feature store; torchrun shares the work.",
        "bridgework extract scenes-dit scenes-evidence runs/dit --timesteps .2 .5 .8 --limit 64",
        commands.extract,
        {
            "expert": {"help": f"The expert: {EXPERTS}."},
            "stimuli": {"help": f"What it is shown: {PICTURES}."},
            "out": {"help": "The folder to write. A store that was begun there is completed.", "type": Path},
            "--limit": {"help": "How many stimuli are shown at most. (default: all; of scenes, 512)", "type": int},
            **COLUMNS,
            **WEIGHTS,
            "--random-weights": {"help": "Probe the expert's twin with random weights.", "action": "store_true"},
            "--front": {
                "help": "The token in front of a language model's texts. (default: measured; the first that makes no "
                "word a sink)",
            },
        },
        "probes.extraction_options:ExtractionOptions",
        without=("tokens", "store"),
    ),
    "check": Command(
        "Check that a model is read rightly: passes, tokens, batches, padding, hooks; exit status 1 if not.",
        "bridgework check scenes-dit",
        commands.check,
        {
            "model": {"help": f"The model: {EXPERTS}."},
            "stimuli": {"help": f"What it is shown: {PICTURES}. (default: noto)", "nargs": "?", "default": "noto"},
            "--timesteps": {
                "help": "The noise levels of generation.",
                "type": float,
                "nargs": "+",
                "default": (0.5,),
                "metavar": "T",
            },
            "--device": {"help": "The device that the model runs on, such as cpu or cuda:1.", "default": "auto"},
            **WEIGHTS,
        },
    ),
    "align": Command(
        "Print the alignment curve of one feature store's image and text, or of two stores, beside its null.",
        "bridgework align runs/dit runs/vlm --text-layer last --out runs/dit.csv",
        commands.align,
        {
            "features": {"help": "The feature store, whose image is compared layer by layer.", "type": Path},
            "text": {
                "help": "The store of another model, with one layer of whose text every layer is compared. (default: "
                "the same store, each layer with itself)",
                "type": Path,
                "nargs": "?",
                "metavar": "text_store",
            },
            "--out": {
                "help": "The file to write: CSV, or Parquet, which also holds the draws that `divergence` needs. "
                "(default: no file)",
                "type": Path,
                "metavar": "FILE",
            },
            "--text-layer": {
                "help": "The layer of the second store: a name, last, a number from the end such as -2, or a depth "
                "such as .5. (default: last)",
                "type": layer_of,
                "metavar": "LAYER",
            },
            "--modalities": {
                "help": "The modalities that are compared, of the one store and of the other.",
                "nargs": 2,
                "default": ("image", "text"),
                "metavar": ("IMAGE", "TEXT"),
            },
            "--timesteps": {
                "help": "The timestep that is read of features that hold several. (default: a curve of each)",
                "type": float,
                "dest": "timestep",
                "metavar": "T",
            },
            **MEASURED_BY,
            "--block": {
                "help": "How many consecutive samples move together in the null and in the intervals, such as the "
                "captions of a picture.",
                "type": int,
                "default": 1,
            },
            "--tolerance": {
                "help": "The standard error of a score that is good enough, for mutual_knn, cka and cka_units: as many "
                "samples are used as that takes. (default: all samples)",
                "type": float,
                "metavar": "ERROR",
            },
        },
    ),
    "map": Command(
        "Write the layer map of two feature stores, with a CSV file in its folder; torchrun shares the work.",
        "bridgework map runs/vlm runs/dit runs/map --timesteps .5",
        commands.map_layers,
        {
            "understanding": {"help": "The feature store of the understanding expert.", "type": Path},
            "generation": {"help": "The feature store of the generation expert.", "type": Path},
            "out": {"help": "The folder to write. A map that was begun there is completed.", "type": Path},
            **MEASURED_BY,
            "--modalities": {
                "help": "The modalities that are compared, of the one expert and of the other.",
                "nargs": 2,
                "default": ("text", "image"),
                "metavar": ("TEXT", "IMAGE"),
            },
            "--timesteps": {
                "help": "The timesteps of the features that hold several. (default: all, a map and a folder of each)",
                "type": float,
                "nargs": "+",
                "metavar": "T",
            },
        },
    ),
    "choose": Command(
        "Choose a bridge plan from two feature stores, write it as JSON, and print its pairs.",
        "bridgework choose runs/vlm runs/dit runs/plan.json --timesteps .5 --bridges 4",
        commands.choose,
        {
            "understanding": {"help": "The feature store of the understanding expert.", "type": Path},
            "generation": {"help": "The feature store of the generation expert.", "type": Path},
            "out": {"help": "The plan to write, a JSON file.", "type": Path},
        },
        "probes.plans.choice_options:ChoiceOptions",
    ),
    "train": Command(
        "Train a recipe, a plan or one of our experts; a stopped run resumes; torchrun shares the work.",
        "bridgework train scenes runs/h --steps 20",
        commands.train,
        {
            "what": {
                "help": "A recipe (the name of a shipped one, such as scenes, or a YAML file), a plan (JSON, which "
                "is trained without validation unless asked), or an expert to train (scenes-vlm, scenes-reader, "
                "scenes-dit, scenes-dit-wide, emoji-dit). The options below replace "
                "what a recipe says; of an expert only --steps can be set."
            },
            "folder": {"help": "The folder of the run.", "type": Path},
        },
        "models.training.recipe:Recipe",
    ),
    "evaluate": Command(
        "Score an expert or a trained model on scenes, and print the tables.",
        "bridgework evaluate scenes-dit --each 2",
        commands.evaluate,
        {"model": {"help": f"A trained model's folder, or an expert: {EXPERTS}."}},
        "models.evaluation.evaluation_options:EvaluationOptions",
    ),
    "estimate": Command(
        "Estimate memory and GPU hours of fusing two experts, from their configs where these are enough.",
        'bridgework estimate scenes-vlm scenes-dit --layout H dense "double fusion" --batch 8',
        commands.estimate,
        {
            "understanding": {"help": f"The understanding expert, such as qwen2.5-vl-7b: {PLANNED}."},
            "generation": {"help": f"The generation expert, such as wan2.2-ti2v-5b: {PLANNED}."},
            "--out": {"help": "The CSV file to write as well. (default: no file)", "type": Path, "metavar": "FILE"},
        },
        "models.costs.cost_options:CostOptions",
        aliases=("plan",),
    ),
    "fetch": Command(
        "Download the weights of real experts, or more pictures, and verify their hashes.",
        "bridgework fetch weights",
        commands.fetch,
        {"what": {"help": "What to download: weights, pictures.", "choices": ("weights", "pictures"), "nargs": "+"}},
    ),
    "report": Command(
        "Measure two experts on one set of stimuli: features, curves, map, plans, figures, one page and its script.",
        "bridgework report scenes-vlm scenes-dit scenes-evidence runs/report --limit 128",
        commands.report,
        {
            "understanding": {"help": f"The understanding expert: {EXPERTS}."},
            "generation": {"help": f"The generation expert: {EXPERTS}."},
            "data": {"help": f"What both are shown: {PICTURES}."},
            "out": {"help": "The folder to write. A report that was begun there is completed.", "type": Path},
            "--limit": {"help": "How many stimuli are shown at most. (default: all; of scenes, 512)", "type": int},
            **COLUMNS,
        },
        "report_options:ReportOptions",
    ),
    "figure": Command(
        "Draw one figure from feature stores or a plan, and save it with its numbers (CSV) and its record (JSON).",
        "bridgework figure map runs/vlm runs/dit --timesteps .5 --out runs/map.pdf --venue cvpr",
        commands.figure,
        {
            "kind": {"help": "What is drawn: curve, map or plan.", "choices": ("curve", "map", "plan")},
            "sources": {
                "help": "Of a curve one store, or the stores of images and of texts; of a map the stores of the "
                "understanding and of the generation expert; of a plan its JSON file.",
                "type": Path,
                "nargs": "+",
            },
            "--out": {
                "help": "The file to write, with the suffix .pdf, .svg or .png; all three without one.",
                "type": Path,
                "default": Path("figure.pdf"),
                "metavar": "FILE",
            },
            **MEASURED_BY,
            "--timesteps": {
                "help": "The timestep that is read of features that hold several. (default: all of them)",
                "type": float,
                "dest": "timestep",
                "metavar": "T",
            },
            "--text-layer": {
                "help": "The layer of the second store of a curve. (default: last)",
                "type": layer_of,
                "metavar": "LAYER",
            },
            "--plan": {"help": "The plan that is drawn into a map. (default: none)", "type": Path, "metavar": "FILE"},
            "--venue": {"help": "Draw for a venue's paper: cvpr, icml, neurips or iclr. (default: for the screen)"},
            "--columns": {"help": "How many columns of the venue's page it takes.", "type": int, "default": 1},
        },
    ),
    "doctor": Command(
        "Say what is installed: versions, devices, weights and pictures; exit status 1 where something is wrong.",
        "bridgework doctor",
        commands.doctor,
    ),
    "reproduce": Command(
        "Run the studies whose results are committed, in hours, and write every file of studies/results.",
        "bridgework reproduce layouts",
        commands.reproduce,
        {
            "names": {
                "help": "The studies: scenes, half-trained, stability, costs, real, causal, layouts, emoji, verdict, "
                "claims, editing. (default: all of them)",
                "nargs": "*",
                "metavar": "STUDY",
            },
            "--runs": {"help": "The folder to work in. (default: runs)", "type": Path, "metavar": "FOLDER"},
            "--results": {
                "help": "The folder to write results to. (default: studies/results in the package)",
                "type": Path,
                "metavar": "FOLDER",
            },
        },
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command; an error is one line on stderr and exit status 1, an interruption exit status 130."""
    with _noticed() as interruptions:
        _run(arguments, interruptions)


@contextmanager
def _noticed() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at Ctrl+C, as Python does, and note it: libraries turn it into errors while they load."""
    noted: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # somebody else's, or ignored
        yield noted
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _run(arguments: list[str] | None, interruptions: list[int]) -> None:
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read by transformers: bars of weights fill a log
    try:
        about = "Measure where two experts align, layer by layer, and bridge them there."
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _announce()
        words = sys.argv[1:] if arguments is None else arguments
        run, given = parse(COMMANDS, words, about=about)
        run(**given)
    except KeyboardInterrupt:
        _stop()
    except Exception as error:
        if interruptions:
            _stop()
        if isinstance(error, KeyError):  # a modality that a store does not have: KeyError would quote its message
            sys.exit(f"bridgework: {error.args[0]}")
        if not isinstance(error, FORESEEN):
            raise
        sys.exit(f"bridgework: {error}")


def _announce() -> None:
    """Give the other ranks signs of life from the beginning, before anything slow is opened."""
    from .probes.workers.heartbeats import begin

    begin()


def _stop() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would interrupt the way out
    print("bridgework: stopped; run the same command again to resume", file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
    main()
