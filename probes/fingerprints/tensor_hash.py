"""Hash all bytes of a tensor, on its device, and never twice while it is unchanged."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

from ..hooks.parallel_models import all_ranks, whole
from ..private_names import version_of

WORDS = 1 << 10  # the 8-byte words of a block
BLOCKS = 128  # that are summed at once: a MiB
LOOKED_AT = 4096  # values of a vector that are looked at to see whether it has changed
PLAIN = (Tensor, nn.Parameter, nn.Buffer)

_known: WeakIdKeyDictionary = WeakTensorKeyDictionary()  # by tensor: what it was like when it was read, and its hash


def hash_tensor(tensor: Tensor) -> str:
    """Hash a tensor's shape, dtype and all of its bytes.

    A tensor that was hashed before is not read again while its memory, shape, autograd version and some values of each
    row and column are as they were. A DTensor has the hash of the whole tensor, so all of its ranks must call this
    together. Other subclasses are hashed by the tensors that they hold.

    Parameters
    ----------
    tensor : torch.Tensor
        Any tensor: dense, sparse, quantised, of a subclass, on any device. One without memory (meta) is hashed by its
        shape and dtype.

    Returns
    -------
    str
        32 hex digits.

    Notes
    -----
    Each block of 8 KiB gives two sums modulo 2^64: of its 64-bit words, and of the words that begin four bytes later,
    each word times a fixed random odd number of its place. A change of one word changes a sum for certain, and a change
    of several, an exchange of two among them, with a probability of at least 1 - 2^-31. For if upper halves of words
    differ, these are the lower halves of the later words; else the lower halves differ in the first. So a difference
    is no multiple of 2^32, and its product with a random odd number takes at least 2^31 values. The sums are then
    hashed by SHA-256. They are exact on every device.
    """
    stamp, key = _stamp(tensor), _key(tensor)
    if all_ranks(tensor, stamp is not None and key in _known and _known[key][0] == stamp):
        return _known[key][1]
    digest = hashlib.sha256()
    _update(digest, tensor)
    found = digest.hexdigest()[:32]
    if stamp is not None:
        _known[key] = (stamp, found)
    return found


def _update(digest: Any, tensor: Tensor) -> None:
    with torch.no_grad():
        tensor = whole(tensor)
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        parts, context = _parts(tensor)
        if parts:
            digest.update(f"{type(tensor).__qualname__} {context}".encode())
            for name, part in parts.items():
                digest.update(f"{name} {hash_tensor(part)}".encode())
        elif tensor.numel() and tensor.device.type != "meta":
            digest.update(_sums(_bytes(tensor.detach().as_subclass(Tensor))))


def _parts(tensor: Tensor) -> tuple[dict[str, Tensor], str]:
    """Return the plain tensors that a tensor is made of, and what else it says of itself; nothing for a dense one."""
    if type(tensor) not in PLAIN and hasattr(tensor, "__tensor_flatten__"):
        names, context = tensor.__tensor_flatten__()
        return {name: getattr(tensor, name) for name in names}, _stable_text(context)
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return {"indices": tensor.indices(), "values": tensor.values()}, ""
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return {n: getattr(tensor, n)() for n in ("crow_indices", "col_indices", "values")}, ""
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return {n: getattr(tensor, n)() for n in ("ccol_indices", "row_indices", "values")}, ""
    if tensor.is_quantized:
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            return {"values": tensor.int_repr()}, f"{tensor.q_scale()} {tensor.q_zero_point()}"
        scales = {"scales": tensor.q_per_channel_scales(), "zeros": tensor.q_per_channel_zero_points()}
        return {"values": tensor.int_repr(), **scales}, str(tensor.q_per_channel_axis())
    return {}, ""


def _stable_text(context: Any) -> str:
    """Return the text of a subclass's own description, unless it names an address in memory."""
    text = repr(context)
    return text if " at 0x" not in text else type(context).__qualname__


def _bytes(tensor: Tensor) -> Tensor:
    dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return dense.resolve_conj().resolve_neg().reshape(-1).contiguous().view(torch.uint8)


