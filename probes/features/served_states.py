"""Read hidden states that a serving engine has written as safetensors, one file for each request."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..arguments import checked
from .features import Features
from .layer_features import LayerFeatures

KEYS = ("hidden_states", "token_ids")
POOLINGS = ("mean", "last", "first")


def read_hidden_states(
    files: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    layer_ids: Sequence[int],
    blocks: int,
    *,
    pooling: str = "mean",
    tokens: slice | None = None,
    leave_out: Collection[int] = (),
    name: str = "served model",
) -> Features:
    """Read the hidden states that vLLM's `ExampleHiddenStatesConnector` writes, and pool each request's tokens.

    A file holds `hidden_states` (token, layer, dim) and `token_ids` (token,). The engine counts layers by what enters
    them: its id 0 is "embeddings" here, its id i is block i - 1, and its id L, for L blocks, the last block before the
    final norm.

    Parameters
    ----------
    files : path, or mapping of str to path
        The file of each stimulus, by the stimulus's id; or a folder, whose files are called by the ids.
    layer_ids : sequence of int
        The engine's ids of the layers, in the order in which it was asked for them
        (`eagle_aux_hidden_state_layer_ids`).
    blocks : int
        How many blocks the model has.
    pooling : str, optional
        "mean", "last" or "first".
    tokens : slice, optional
        Which of the tokens that are not left out count.
    leave_out : collection of int, optional
        Token ids that do not count: what stands in front of a text, and the markers of a chat template. A first token
        may hold most of a mean.
    name : str, optional
        What the subject is called.

    Returns
    -------
    Features
        Features of "text", float32, (layer, sample, dim).

    Raises
    ------
    TypeError
        An argument is of another kind.
    FileNotFoundError
        A file, or any file of a folder, is missing.
    ValueError
        A file is damaged, of another form, or has other layers or dims than the first; or no token is left.
    FloatingPointError
        Hidden states are not finite.

    See Also
    --------
    extract : Reads hidden states with hooks, from the model itself.

    Examples
    --------
    >>> paths = {stimulus.id: output.kv_transfer_params["hidden_states_path"] for stimulus, output in answers}
    >>> read_hidden_states(paths, layer_ids=(8, 16, 24), blocks=24, leave_out=(151644,))["text"].layers
    ('7', '15', '23')
    """
    checked("files", files, str | os.PathLike | Mapping, remedy="name a folder, or the file of each stimulus")
    checked("blocks", blocks, int, least=1)
    checked("tokens", tokens, slice | None)
    checked("name", name, str)
    left = checked("leave_out", list(leave_out) or None, Sequence[int] | None, least=0, remedy="they are token ids")
    ids = [*checked("layer_ids", layer_ids, Sequence[int], least=0, remedy="they are numbers of the engine")]
    if not ids or len(set(ids)) < len(ids) or not all(0 <= number <= blocks for number in ids):
        raise ValueError(f"layer_ids are {tuple(layer_ids)}: expected different numbers from 0 to blocks, {blocks}")
    checked("pooling", pooling, str, known=POOLINGS)
    rows, digest, first = [], hashlib.sha256(), None
    for stimulus, path in _paths(files).items():
        states, token_ids = _read(path, len(ids))
        first = first or (path, states.shape[-1])
        if states.shape[-1] != first[1]:
            raise ValueError(
                f"{path} holds states of {states.shape[-1]} dims, {first[0]} of {first[1]}: read one model's"
            )
        kept = ~torch.isin(token_ids, torch.tensor(sorted(left or ()), dtype=token_ids.dtype))
        own = states[kept] if tokens is None else states[kept][tokens]
        if not len(own):
            raise ValueError(f"no token of stimulus {stimulus!r} is left to pool: {path} holds {len(token_ids)} tokens")
        finite = torch.isfinite(own).flatten(2).all(2).all(0)
        if not finite.all():
            layer = ids[int((~finite).nonzero()[0])]
            raise FloatingPointError(f"{path} holds NaN or infinity at the engine's layer {layer}: serve in bfloat16")
        rows.append({"mean": own.float().mean(0), "last": own[-1].float(), "first": own[0].float()}[pooling])
        digest.update(f"{stimulus} {tuple(states.shape)}".encode() + token_ids.numpy().tobytes())
    order = sorted(range(len(ids)), key=ids.__getitem__)
    values = torch.stack(rows, 1)[order]
    digest.update(values.numpy().tobytes())
    part = LayerFeatures(
        values=values,
        layers=tuple("embeddings" if ids[place] == 0 else str(ids[place] - 1) for place in order),
        depths=tuple(ids[place] / blocks for place in order),
        modality="text",
        subject=name,
        task="understanding",
        pass_="separate",
        pooling=pooling + " + chosen" * (tokens is not None),
        timesteps=(),
        samples=tuple(_paths(files)),
    )
    made = {
        "read from": "hidden states of a serving engine",
        "digest": digest.hexdigest(),
        "leave_out": sorted(leave_out),
    }
    return Features({"text": part}, made)


def _paths(files: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]) -> dict[str, Path]:
    """Return the file of each stimulus."""
    if isinstance(files, Mapping):
        return {str(stimulus): Path(path) for stimulus, path in files.items()}
    found = {path.stem: path for path in sorted(Path(files).glob("*.safetensors"))}
    if not found:
        raise FileNotFoundError(f"no safetensors files in {files}: name the folder that the engine wrote to")
    return found


def _read(path: Path, layers: int) -> tuple[Tensor, Tensor]:
    """Return the states (token, layer, dim) and the token ids of one request."""
    if not path.is_file():
        packed = path.with_name(f"{path.name}.zst")
        raise FileNotFoundError(f"no file {path}" + f": unpack {packed.name}, by zstd -d" * packed.is_file())
    try:
        with safe_open(path, "pt") as file:
            if missing := [key for key in KEYS if key not in file.keys()]:  # it is no mapping
                raise ValueError(
                    f"{path} holds {', '.join(file.keys())} and no {missing[0]}: expected {' and '.join(KEYS)}"
                )
            states, token_ids = (file.get_tensor(key) for key in KEYS)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): let the engine write it again") from None
    shape = tuple(states.shape)
    if states.ndim != 3 or token_ids.ndim != 1 or not states.is_floating_point() or token_ids.is_floating_point():
        raise ValueError(
            f"{path} holds states {shape} for token ids {tuple(token_ids.shape)}: expected (token, layer, dim)"
        )
    if shape[:2] != (len(token_ids), layers):
        raise ValueError(
            f"{path} holds states {shape} of {len(token_ids)} tokens: expected (token, layer, dim) with {layers} "
            "layers, as many as layer_ids, and every token that the file names"
        )
    return states, token_ids
