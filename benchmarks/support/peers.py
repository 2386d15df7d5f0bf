"""Call public packages that offer one of the metrics, each as its documentation shows.

Tensors are passed as they are. NumPy has no bfloat16, so rsatoolbox gets float32 arrays of the same values. A peer that
is not installed is absent, not an error: the extra `benchmarks` installs them all.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Layers = Sequence[Tensor]  # each (sample, dim)
Array = NDArray[Any]


class Peer(NamedTuple):
    """Hold one metric of one package.

    Attributes
    ----------
    name : str
        What tables call it.
    package : str
        The package, as it is imported.
    metric : str
        A name of `REFERENCE`.
    scores : callable
        ``scores(xs, ys)`` returns the layer map (x layer, y layer) of two lists of layers.
    upcasts : bool
        Whether it computes in float64 for any input.
    """

    name: str
    package: str
    metric: str
    scores: Callable[[Layers, Layers], Array]
    upcasts: bool = False

    @property
    def installed(self) -> bool:
        """Return whether the package can be imported."""
        return find_spec(self.package) is not None

    def score(self, x: Tensor, y: Tensor) -> float:
        """Score one pair of (sample, dim) layers."""
        return float(self.scores([x], [y])[0, 0])


def pytorch_cka(xs: Layers, ys: Layers) -> Array:
    """Call pytorch-cka: `cka_from_features` on lists of layers."""
    return import_module("cka").cka_from_features(list(xs), list(ys)).double().numpy()


class Lookup(nn.Module):
    """A model whose layers return stored features: the input is the index of the samples."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Embedding.from_pretrained(layer) for layer in layers)

    def forward(self, samples: Tensor) -> Tensor:
        """Run every layer on the samples."""
        return [layer(samples) for layer in self.layers][-1]


def torch_cka(xs: Layers, ys: Layers) -> Array:
    """Call torch_cka, which compares models over a loader, here one batch of all samples, without its progress bar."""
    names = [[f"layers.{index}" for index in range(len(side))] for side in (xs, ys)]
    loader = DataLoader(TensorDataset(torch.arange(len(xs[0]))), batch_size=len(xs[0]))
    with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        compared = import_module("torch_cka").CKA(Lookup(xs), Lookup(ys), "x", "y", names[0], names[1])
        compared.compare(loader, loader)
    return compared.export()["CKA"].double().numpy()


def by_pairs(function: Callable[[Tensor, Tensor], Any]) -> Callable[[Layers, Layers], Array]:
    """Build the map of a function of one pair, which is all that some packages offer."""
    return lambda xs, ys: np.array([[float(function(x, y)) for y in ys] for x in xs])


def ckatorch_batch(x: Tensor, y: Tensor) -> Tensor:
    """Call ckatorch's `cka_batch` on one minibatch of all samples."""
    return import_module("ckatorch.core").cka_batch(x[None], y[None])


def ckatorch_base(**options: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a call of ckatorch's `cka_base` with these options."""
    return lambda x, y: import_module("ckatorch.core").cka_base(x, y, **options)


def rsatoolbox(xs: Layers, ys: Layers) -> Array:
    """Call rsatoolbox: one correlation RDM per layer, all of them compared by Spearman's correlation."""
    dataset, rdm = import_module("rsatoolbox.data").Dataset, import_module("rsatoolbox.rdm")

    def rdms(side: Layers) -> Any:
        arrays = [layer.float().numpy() if layer.dtype == torch.bfloat16 else layer.numpy() for layer in side]
        return rdm.calc_rdm([dataset(array) for array in arrays], method="correlation")

    return np.asarray(rdm.compare(rdms(xs), rdms(ys), method="spearman"))


def readme_cka(x: Tensor, y: Tensor) -> Tensor:
    """Compute the CKA of calibrated-similarity's README, which its users pass in: linear and biased."""
    x, y = x - x.mean(0), y - y.mean(0)
    hsic_xy = (x @ x.T * (y @ y.T)).sum()
    hsic_xx = (x @ x.T * (x @ x.T)).sum()
    hsic_yy = (y @ y.T * (y @ y.T)).sum()
    return hsic_xy / torch.sqrt(hsic_xx * hsic_yy)


def calibrated(xs: Layers, ys: Layers, permutations: int) -> tuple[float, float]:
    """Call calibrated-similarity, and return the calibrated maximum of the map and its p value."""
    calibrate_layers = import_module("calibrated_similarity").calibrate_layers
    generator = torch.Generator().manual_seed(0)
    score, p, _ = calibrate_layers(list(xs), list(ys), readme_cka, agg="max", K=permutations, generator=generator)
    return float(score), float(p)


PEERS = (
    Peer("pytorch-cka", "cka", "cka", pytorch_cka),
    Peer("torch_cka", "torch_cka", "cka", torch_cka),
    Peer("ckatorch, cka_base", "ckatorch", "cka", by_pairs(ckatorch_base(unbiased=True)), upcasts=True),
    Peer("ckatorch, cka_batch", "ckatorch", "cka", by_pairs(ckatorch_batch), upcasts=True),
    Peer("ckatorch, cka_base", "ckatorch", "cka_biased", by_pairs(ckatorch_base()), upcasts=True),
    Peer("calibrated-similarity, its README's CKA", "calibrated_similarity", "cka_biased", by_pairs(readme_cka)),
    Peer("ckatorch, cka_base", "ckatorch", "cka_rbf", by_pairs(ckatorch_base(kernel="rbf")), upcasts=True),
    Peer("rsatoolbox", "rsatoolbox", "rsa", rsatoolbox),
)
