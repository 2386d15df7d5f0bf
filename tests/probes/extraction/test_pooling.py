"""Pooling: every layout of hidden states, every kind of pooling, against sums written out by hand."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from bridgework.probes.extraction.pooling import pool, pooling_of
from bridgework.probes.extraction.token_selection import find_tokens, read_grids
from bridgework.probes.extraction_options import check_pooling
from bridgework.probes.similarity.patches import match_patches

BATCH, TOKEN, DIM = 3, 6, 4
SQUARE = (((1, 2, 2),),)
MASK = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1], [0, 1, 0, 0, 1, 0]], dtype=torch.bool)


@pytest.fixture
def state() -> torch.Tensor:
    return torch.randn(BATCH, TOKEN, DIM, generator=torch.Generator().manual_seed(0))


def own(state: torch.Tensor) -> list[torch.Tensor]:
    return [row[mask] for row, mask in zip(state, MASK, strict=True)]


@pytest.mark.parametrize(
    ("pooling", "by_hand"),
    [("mean", lambda rows: rows.mean(0)), ("first", lambda rows: rows[0]), ("last", lambda rows: rows[-1])],
)
def test_one_vector_of_each_sample(state, pooling, by_hand):
    found = pool(state, find_tokens("text", MASK, BATCH), pooling)
    torch.testing.assert_close(found.values, torch.stack([by_hand(rows) for rows in own(state)]))
    assert found.counts is None


def test_all_tokens_and_how_many_they_are(state):
    found = pool(state, find_tokens("text", MASK, BATCH), "none")
    assert found.counts is not None
    assert found.counts.tolist() == [3, 5, 2]
    assert found.values.shape == (BATCH, 5, DIM)
    for row, count, rows in zip(found.values, found.counts, own(state), strict=True):
        assert torch.equal(row[:count], rows)
        assert not row[count:].any()


def layouts(state: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The same tokens in other layouts, each with their positions in it."""
    rows = torch.arange(BATCH)[:, None]
    at = torch.nn.utils.rnn.pad_sequence([row.nonzero()[:, 0] for row in MASK], batch_first=True, padding_value=-1)
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    places = torch.empty_like(shuffled)
    places[shuffled] = torch.arange(TOKEN)

    def counted(positions: torch.Tensor) -> torch.Tensor:
        return torch.where(at < 0, -1, positions)

    return {
        "batch first": (state, counted(at + rows * TOKEN)),
        "batch second": (state.transpose(0, 1), counted(at * BATCH + rows)),
        "packed": (state.reshape(1, BATCH * TOKEN, DIM), counted(at + rows * TOKEN)),
        "unbatched": (state.reshape(BATCH * TOKEN, DIM), counted(at + rows * TOKEN)),
        "permuted": (state[:, shuffled], counted(places[at] + rows * TOKEN)),
        "channels first": (state.transpose(1, 2).unflatten(2, (2, 3)), counted(at + rows * TOKEN)),
    }


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "none"])
@pytest.mark.parametrize("layout", layouts(torch.zeros(BATCH, TOKEN, DIM)))
def test_positions_read_any_layout(state, layout, pooling):
    laid, positions = layouts(state)[layout]
    tokens = find_tokens("text", positions, BATCH)
    found = pool(laid, tokens, pooling, dim_axis=1 if layout == "channels first" else -1)
    plain = pool(state, find_tokens("text", MASK, BATCH), pooling)
    torch.testing.assert_close(found.values, plain.values)


def test_a_stretch_that_all_samples_share_is_read_as_a_slice(state):
    mask = torch.zeros(BATCH, TOKEN, dtype=torch.bool)
    mask[:, 2:5] = True
    tokens = find_tokens("image", mask, BATCH)
    assert tokens.run == (2, 5, TOKEN)
    torch.testing.assert_close(pool(state, tokens).values, state[:, 2:5].mean(1))
    one = find_tokens("image", mask[:1], 1)
    torch.testing.assert_close(pool(state[:1], one).values, state[:1, 2:5].mean(1))
    assert find_tokens("image", MASK, BATCH).run is None


