import pytest
import torch

from bridgework.models.bridges.low_rank import LowRankLinear


@pytest.mark.parametrize("rank", [None, 2])
def test_a_map_starts_where_it_is_told_to(rank):
    start, states = torch.randn(5, 4), torch.randn(3, 4)
    assert torch.allclose(LowRankLinear(4, 5, rank, start)(states), states @ start.T)


@pytest.mark.parametrize("start", [None, torch.zeros(5, 4)])
def test_a_low_rank_map_learns_no_more_than_its_rank(start):
    torch.manual_seed(0)
    linear = LowRankLinear(4, 5, 2, start)
    assert sum(p.numel() for p in linear.parameters()) == 2 * (4 + 5)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.normal_()
    assert torch.linalg.matrix_rank(linear(torch.eye(4)).detach()) == 2


def test_a_rank_that_saves_nothing_is_full_rank():
    assert LowRankLinear(4, 5, 4).full and LowRankLinear(4, 5, None).full and not LowRankLinear(4, 5, 3).full
    assert list(LowRankLinear(4, 5, 9).state_dict()) == ["weight"]


def test_without_a_start_it_is_drawn_and_not_silent():
    torch.manual_seed(0)
    for rank in (None, 2):
        assert LowRankLinear(64, 64, rank)(torch.randn(10, 64)).std() > 0.1
