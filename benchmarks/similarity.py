"""Time layer maps by us, the public packages, plain NumPy and the floor, on the same features in one run.

    python -m bridgework.benchmarks.similarity     # some minutes; writes benchmarks/results/similarity.csv

The command prints a Markdown table too. The features are 12 and 16 layers of 2,048 samples (`support.inputs.stack`).
Contestants that would take minutes score some of the pairs, and their time is scaled to all of them, as the table says.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from ..probes.metrics import METRICS, cka, covariances
from ..probes.metrics.metric import MEMORY
from ..probes.similarity.nulls import map_moments, map_null
from ..probes.similarity.scoring import similarity_map
from .support.floors import cosine_grams, gram_map, procrustes_products, pwcca_products, svcca_products
from .support.inputs import machine, stack, use_all_cores
from .support.peers import PEERS, calibrated
from .support.race import FLOOR, OURS, TRUTH, Contestant, Pairs, Scores, markdown, race, some, whole
from .support.reference import REFERENCE

RESULTS = Path(__file__).with_name("results")
K, PERMUTATIONS = 10, 200
CASES = ("cka", "mutual_knn", "cknna", "svcca", "pwcca", "procrustes", "rsa", "nulls", "forms")
SHAPES = ((512, 128), (512, 512), (2048, 128), (2048, 256), (2048, 512), (2048, 1024), (8192, 256), (1024, 4096))

FLOORS: dict[str, tuple[str, Callable[[Tensor, Tensor], object]]] = {
    "cka": ("Grams and their inner products", gram_map),
    "mutual_knn": ("cosines of every layer", cosine_grams),
    "cknna": ("cosines of every layer", cosine_grams),
    "svcca": ("leading directions, their products and singular values", svcca_products),
    "pwcca": ("leading directions, their products and eigenvectors", pwcca_products),
    "procrustes": ("products x'y and their singular values", procrustes_products),
}


def checked_pairs(x: Tensor, y: Tensor) -> Pairs:
    """Return four pairs from the corners and the middle of the map, two of them in the middle row."""
    rows, columns = len(x), len(y)
    middle = rows // 2
    return [(0, 0), (middle, columns // 4), (middle, 3 * columns // 4), (rows - 1, columns - 1)]


def ours(x: Tensor, y: Tensor, metric: str) -> Contestant:
    """Enter our whole map of two stacks (layer, sample, dim)."""
    return Contestant(OURS, lambda: whole(similarity_map(x, y, metric, K).to_numpy()))


def truth(x: Tensor, y: Tensor, metric: str) -> Contestant:
    """Enter the NumPy reference of one pair at a time, on the pairs that all others are checked on."""
    pairs = checked_pairs(x, y)
    every = len(x) * len(y)

    def score(i: int, j: int) -> float:
        return REFERENCE[metric](x[i].double().numpy(), y[j].double().numpy(), K)

    return Contestant(TRUTH, some(pairs, score), every / len(pairs), f"scaled from {len(pairs)} of {every} pairs")


def peers(x: Tensor, y: Tensor, metric: str) -> list[Contestant]:
    """Enter the installed packages that offer the metric, each on the largest part of the map that takes seconds.

    Parameters
    ----------
    x, y : Tensor
        Stacks (layer, sample, dim).
    metric : str
        A name of `REFERENCE`.

    Returns
    -------
    list of Contestant
        One per package.
    """
    entered = []
    every, middle = len(x) * len(y), len(x) // 2
    for peer in PEERS:
        if peer.metric != metric or not peer.installed:
            continue
        if peer.name in ("pytorch-cka", "rsatoolbox"):  # they know layers, and compute each one's matrix once

            def run(peer=peer) -> Scores:
                return whole(peer.scores(list(x), list(y)))

            entered.append(Contestant(peer.name, run))
        elif peer.name == "torch_cka":  # it knows layers, but computes y's matrices for every layer of x

            def run(peer=peer) -> Scores:
                row = peer.scores([x[middle]], list(y))
                return {(middle, j): float(value) for j, value in enumerate(row[0])}

            entered.append(Contestant(peer.name, run, len(x), f"scaled from {len(y)} of {every} pairs, one whole row"))
        else:
            pairs = checked_pairs(x, y)
            run = some(pairs, lambda i, j, peer=peer: peer.score(x[i], y[j]))
            note = f"scaled from {len(pairs)} of {every} pairs"
            entered.append(Contestant(peer.name, run, every / len(pairs), note))
    return entered


def floor(x: Tensor, y: Tensor, metric: str) -> list[Contestant]:
    """Enter what the map cannot avoid, for the metrics that have a floor."""
    if metric not in FLOORS:
        return []
    name, products = FLOORS[metric]

    def run() -> Scores:
        products(x, y)
        return {}

    return [Contestant(f"{FLOOR}: {name}", run)]


def map_case(x: Tensor, y: Tensor, metric: str, rounds: int, device: str) -> pd.DataFrame:
    """Time one metric's whole layer map, ours and everybody else's."""
    contestants = [ours(x, y, metric), *floor(x, y, metric), *peers(x, y, metric), truth(x, y, metric)]
    return race(f"{metric} map", contestants, rounds, device)


def null_cases(x: Tensor, y: Tensor, rounds: int, device: str) -> pd.DataFrame:
    """Time a permutation null of the whole map, and the map itself, for three metrics."""
    tables = []
    for metric in ("cka", "mutual_knn", "cknna"):

        def permuted(metric=metric) -> Scores:
            return whole(map_null(x, y, metric, K, PERMUTATIONS).observed)

        contestants = [
            Contestant(f"{FLOOR}: the map alone", ours(x, y, metric).run),
            Contestant(OURS, permuted, note=f"{PERMUTATIONS} permutations"),
        ]
        if metric == "cka":

            def moments() -> Scores:
                map_moments(x, y)
                return {}

            contestants.append(Contestant("bridgework, moments", moments, note="closed form, no permutations"))
            contestants += calibration(x, y)
        tables.append(race(f"{metric} null", contestants, rounds, device))
    return pd.concat(tables)


def form_cases(shapes: Sequence[tuple[int, int]], rounds: int, device: str) -> pd.DataFrame:
    """Time both ways to a map of debiased CKA beside the one that is chosen, which is to be the faster.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Samples and dims of 6 x 6 layers.
    rounds : int
        How many rounds, of which the best counts.
    device : str
        What the table says about the machine.

    Returns
    -------
    DataFrame
        As `support.race.race`. `speedup of ours` is below 1 where the other way is faster.
    """
    tables = []
    for samples, dims in shapes:
        x, y = (list(stack(6, samples, dims, side)) for side in (0, 1))

        def by_samples(x=x, y=y) -> Scores:
            return whole(cka.by_tables(cka.u_centred, x, y, False, MEMORY))

        def by_dims(x=x, y=y) -> Scores:
            found = covariances.scores(x, y, True, MEMORY)
            return {} if found is None else whole(found)

        chosen = "dims" if covariances.cheaper(x, y) else "samples"
        contestants = [
            Contestant(OURS, lambda x=x, y=y: whole(METRICS["cka"].scores(x, y, K)), note=f"by {chosen}"),
            Contestant("by samples", by_samples, note="tables of samples"),
            Contestant("by dims", by_dims, note="products of dims"),
        ]
        tables.append(race(f"cka of {samples} samples and {dims} dims", contestants, rounds, device))
    return pd.concat(tables)


def calibration(x: Tensor, y: Tensor) -> list[Contestant]:
    """Enter calibrated-similarity on 4 pairs and 1 permutation, scaled to the whole map and 200 permutations."""
    part_x, part_y = [x[len(x) // 2]], list(y[: min(4, len(y))])
    pairs = len(part_x) * len(part_y)
    scale = len(x) * len(y) / pairs * (PERMUTATIONS + 1) / 2
    note = f"scaled from {pairs} pairs and 1 permutation to {len(x) * len(y)} and {PERMUTATIONS}; biased CKA"

    def run() -> Scores:
        calibrated(part_x, part_y, 1)
        return {}

    installed = any(peer.package == "calibrated_similarity" and peer.installed for peer in PEERS)
    return [Contestant("calibrated-similarity", run, scale, note)] if installed else []


def _shape(text: str) -> tuple[int, int]:
    """Read samples and dims, as 2048x512."""
    samples, dims = text.split("x")
    return int(samples), int(dims)


def main() -> None:
    """Run the race, and write and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.similarity", description=__doc__)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES, metavar="CASE", help=f"{CASES}")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts")
    parser.add_argument("--layers", type=int, nargs=2, default=(12, 16), metavar=("X", "Y"))
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--dims", type=int, nargs=2, default=(768, 1024), metavar=("X", "Y"))
    parser.add_argument("--shapes", type=_shape, nargs="*", default=SHAPES, metavar="SAMPLESxDIMS", help="of forms")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where similarity.csv is written")
    options = parser.parse_args()
    use_all_cores()
    x, y = (stack(options.layers[i], options.samples, options.dims[i], i) for i in (0, 1))
    tables = []
    for case in options.cases:
        if case == "nulls":
            tables.append(null_cases(x, y, options.rounds, machine()))
        elif case == "forms":
            tables.append(form_cases(options.shapes, options.rounds, machine()))
        else:
            tables.append(map_case(x, y, case, options.rounds, machine()))
        print(f"{markdown(tables[-1])}\n", flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_csv(options.results / "similarity.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