def test_every_token_of_states_of_any_resolution(state):
    tokens = find_tokens("image", None, BATCH)
    torch.testing.assert_close(pool(state, tokens).values, state.mean(1))
    torch.testing.assert_close(pool(state[:, :2], tokens).values, state[:, :2].mean(1))
    maps = state.reshape(BATCH, DIM, 2, 3)
    torch.testing.assert_close(pool(maps, tokens, dim_axis=1).values, maps.mean((2, 3)))
    assert torch.equal(pool(maps, tokens, "last", 1).values, maps[:, :, -1, -1])


def test_reading_order_is_that_of_the_positions(state):
    backwards = torch.tensor([[5, 3, 1], [11, 9, -1], [17, -1, -1]])
    tokens = find_tokens("image", backwards, BATCH)
    assert torch.equal(pool(state, tokens, "first").values, state[:, 5])
    assert torch.equal(pool(state, tokens, "last").values, torch.stack([state[0, 1], state[1, 3], state[2, 5]]))


def test_padding_may_hold_anything(state):
    plain = pool(state, find_tokens("text", MASK, BATCH)).values
    state[~MASK] = float("nan")
    assert torch.equal(pool(state, find_tokens("text", MASK, BATCH)).values, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pooling_is_done_in_float32(dtype):
    state = torch.full((1, 4096, 2), 1.001).to(dtype)
    state[:, ::2] = 1
    exact = state.double().mean(1)
    for tokens in (None, torch.ones(1, 4096, dtype=torch.bool)):
        for clean in (False, True):
            found = pool(state, find_tokens("image", tokens, 1), clean=clean)
            assert found.values.dtype == torch.float32
            torch.testing.assert_close(found.values.double(), exact, rtol=1e-6, atol=0)


def test_autocast_does_not_reach_it(state):
    patches = state[:, :4]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pool(patches, find_tokens("image", None, BATCH, grids=SQUARE * BATCH), "grid:1")
    torch.testing.assert_close(found.values[:, 0, 0], patches.mean(1))


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "none", "grid:2"])
@pytest.mark.parametrize("tokens", [None, torch.ones(BATCH, 4, dtype=torch.bool)])
def test_nothing_of_the_state_is_kept_alive(pooling, tokens):
    state = torch.randn(BATCH, 4, DIM)
    storage = weakref.ref(state.untyped_storage())
    pointer, size = state.untyped_storage().data_ptr(), state.untyped_storage().nbytes()
    found = pool(state, find_tokens("image", tokens, BATCH, grids=SQUARE * BATCH), pooling)
    held = found.values.untyped_storage()
    assert not pointer <= held.data_ptr() < pointer + size
    assert held.nbytes() == found.values.numel() * 4
    del state
    gc.collect()
    assert storage() is None


# The patch grid


def test_a_grid_averages_by_area():
    patches = torch.arange(9.0).reshape(1, 9, 1)
    tokens = find_tokens("image", None, 1, grids=(((1, 3, 3),),))
    found = pool(patches, tokens, "grid:2").values
    assert found.shape == (1, 2, 2, 1)
    by_hand = (0 * 1 + 1 * 0.5 + 3 * 0.5 + 4 * 0.25) / 2.25
    assert found[0, 0, 0, 0] == pytest.approx(by_hand)
    assert found.mean() == pytest.approx(4)
    assert torch.equal(pool(patches, tokens, "grid:3").values.flatten(), patches.flatten())


def test_a_grid_of_what_the_tokens_tell():
    state = torch.randn(2, 20, DIM)
    positions = torch.full((2, 3, 4), -1)
    positions[0] = torch.arange(12).reshape(3, 4) + 2
    positions[1, :2, :3] = torch.arange(6).reshape(2, 3) + 20
    found = pool(state, find_tokens("image", positions, 2), "grid:1").values
    torch.testing.assert_close(found[0, 0, 0], state[0, 2:14].mean(0))
    torch.testing.assert_close(found[1, 0, 0], state[1, :6].mean(0))
    two = pool(state, find_tokens("image", positions, 2), "grid:2").values
    upper_left = (state[0, 2] + state[0, 3] + 0.5 * (state[0, 6] + state[0, 7])) / 3
    torch.testing.assert_close(two[0, 0, 0], upper_left)


