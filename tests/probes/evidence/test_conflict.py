"""Gradient conflict: cosines as by hand, 0 for one task in two, above 0 for tasks that pull apart."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bridgework.probes.evidence.conflict import gradient_conflict, score


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, states: Tensor) -> Tensor:
        return states + self.linear(states).tanh()


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), Block())


def losses(model: nn.Module, kind: float, count: int, start: int) -> list:
    """Batches of one task: pull the states' mean towards `kind`."""

    def loss(number: int) -> Tensor:
        given = torch.randn(6, 5, generator=torch.Generator().manual_seed(number))
        return (model(given).mean(1) - kind).square().mean()

    return [partial(loss, start + number) for number in range(count)]


def gradient(model: nn.Module, path: str, batches: list) -> Tensor:
    parameters = list(model.get_submodule(f"{path}.linear").parameters())
    total = torch.stack([loss() for loss in batches]).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])


def test_the_cosine_is_that_of_the_summed_gradients(model):
    one, other = losses(model, 3.0, 4, 0), losses(model, -1.0, 4, 100)
    table = gradient_conflict(model, ("0", "2"), {"up": one, "down": other})
    assert table.attrs["cost"]["seconds"] >= 0
    assert (table.attrs["metric"], table.attrs["batches"]) == ("conflict", 4)
    for row in table.itertuples():
        path = ("0", "2")[int(row.layer)]
        cosine = torch.cosine_similarity(gradient(model, path, one), gradient(model, path, other), dim=0).item()
        assert row.cosine == pytest.approx(cosine, abs=1e-5)
        assert row.conflict == pytest.approx(row.baseline - row.cosine)
        assert row.low < row.conflict < row.high
    assert table["depth"].tolist() == [0.5, 1.0]
    assert set(table["tasks"]) == {"up x down"}
    assert (table["batches"] == 4).all()


def test_opposite_tasks_conflict_and_one_task_in_two_does_not(model):
    up, down = losses(model, 3.0, 8, 0), losses(model, -3.0, 8, 100)
    apart = gradient_conflict(model, ("1",), {"up": up, "down": down}).iloc[0]
    alike = gradient_conflict(model, ("1",), {"up": up, "up too": losses(model, 3.0, 8, 200)}).iloc[0]
    assert apart.low > 0.5
    assert alike.low < 0 < alike.high
    assert abs(alike.conflict) < 0.05


def test_halves_hold_half_of_both_tasks():
    """Gradients e1 for one task and e2 for the other, without noise: any such half is e1 + e2."""
    gram = np.kron(np.eye(2), np.ones((4, 4)))
    found = score(gram)
    assert found["cosine"] == 0
    assert found["baseline"] == pytest.approx(1)
    assert (found["conflict"], found["low"], found["high"]) == pytest.approx((1, 1, 1))


def test_intervals_cover_what_many_batches_say():
    """Batches of noise around two means: the conflict of 16 lies within the interval as often as it says."""
    rng = np.random.default_rng(0)
    means = np.stack([np.eye(40)[0], 0.5 * np.eye(40)[0] + 0.8 * np.eye(40)[1]])
    drawn = [np.repeat(means, 16, 0) + rng.normal(0, 0.3, (32, 40)) for _ in range(200)]
    found = [score(rows @ rows.T, splits=30, seed=number) for number, rows in enumerate(drawn)]
    truth = np.mean([each["conflict"] for each in found])
    covered = np.mean([each["low"] <= truth <= each["high"] for each in found])
    assert 0.87 <= covered <= 0.98


def test_parameters_are_left_as_they_were(model):
    model[0].requires_grad_(False)
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    tasks = {"up": losses(model, 3.0, 4, 0), "down": losses(model, -1.0, 4, 100)}
    frozen = gradient_conflict(model, ("0",), tasks)
    assert frozen["conflict"].notna().all()

    def stop() -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gradient_conflict(model, ("0",), {"up": [stop] * 4, "down": [stop] * 4})
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
        assert parameter.grad is None


def test_what_is_wrong_is_named(model):
    up = losses(model, 3.0, 4, 0)
    with pytest.raises(ValueError, match=r"a multiple of four, got \{'up': 4, 'down': 3\}"):
        gradient_conflict(model, ("0",), {"up": up, "down": up[:3]})
    with pytest.raises(ValueError, match="multiple of four"):
        gradient_conflict(model, ("0",), {"up": up[:2], "down": up[:2]})
    still = [lambda: (model(torch.ones(1, 5)) * 0).sum()] * 4
    with pytest.raises(ValueError, match="no gradient of the loss reaches block '1'"):
        gradient_conflict(model, ("1",), {"up": up, "still": still})
