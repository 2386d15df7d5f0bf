"""Which optimizer trains what: Muon the matrices of blocks and bridges, AdamW all else."""

from __future__ import annotations

import torch
from torch import nn

from bridgework.models.experts.shipped_architectures import build_dit, build_text_encoder, build_vlm
from bridgework.models.training.loop import fit
from bridgework.models.training.optimizers import _HIDDEN
from bridgework.tests.models.regression import build_network, regression


def test_muon_trains_the_matrices_of_blocks_and_adamw_the_rest(tmp_path):
    """Muon moves a matrix equally far in every direction, by an orthogonal one; AdamW every number equally far."""
    model = build_network()
    fit(nn.ModuleDict({"layers": model}), regression(model), tmp_path, 1, learning_rate=0.01, muon=0.05)
    after, before = model.state_dict(), build_network().state_dict()
    moved = torch.linalg.svdvals(after["0.weight"] - before["0.weight"] * (1 - 0.05 * 0.01))  # less the decay
    assert moved.shape == (4,)
    assert moved.min() > 0.5 * moved.max() > 0
    bias = (after["0.bias"] - before["0.bias"] * (1 - 0.01 * 0.01)).abs()
    torch.testing.assert_close(bias, torch.full((8,), 0.01), rtol=1e-3, atol=0)


def test_muon_leaves_embeddings_modulations_and_both_ends_of_a_model_to_adamw(tokenizer):
    experts = nn.ModuleList(
        [
            build_dit(),
            build_text_encoder(tokenizer),
            build_vlm(tokenizer),
        ]
    )
    names = {name for name, p in experts.named_parameters() if p.ndim == 2}
    hidden = {name for name in names if _HIDDEN.search(name)}
    ends = ("embed", "shared", "proj_out", "norm", "relative", "projector", "lm_head")
    assert hidden == {name for name in names if not any(end in name for end in ends)}
    assert {name.split(".")[0] for name in hidden} == {"0", "1", "2"}