def test_a_grid_of_maps():
    maps = torch.randn(2, DIM, 4, 6)
    found = pool(maps, find_tokens("image", None, 2), "grid:2", dim_axis=1).values
    torch.testing.assert_close(found[:, 0, 1], maps[:, :, :2, 3:].mean((2, 3)))


def test_a_grid_feeds_match_patches():
    coarse, fine = (
        pool(
            torch.randn(5, side**2, DIM), find_tokens("image", None, 5, grids=(((1, side, side),),) * 5), f"grid:{side}"
        ).values
        for side in (2, 4)
    )
    x, y = match_patches(coarse, fine)
    assert x.shape == y.shape == (20, DIM)


def test_frames_are_pooled_one_by_one():
    state = torch.randn(2, 24, DIM)
    tokens = find_tokens("video", torch.arange(48).view(2, 24), 2, grids=(((4, 2, 3),), ((2, 3, 4),)))
    found = pool(state, tokens, "grid:1").values
    torch.testing.assert_close(found[:, 0, 0], state.mean(1))
    found = pool(state, tokens, "grid:2").values
    clip = state[0].view(4, 2, 3, DIM).mean(0)
    torch.testing.assert_close(found[0, :, 0], (clip[:, 0] + clip[:, 1] / 2) / 1.5)
    clip = state[1].view(2, 3, 4, DIM).mean(0)
    torch.testing.assert_close(found[1, 0, 0], ((clip[0] + clip[1] / 2) / 1.5)[:2].mean(0))


def test_a_grid_of_blocks_that_merge_patches():
    tokens = find_tokens("image", None, 1, grids=(((1, 4, 8),),))
    state = torch.randn(1, 8, DIM)
    torch.testing.assert_close(pool(state, tokens, "grid:2").values, state.view(1, 2, 4, DIM).unfold(2, 2, 2).mean(-1))


@pytest.mark.parametrize(
    ("count", "grids", "message"),
    [
        (
            4,
            (),
            "4 image tokens of a sample, and nothing says in which rows and columns they lie: pool them by pooling=",
        ),
        (6, SQUARE, "6 image tokens of a sample, and a patch grid of 2 x 2: pool them by pooling='mean', or have"),
    ],
)
def test_a_square_number_of_tokens_is_no_square(count, grids, message):
    with pytest.raises(ValueError, match=message):
        pool(torch.zeros(1, count, 2), find_tokens("image", None, 1, grids=grids), "grid:2", what="image")


def test_forms_of_a_grid():
    forms = [(2, 3), (4, 2, 3), [(2, 3), (1, 5, 6)]]
    assert read_grids(lambda: forms, 3, "image") == (((1, 2, 3),), ((4, 2, 3),), ((1, 2, 3), (1, 5, 6)))
    for wrong in ([(2, 3)], [(2,)] * 3, [(2, 0)] * 3, [None] * 3, "2x3"):
        with pytest.raises(ValueError, match=r"the image grids are .* for 3 stimuli: expected for each \(rows, col"):
            read_grids(wrong, 3, "image")


# Chosen and special tokens


@pytest.mark.parametrize(
    ("chosen", "by_hand"),
    [
        (slice(0, 2), [[1, 2], [1, 2], [1, 4]]),
        (slice(-1, None), [[3], [5], [4]]),
        ([0, -1], [[1, 3], [1, 5], [1, 4]]),
        (torch.tensor([1]), [[2], [2], [4]]),
    ],
)
def test_chosen_tokens_are_counted_over_the_modalitys_own(state, chosen, by_hand):
    found = pool(state, find_tokens("text", MASK, BATCH, chosen=chosen)).values
    torch.testing.assert_close(found, torch.stack([state[i, at].mean(0) for i, at in enumerate(by_hand)]))


def test_chosen_of_all_tokens(state):
    mask = torch.tensor([True, False, False, True, False, False])
    found = pool(state, find_tokens("image", None, BATCH, chosen=mask)).values
    torch.testing.assert_close(found, state[:, [0, 3]].mean(1))
    found = pool(state, find_tokens("image", None, BATCH, chosen=slice(1, None)), "first").values
    assert torch.equal(found, state[:, 1])


