"""Let a language model continue what it is shown, and read the states of the tokens that it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.block_outputs import named_inputs
from ..subjects.subject import ForwardPass

# Inputs of a call that belong to its way of running, and are made anew for generation.
RUNNING = ("past_key_values", "use_cache", "cache_position", "labels", "logits_to_keep", "return_dict", "position_ids",
           "output_hidden_states", "output_attentions", "attention_mask", "input_ids")  # fmt: skip


class _Shown(BaseException):
    """Stop the model when its inputs are known. This is no Exception, so that a model that catches them is stopped."""


def generation_settings(model: nn.Module, generate: int | Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of `model.generate`, or raise ValueError for what cannot be read.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    generate : int or mapping
        The largest number of new tokens, or keywords of `model.generate`.

    Returns
    -------
    dict
        The keywords.

    Raises
    ------
    ValueError
        The model does not generate text, or tokens are to be drawn at random.
    """
    name = type(model).__name__
    if not callable(getattr(model, "generate", None)) or not getattr(model, "can_generate", lambda: True)():
        raise ValueError(f"{name} does not generate text: open the model with its language-modelling head")
    given = {"max_new_tokens": generate} if isinstance(generate, int) else dict(generate)
    if isinstance(generate, bool) or given.get("max_new_tokens", 1) < 1:
        raise ValueError(
            f"generate is {generate!r}: expected a number of new tokens, such as 7, or keywords of generate()"
        )
    if given.get("do_sample") or given.get("num_return_sequences", 1) != 1:
        raise ValueError(
            "generate asks for tokens drawn at random, or several answers, which would depend on the batch: leave "
            "do_sample and num_return_sequences out"
        )
    greedy = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}  # whatever the model's own settings say
    return greedy | given | {"return_dict_in_generate": False}


def written_tokens(
    model: nn.Module, blocks: Sequence[str], shown: ForwardPass, settings: Mapping[str, Any], ids: Sequence[str]
) -> ForwardPass:
    """Turn a pass over prompts into one over the prompts and what the model writes behind them.

    The model writes without hooks, prompts of one length at a time, so that padding has no part in it. The pass that is
    returned shows prompt and continuation at once: the states of a causal model are then those of decoding. Under
    classifier-free guidance they are those of the conditional half.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    blocks : sequence of str
        The paths of the blocks that are read.
    shown : ForwardPass
        The pass over the prompts.
    settings : mapping
        Keywords of `model.generate`, as `generation_settings` returns them.
    ids : sequence of str
        The ids of the stimuli, for error messages.

    Returns
    -------
    ForwardPass
        The pass, whose tokens are the written ones, without the token that ended them.

    Raises
    ------
    ValueError
        The pass does not show token ids, its inputs cannot be divided among the samples, or nothing was written.
    """
    inputs = _inputs_of(model, shown)
    prompts, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    name = type(model).__name__
    if not isinstance(prompts, Tensor) or prompts.ndim != 2 or prompts.is_floating_point():
        raise ValueError(f"{name} is not shown token ids (batch, token), which generate= continues")
    if not isinstance(mask, Tensor):
        mask = torch.ones_like(prompts)
    if mask.shape != prompts.shape:
        raise ValueError(f"{name} is given a mask of shape {tuple(mask.shape)}: generate= needs one of (batch, token)")
    rows = [row[kept.bool()] for row, kept in zip(prompts, mask, strict=True)]
    decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if decoder and "decoder" not in blocks[0]:
        raise ValueError(f"{name} writes with its decoder: probe that, as AnyModel(stack=...), and not {blocks[0]!r}")
    written = _write(model, inputs, rows, mask, settings)
    ends = _ids(settings.get("eos_token_id", getattr(model.generation_config, "eos_token_id", None)))
    starts = [1 if decoder else len(row) for row in rows]
    whole = [_cut(row, start, ends) for row, start in zip(written, starts, strict=True)]
    for row, start, stimulus in zip(whole, starts, ids, strict=True):
        if len(row) == start:
            raise ValueError(
                f"{name} writes nothing for stimulus {stimulus!r}: leave it out, or say "
                "generate={'max_new_tokens': 7, 'min_new_tokens': 1}"
            )
    longest = max(map(len, whole))
    tokens = torch.stack([nn.functional.pad(row, (0, longest - len(row)), value=int(row[-1])) for row in whole])
    place = torch.arange(longest, device=tokens.device)[None]
    stops = torch.tensor([[len(row)] for row in whole], device=tokens.device)
    own = (place < stops) & (place >= torch.tensor(starts, device=tokens.device)[:, None])
    if decoder:
        full = inputs | {"decoder_input_ids": tokens, "decoder_attention_mask": (place < stops).to(mask.dtype)}
    else:
        others = {key: value for key, value in inputs.items() if key not in RUNNING}
        full = {key: _longer(value, mask, rows, longest) for key, value in others.items()}
        full |= {"input_ids": tokens, "attention_mask": (place < stops).to(mask.dtype)}
    return ForwardPass(lambda: model(**full), dict.fromkeys(shown.tokens, own))


