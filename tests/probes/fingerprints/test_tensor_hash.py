"""Hashes of tensors: every bit counts, and what is unchanged is not read again."""

from __future__ import annotations

import gc
import inspect
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bridgework.probes.fingerprints import tensor_hash
from bridgework.probes.fingerprints.tensor_hash import WORDS, _keys, _sums, hash_tensor

SIZES = (1, 3, 8, 77, 8 * WORDS, 8 * WORDS + 3, 8 * WORDS + 4, 200 * 8 * WORDS + 13)


@pytest.fixture
def reads(monkeypatch):
    """The lengths of what has been read."""
    found: list[int] = []

    def counted(flat: Tensor) -> bytes:
        found.append(len(flat))
        return _sums(flat)

    monkeypatch.setattr(tensor_hash, "_sums", counted)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_sums_are_those_of_whole_numbers(size):
    flat = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    block = 8 * WORDS
    count = max(size - 4, 0) // block + 1
    held = flat.numpy().tobytes() + bytes(count * block + 4 - size)
    expected = []
    for start in range(0, count * block, block):
        for offset, key in zip((0, 4), _keys(flat.device), strict=True):
            words = np.frombuffer(held[start + offset : start + offset + block], np.int64)
            total = int((words.astype(object) * key.numpy().astype(object)).sum())
            expected.append((total + 2**63) % 2**64 - 2**63)
    assert np.frombuffer(_sums(flat), np.int64).tolist() == expected


def test_sums_are_the_same_on_other_devices(monkeypatch):
    flat = torch.randint(0, 256, (5 * 8 * WORDS + 77,), dtype=torch.uint8)
    expected = [_sums(flat), _sums(flat[1:])]
    source = inspect.getsource(tensor_hash._block_sums).replace('flat.device.type == "cpu"', "False")
    space = dict(vars(tensor_hash))
    exec(f"from __future__ import annotations\n{source}", space)
    monkeypatch.setattr(tensor_hash, "_block_sums", space["_block_sums"])
    assert [_sums(flat), _sums(flat[1:])] == expected


def test_every_bit_counts_wherever_it_is():
    values = torch.zeros(5000, dtype=torch.uint8)
    found = {hash_tensor(values.clone())}
    for place in (0, 3, 4, 7, 8, 2500, 4991, 4992, 4999):
        for bit in range(8):
            changed = values.clone()
            changed[place] = 1 << bit
            found.add(hash_tensor(changed))
    assert len(found) == 1 + 9 * 8


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.neg_(),  # all signs, which are the highest bits
        lambda x: x[:2].neg_(),
        lambda x: x[1:4:2].neg_(),
        lambda x: x.copy_(x.flip(0)),
        lambda x: x[:2].copy_(x[:2].flip(0)),
        lambda x: x[7:900:892].copy_(x[7:900:892].flip(0)),
        lambda x: x.copy_(x.view(-1, 2).flip(1).flatten()),
        lambda x: x.copy_(x.roll(2)),
    ],
    ids=["all signs", "two signs", "two signs apart", "backwards", "swap", "swap apart", "swapped pairs", "moved"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8])
def test_signs_and_places_count(change, dtype):
    values = torch.arange(1, 1001).remainder(127).to(dtype)
    before = hash_tensor(values.clone())
    change(values)
    assert hash_tensor(values) != before


def test_shape_and_dtype_count_and_layout_does_not():
    values = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    others = (values.view(4, 6), values.view(torch.int32), values[None], values.bfloat16(), values.double())
    assert len({hash_tensor(each) for each in (values, *others)}) == 6
    assert hash_tensor(values.t().contiguous().t()) == hash_tensor(values)
    flat = torch.empty(25)[1:]  # begins in the middle of a word
    flat.copy_(values.flatten())
    assert hash_tensor(flat.view(6, 4)) == hash_tensor(values)


def test_what_is_unchanged_is_not_read_again(reads):
    weight = nn.Parameter(torch.randn(300, 200))
    first = hash_tensor(weight)
    assert hash_tensor(weight) == first
    assert len(reads) == 1
    with torch.no_grad():
        weight[17, 3] += 1  # counted by autograd
    assert hash_tensor(weight) != first
    with torch.no_grad():
        weight[17, 3] -= 1
    hash_tensor(weight)
    assert len(reads) == 3


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.data[17].add_(1),
        lambda w: w.data[:, 150].zero_(),
        lambda w: w.detach().numpy().__setitem__(299, 2),
        lambda w: setattr(w, "data", w.data.clone().index_fill_(0, torch.tensor([4]), 0)),
        lambda w: w.data.mul_(1.5),
    ],
    ids=["a row", "a column", "by NumPy", "other memory", "all"],
)
def test_rows_and_columns_written_past_autograd_are_seen(write):
    weight = nn.Parameter(torch.randn(300, 200))
    first = hash_tensor(weight)
    write(weight)
    assert hash_tensor(weight) != first


def test_no_tensor_is_kept_alive():
    weight = nn.Parameter(torch.randn(30, 20))
    hash_tensor(weight)
    gone = weakref.ref(weight)
    del weight
    gc.collect()
    assert gone() is None


class Halves(Tensor):
    """A weight in two parts, as torchao and DTensor hold them: itself without memory."""

    @staticmethod
    def __new__(cls, low: Tensor, high: Tensor, scale: float) -> Halves:
        return Tensor._make_wrapper_subclass(cls, (2 * len(low), *low.shape[1:]), dtype=torch.float32)

    def __init__(self, low: Tensor, high: Tensor, scale: float) -> None:
        self.low, self.high, self.scale = low, high, scale

    def __tensor_flatten__(self):
        return ["low", "high"], self.scale

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise NotImplementedError(f"{func} of a wrapper")


def test_a_subclass_is_hashed_by_what_it_holds(reads):
    low, high = torch.arange(6.0).view(2, 3), torch.ones(2, 3)
    held = Halves(low, high, 1.0)
    first = hash_tensor(held)
    assert hash_tensor(held) == first == hash_tensor(Halves(low.clone(), high.clone(), 1.0))
    assert len(reads) == 4
    assert len({first, hash_tensor(Halves(low, high, 2.0)), hash_tensor(Halves(high, low, 1.0))}) == 3
    low.data[0, 1] += 1
    assert hash_tensor(held) != first


def test_sparse_quantised_complex_and_empty_tensors():
    dense = torch.eye(4)
    eights = torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8)
    channels = torch.quantize_per_channel(dense, torch.ones(4), torch.zeros(4, dtype=torch.long), 0, torch.qint8)
    kinds = [
        dense, dense.to_sparse(), dense.to_sparse_csr(), dense.to_sparse_csc(), dense.to(torch.complex64), dense.bool(),
        (dense * 1j).conj(), dense.to(torch.float8_e4m3fn), eights, channels, dense.to("meta"), torch.empty(0, 4),
        torch.tensor(1.0), torch.quantize_per_tensor(dense, 0.2, 0, torch.qint8),
    ]  # fmt: skip
    assert len({hash_tensor(each) for each in kinds}) == len(kinds)
    assert [hash_tensor(each) for each in kinds] == [hash_tensor(each.clone()) for each in kinds]