def test_special_tokens_join_in_the_order_of_the_sequence(state):
    special = torch.zeros_like(MASK)
    special[:, 0] = True
    found = pool(state, find_tokens("text", MASK, BATCH, special), "none")
    assert found.counts is not None
    assert found.counts.tolist() == [4, 6, 3]
    assert torch.equal(found.values[:, 0], state[:, 0])
    assert torch.equal(pool(state, find_tokens("text", MASK, BATCH, special), "first").values, state[:, 0])
    positions = torch.tensor([[1], [7], [13]])
    found = pool(state, find_tokens("text", positions, BATCH, torch.tensor([[5], [11], [17]])), "none").values
    assert torch.equal(found, state[:, [5, 1]])  # positions have an order of their own: special ones come first


# Cleaning


def test_massive_activations_are_clamped_by_each_samples_own_quantile(state):
    state[0, 1, 2] = 1e4
    state[0, 0, 0] = 1e6  # not the modality's: counts for nothing
    found = pool(state, find_tokens("text", MASK, BATCH), clean=True)
    assert found.clamped is not None
    for at, rows in enumerate(own(state)):
        limit = rows.abs().flatten().sort().values[int(0.95 * rows.numel())]
        torch.testing.assert_close(found.clamped[at], rows.clamp(-limit, limit).mean(0))
        torch.testing.assert_close(found.values[at], rows.mean(0))


def test_of_many_values_the_massive_one_is_cut():
    wide = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0))
    wide[0, 3, 5] = 1e4
    found = pool(wide, find_tokens("image", None, 1), clean=True)
    assert found.clamped is not None
    assert found.values.abs().max() > 200
    assert found.clamped.abs().max() < 3


# What does not fit


@pytest.mark.parametrize(
    ("shape", "tokens", "message"),
    [
        ((3, 5, 4), MASK, r"hidden states of shape \(3, 5, 4\), but the image mask is \(3, 6\)"),
        ((6, 6, 4), MASK, r"the batch is twice that of the stimuli, as with classifier-free guidance: turn it off"),
        ((6, 6, 4), None, r"classifier-free guidance"),
        ((6, 6, 4), torch.tensor([[0, 1], [6, 7], [12, 13]]), r"go up to 13: the batch is twice"),
        ((3, 4, 4), torch.tensor([[0, 1], [6, 7], [12, 13]]), r"\(3, 4, 4\), but the image positions .* go up to 13"),
        ((2, 6, 4), None, r"\(2, 6, 4\), but the image tokens are all of those of 3 stimuli"),
        ((18, 4), None, r"\(18, 4\), but the image tokens are all"),
    ],
)
def test_states_that_the_tokens_do_not_fit(shape, tokens, message):
    with pytest.raises(ValueError, match=message):
        pool(torch.zeros(shape), find_tokens("image", tokens, BATCH), what="image")


def test_batch_second_states_of_twice_as_many_tokens_are_no_guidance():
    state = torch.randn(4, 2, DIM)  # (token, batch, dim), four tokens of two samples
    found = pool(state, find_tokens("image", torch.tensor([[0], [1]]), 2)).values
    assert torch.equal(found, state[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": torch.zeros(3, 6, dtype=torch.bool)}, "sample 0 of a batch has no text tokens"),
        ({"tokens": MASK[:2]}, r"shape \(2, 6\) and torch.bool for 3 stimuli"),
        ({"tokens": MASK.float()}, "torch.float32 for 3 stimuli: expected a bool mask or int64 positions"),
        ({"tokens": MASK, "special": MASK[:, 0]}, r"shape \(3,\)"),
        ({"tokens": MASK, "chosen": [4]}, "chosen do not fit a sample of 3 text tokens"),
        ({"tokens": MASK, "chosen": slice(4, None)}, "sample 0 of a batch has no text tokens"),
    ],
)
def test_tokens_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        find_tokens("text", batch=BATCH, **options)


def test_the_words_for_pooling():
    for known in ("mean", "first", "last", "none", "grid:1", "grid:16"):
        check_pooling(known)
    for unknown in ("median", "grid", "grid:0", "grid:x", ""):
        with pytest.raises(ValueError, match="expected one of mean, last, first, none, grid:N, such as grid:4"):
            check_pooling(unknown)
    assert (pooling_of("image", "grid:4"), pooling_of("text", "grid:4"), pooling_of("text", "last")) == (
        "grid:4",
        "mean",
        "last",
    )