def _sums(flat: Tensor) -> bytes:
    """Return the two sums of every block of a flat tensor of bytes; zeros fill up the last block."""
    found, size = [], 8 * WORDS
    whole_blocks = max(len(flat) - 4, 0) // size  # of which the words that begin in the middle are whole too
    at_once = BLOCKS if flat.device.type == "cpu" else 64 * BLOCKS
    for start in range(0, whole_blocks, at_once):
        stop = min(start + at_once, whole_blocks)
        found.append(_block_sums(flat[start * size : stop * size + 4]))
    rest = flat[whole_blocks * size :]
    found.append(_block_sums(torch.cat([rest, rest.new_zeros(size + 4 - len(rest))])))
    return torch.cat(found).cpu().numpy().tobytes()


def _block_sums(flat: Tensor) -> Tensor:
    """Return the sums (block, 2) of whole blocks, and of the words that begin four bytes later."""
    first, second = _keys(flat.device)
    if flat.device.type == "cpu":  # NumPy views words anywhere; the same bytes are read twice, the second time in cache
        held = flat.numpy()
        one, two = (torch.from_numpy(each.view(np.int64)).view(-1, WORDS) for each in (held[:-4], held[4:]))
        return torch.stack([torch.mv(one, first), torch.mv(two, second)], 1)
    words = torch.cat([flat, flat.new_zeros(4)]).view(torch.int64)
    later = ((words[:-1] >> 32) & 0xFFFFFFFF) | (words[1:] << 32)
    pairs = ((words[:-1], first), (later, second))
    return torch.stack([(each.view(-1, WORDS) * key).sum(1) for each, key in pairs], 1)


@cache
def _keys(device: torch.device) -> tuple[Tensor, Tensor]:
    drawn = np.random.PCG64(20).random_raw(2 * WORDS) | np.uint64(1)
    first, second = torch.from_numpy(drawn.view(np.int64)).to(device).split(WORDS)
    return first, second


def _key(tensor: Tensor) -> Tensor:
    """Return the tensor by which a hash is remembered.

    It is no subclass: `module.to` exchanges the contents of those, and cannot while anything refers to them weakly.
    """
    with torch.no_grad():
        return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]  # a DTensor


def _stamp(tensor: Tensor) -> Any:
    """Return what tells, without reading a tensor, whether it has changed; None where nothing does."""
    if hasattr(tensor, "to_local"):
        own = _stamp(_key(tensor))
        return own and (own, str(getattr(tensor, "placements", "")))
    if _parts(tensor)[0]:
        return None  # the parts are remembered, each by itself
    if tensor.is_inference() or tensor.device.type == "meta" or tensor.layout != torch.strided:
        return None
    plain = tensor.detach().as_subclass(Tensor)
    where = (version_of(tensor), plain.data_ptr(), tuple(plain.shape), plain.stride(), plain.dtype, plain.device)
    return where, _glance(plain)


def _glance(tensor: Tensor) -> bytes:
    """Return at least one value of every row and every column of a matrix, and all values of what is small.

    Autograd's version does not count what is written through `.data` or through NumPy. So an edited row, such as a new
    word of an embedding, is seen by its values.
    """
    if not tensor.numel():
        return b""
    if tensor.ndim < 2 or tensor.numel() <= LOOKED_AT:
        seen = tensor.reshape(-1)[:: -(-tensor.numel() // LOOKED_AT)]
    else:
        seen = tensor[_places(tensor.shape, tensor.device)]
    return hashlib.blake2b(_bytes(seen).cpu().numpy().tobytes(), digest_size=16).digest()


@lru_cache(maxsize=32)
def _places(shape: torch.Size, device: torch.device) -> tuple[Tensor, ...]:
    """Return the index of one value of every row and every column; tensors of one shape share it."""
    rows, columns = shape[:-1].numel(), shape[-1]
    with torch.inference_mode(False):  # they outlast the caller's context
        places = torch.arange(max(rows, columns), device=device)
        row, column = places % rows, places % columns
        index: list[Tensor] = []
        for size in reversed(shape[:-1]):
            index.insert(0, row % size)
            row = row // size
    return (*index, column)