def _inputs_of(model: nn.Module, shown: ForwardPass) -> dict[str, Any]:
    """Return the inputs of the pass's first call of the model, which is not run."""
    calls: list[dict[str, Any]] = []

    def look(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        calls.append(named_inputs(module, args, kwargs))
        raise _Shown

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        shown.run()
    except _Shown:
        pass
    finally:
        handle.remove()
    if not calls:
        raise ValueError(f"the subject's pass does not call {type(model).__name__}: let its run() call subject.model")
    return {key: value for key, value in calls[0].items() if value is not None}


def _write(
    model: Any, inputs: Mapping[str, Any], rows: Sequence[Tensor], mask: Tensor, settings: Mapping[str, Any]
) -> list[Tensor]:
    """Return what the model makes of each prompt, prompts of one length at a time."""
    written: list[Tensor] = [row[:0] for row in rows]
    lengths = [len(row) for row in rows]
    for length in sorted(set(lengths)):
        places = [place for place, other in enumerate(lengths) if other == length]
        given = {"input_ids": torch.stack([rows[place] for place in places])}
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        for key, value in inputs.items():
            if key not in RUNNING:
                given[key] = _share(key, value, mask, places)
        for place, row in zip(places, model.generate(**given, **settings), strict=True):
            written[place] = row
    return written


def _share(key: str, value: Any, mask: Tensor, places: Sequence[int]) -> Any:
    """Return some samples' part of an input, without padding."""
    if not isinstance(value, Tensor) or (len(places) == len(mask) and bool(mask.bool().all())):
        return value
    if value.shape[:2] == mask.shape:
        return torch.stack([value[place][mask[place].bool()] for place in places])
    if len(value) != len(mask):
        raise ValueError(f"the input {key!r} cannot be divided among prompts of unlike length: say batch_size=1")
    return value[list(places)]


def _longer(value: Any, mask: Tensor, rows: Sequence[Tensor], length: int) -> Any:
    """Return an input that has one value for each token, such as token types, with zeros for the written tokens."""
    if not isinstance(value, Tensor) or value.shape[:2] != mask.shape:
        return value
    longer = value.new_zeros(len(value), length, *value.shape[2:])
    for place, row in enumerate(rows):
        longer[place, : len(row)] = value[place][mask[place].bool()]
    return longer


def _cut(row: Tensor, start: int, ends: set[int]) -> Tensor:
    """Return prompt and continuation up to the token that ends it, without that token."""
    stop = next((place for place in range(start, len(row)) if int(row[place]) in ends), len(row))
    return row[:stop]


def _ids(value: Any) -> set[int]:
    if value is None:
        return set()
    return {int(number) for number in (value if isinstance(value, list | tuple | set) else [value])}
