"""Find the block stacks of every architecture that transformers and diffusers build from a default configuration.

    python -m bridgework.benchmarks.architectures     # two minutes; writes benchmarks/results/architectures.csv

Models are built on the meta device, at full size and without memory for weights.
"""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm
from transformers import CONFIG_MAPPING, AutoModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from ..probes.hooks.block_stacks import find_stacks

RESULTS = Path(__file__).parent / "results"
ENDINGS = ("Model", "Transformer", "Adapter")


def architectures() -> Iterator[tuple[str, str, Callable[[], tuple[nn.Module, int | None]]]]:
    """Yield every architecture of both libraries.

    Yields
    ------
    library, name : str
        Where the architecture comes from, and what it is called there.
    build : callable
        Returns the model and the number of layers in its configuration, None where it has no such number.
    """
    for name in sorted(MODEL_MAPPING_NAMES):

        def build(name: str = name) -> tuple[nn.Module, int | None]:
            config = CONFIG_MAPPING[name]()
            layers = getattr(config.get_text_config(), "num_hidden_layers", None)
            return AutoModel.from_config(config), layers if isinstance(layers, int) else None

        yield "transformers", name, build
    for name in sorted(dir(diffusers)):
        if (name.endswith(ENDINGS) or name.startswith("Autoencoder")) and "Multi" not in name:
            kind: Any = getattr(diffusers, name)
            if inspect.isclass(kind) and issubclass(kind, nn.Module):

                def construct(kind: Any = kind) -> tuple[nn.Module, int | None]:
                    return kind(), None

                yield "diffusers", name, construct


def survey() -> pd.DataFrame:
    """Build every architecture and find its stacks.

    Returns
    -------
    DataFrame
        One row per architecture. Columns: library, architecture, stacks (path: blocks), layers (by its configuration)
        and note, empty where a stack has as many blocks as the configuration has layers.
    """
    rows = []
    for library, name, build in tqdm(list(architectures())):
        row: dict[str, Any] = {"library": library, "architecture": name}
        try:
            with torch.device("meta"):
                model, row["layers"] = build()
        except Exception as error:  # a default that does not build, or a package that is not there
            rows.append(row | {"note": f"not built: {type(error).__name__}"})
            continue
        try:
            stacks = find_stacks(model)
            row["stacks"] = ", ".join(f"{path}: {len(blocks)}" for path, blocks in stacks.items())
            fits = row["layers"] is None or row["layers"] in map(len, stacks.values())
            rows.append(row | {"note": "" if fits else "no stack has the config's number of layers"})
        except ValueError:
            rows.append(row | {"note": "no stack"})
    return pd.DataFrame(rows)


def main() -> None:
    """Write and print the table."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    table = survey()
    table.astype({"layers": "Int64"}).to_csv(RESULTS / "architectures.csv", index=False)
    odd = table[table["note"] != ""]
    print(odd[["architecture", "layers", "stacks", "note"]].fillna("").to_string(index=False))
    built = table[~table["note"].str.startswith("not built")]
    print(f"{len(built)} architectures built, {(built['note'] == '').sum()} with the stacks that their configs name")


if __name__ == "__main__":
    main()
