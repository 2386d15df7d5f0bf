"""Trace which tokens entering a block change with each input, the sample that each belongs to, and their order.

A token "moves" where its hidden state changes because an input was changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .entering_states import (
    MOVED,
    Entrance,
    ResidualStreams,
    check_token_count,
    entering_streams,
    find_residual_axis,
    flatten_tokens,
    merge_residual_streams,
    text_shapes,
)
from .input_changes import Inputs, Rows, change_inputs, noise_like, padding_of, special_ids
from .patch_order import packed_group, patch_units, reading_order

DRAWS = 64  # draws of other pixels: a single draw may leave a discrete image token as it was


class Stream(NamedTuple):
    """The places of the tokens in one stream of a stack.

    Attributes
    ----------
    positions : dict of torch.Tensor
        By kind ("image", "text", "audio", "video", "time", "padding", "special", "template", "mixed"), (sample, kept)
        positions in reading order, -1 where a sample has fewer, counted over the hidden state without its dim axis,
        flattened. "special" tokens move with no input: class, register, query and frame tokens, and ids that the
        configuration names, such as the begin of a sequence. "template" tokens are text, but not of the caption.
        "mixed" tokens move with several inputs.
    shape : tuple of int
        The shape of the hidden state, without the axis of residual streams where it has one.
    dim_axis : int
        The axis of the hidden state that is dim.
    ordered : bool
        Whether the order of the image's positions was found. Patches that overlap, or are mixed on the way, stay as
        they stand in the sequence.
    residual : ResidualStreams or None
        How the several states of each token become one, where the model keeps several.
    """

    positions: dict[str, Tensor]
    shape: tuple[int, ...]
    dim_axis: int
    ordered: bool = False
    residual: ResidualStreams | None = None


class TokenTracer:
    """Read one stream of what enters a block, again and again with other inputs.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    block : str
        The path of the block.
    stream : str or None
        The stream's name, None where there is one.
    axis : int
        The axis of the stream's hidden state that is dim.
    inputs : mapping
        The keyword arguments of one call.
    data : mapping of str to list of str
        The inputs that hold data, by kind (`data_inputs`).
    rows : mapping of str to Rows
        Where the samples stand in each of them.
    samples : int
        The number of samples.
    own : mapping of str to torch.Tensor, optional
        By text input, the captions' own tokens (`caption_tokens.CaptionTokens`). The other words are template.
    residual : str or int, optional
        What becomes of the several states of a token, where the model keeps several: "mean", or the number of one.
    """

    def __init__(
        self,
        model: nn.Module,
        block: str,
        stream: str | None,
        axis: int,
        inputs: Inputs,
        data: Mapping[str, list[str]],
        rows: Mapping[str, Rows],
        samples: int,
        own: Mapping[str, Any] | None = None,
        residual: str | int | None = None,
    ) -> None:
        self.model, self.block, self.stream, self.axis = model, block, stream, axis
        self.inputs, self.data, self.rows, self.samples, self.own = inputs, data, rows, samples, own
        self.ids = special_ids(model)
        self.choice = residual
        self.residual: ResidualStreams | None = None

    def read(self, state: Tensor) -> Stream:
        """Find the places of the tokens of each kind.

        Parameters
        ----------
        state : torch.Tensor
            The stream's hidden state with the inputs as they are.

        Returns
        -------
        Stream
            The places.

        Raises
        ------
        ValueError
            The model gives other hidden states for the same inputs, or several for each token, and nothing says what
            becomes of them.
        """
        self.flat = flatten_tokens(state, self.axis)  # (position, dim)
        self.entrance = Entrance(self.model, self.block, self.inputs, self.stream, state)
        texts = self.data.get("text", ())
        if self.axis == -1:
            self.residual = find_residual_axis(state, self.choice, list(text_shapes(self.inputs, texts)), self._token)
        state = merge_residual_streams(state, self.residual)
        self.flat = flatten_tokens(state, self.axis)
        shape = tuple(size for axis, size in enumerate(state.shape) if axis != self.axis % state.ndim)
        if not self.entrance.direct and self._moved_by(self.inputs).any():
            raise ValueError(
                f"{type(self.model).__name__} gives {self.block!r} something else each time it sees the same inputs: "
                "switch dropout off by eval(), or fix what it draws (random masks, random patches)"
            )
        everyone = torch.ones(self.samples, dtype=torch.bool)
        moves = {kind: self._moved(names, everyone, own=self.own) for kind, names in self.data.items()}
        template = torch.zeros(shape).bool().flatten()
        if "text" in moves:
            every = self._moved(texts, everyone) if self.own else moves["text"]
            others = [mask for kind, mask in moves.items() if kind not in ("text", "time")]
            words = every & ~torch.stack(others).any(0) if others else every
            check_token_count(type(self.model).__name__, shape, self.inputs, texts, words, not others)
            template = every & ~moves["text"]
        for kind in ("image", "video", "audio"):
            if kind in moves:
                moves[kind] = self._with_placeholders(kind, moves[kind], self._ids_among(shape, self.ids[kind]))
        time = moves.pop("time", torch.zeros(shape).bool().flatten())
        several = sum((mask.int() for mask in moves.values()), torch.zeros(math.prod(shape), dtype=torch.int)) > 1
        any_moves = torch.stack([*moves.values()]).any(0) if moves else torch.zeros_like(time)
        # A token of time moves with time alone. Time that is added to other tokens, or modulates them, is no token.
        labels = {kind: mask & ~several for kind, mask in moves.items()} | {"mixed": several, "time": time & ~any_moves}
        owner = self._owners(shape)
        padding = self._padding(shape, owner)
        if "audio" in moves and not any(mask.any() for kind, mask in moves.items() if kind != "audio"):
            padding |= self._silence(shape, any_moves | time)
        labels = {kind: mask & ~padding for kind, mask in labels.items()}
        still = ~any_moves & ~time & ~padding
        labels |= {"padding": padding, "special": still & ~template, "template": still & template}
        positions = {
            kind: positions_by_sample(mask, owner, self.samples) for kind, mask in labels.items() if mask.any()
        }
        maps = len(shape) > 2  # rows and columns are axes, in order
        pictures = [kind for kind in ("image", "video") if kind in positions]
        ordered = bool(pictures) and (maps or all(self._order(kind, positions[kind]) for kind in pictures))
        return Stream(positions, tuple(state.shape), self.axis % state.ndim, ordered, self.residual)

    def _with_placeholders(self, kind: str, moves: Tensor, placeholders: Tensor) -> Tensor:
        """Return the positions of one kind that move, with the placeholders that one draw of noise left as they are."""
        last = moves
        for seed in range(1, DRAWS):  # discrete image tokens do not move with every draw of pixels
            if (moves | ~placeholders).all():
                break
            before, last = last, self._moved(self.data[kind], torch.ones(self.samples).bool(), seed) & placeholders
            moves = moves | last
            if torch.equal(before & placeholders, last):
                break
        if (moves & placeholders).any() or self._read_as_words(placeholders):
            return moves
        return moves | placeholders  # a projector that starts at zero

    def _read_as_words(self, placeholders: Tensor) -> bool:
        """Return whether placeholders hold the embedding of their own id, as where pictures are read otherwise."""
        embedding, find = None, getattr(self.model, "get_input_embeddings", None)
        with suppress(NotImplementedError):
            embedding = find() if callable(find) else None
        if not isinstance(embedding, nn.Module) or not placeholders.any():
            return False
        handle = embedding.register_forward_hook(lambda module, args, output: output + noise_like(output))
        try:
            return bool((self._moved_by(self.inputs) & placeholders).any())
        except (RuntimeError, ValueError):  # a model that finds its placeholders by their embedding
            return False
        finally:
            handle.remove()

    def _moved(
        self, names: Sequence[str], samples: Tensor, seed: int = 0, own: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Return which positions move, (position,), when these inputs of these samples (sample,) change."""
        return self._moved_by(change_inputs(self.inputs, self.rows, names, samples, self.ids["special"], seed, own))

    def _token(self, name: str, place: tuple[int, int]) -> Tensor:
        """Return which positions move, (position,), when one token (sample, token) of an input changes."""
        only = torch.zeros(self.inputs[name].shape[:2], dtype=torch.bool)
        only[place] = True
        return self._moved([name], torch.ones(self.samples, dtype=torch.bool), own={name: only})

    def _moved_by(self, inputs: Inputs) -> Tensor:
        """Return which positions differ from the first pass with these inputs, (position,)."""
        state = self.entrance.read(inputs)
        assert state is not None
        after = flatten_tokens(merge_residual_streams(state, self.residual), self.axis)
        return ((after - self.flat).abs().amax(1) > MOVED * float(self.flat.abs().max())).cpu()

    def _owners(self, shape: tuple[int, ...]) -> Tensor:
        """Return the sample that each position belongs to, (position,); -1 where it moves with none.

        Where the batch is not plainly the first axis, samples are changed by the binary digits of their numbers.
        """
        numbers = torch.arange(math.prod(shape))
        if self.samples == 1:
            return torch.zeros_like(numbers)
        if shape[0] == self.samples and self.samples not in shape[1:] and self._one_row_each(shape):
            return numbers // (len(numbers) // self.samples)
        names = [name for kind, inputs in self.data.items() if kind != "time" for name in inputs]
        owner = identify_by_bits(self.samples, lambda chosen: self._moved(names, chosen), len(numbers))
        for axis, size in enumerate(shape):
            along = numbers.view(shape).movedim(axis, 0)  # the positions of each sample, if this is the batch's axis
            for counts in (torch.ones(self.samples, dtype=torch.int64), *(rows.counts for rows in self.rows.values())):
                if size != int(counts.sum()):
                    continue
                samples = torch.arange(self.samples).repeat_interleave(counts).view(-1, *[1] * (along.ndim - 1))
                batch = torch.empty_like(numbers).index_put((along,), samples)
                if torch.equal(batch[owner >= 0], owner[owner >= 0]):
                    return batch  # so that tokens which never move have a sample too
        return owner

    def _one_row_each(self, shape: tuple[int, ...]) -> bool:
        """Return whether the first axis of a state is that of the samples: those of the words, or of every input."""
        ids = self.inputs.get("input_ids")
        words = isinstance(ids, Tensor) and tuple(ids.shape) == shape
        return words or all(rows.axis or bool((rows.counts == 1).all()) for rows in self.rows.values())

    def _ids_among(self, shape: tuple[int, ...], ids: set[int]) -> Tensor:
        """Return the positions of some token ids, (position,), where the stream has one token for each input id."""
        given = self.inputs.get("input_ids")
        if not isinstance(given, Tensor) or tuple(given.shape) != shape:
            return torch.zeros(math.prod(shape), dtype=torch.bool)
        return torch.isin(given, torch.tensor(sorted(ids), dtype=given.dtype, device=given.device)).flatten().cpu()

    def _padding(self, shape: tuple[int, ...], owner: Tensor) -> Tensor:
        """Return the positions that an attention mask over the same tokens leaves out, (position,)."""
        out = torch.zeros(math.prod(shape), dtype=torch.bool)
        for name, mask in self.inputs.items():
            left_out = padding_of(name, mask)
            if left_out is None or left_out.ndim != 2:
                continue
            left_out = left_out.cpu()
            if tuple(left_out.shape) == shape and _one_owner_a_row(owner.view(shape)):
                out |= left_out.flatten()
            elif tuple(left_out.T.shape) == shape and _one_owner_a_row(owner.view(shape).T):
                out |= left_out.T.flatten()
        return out

    def _silence(self, shape: tuple[int, ...], moves: Tensor) -> Tensor:
        """Return the positions, (position,), of the silence that fills up sounds of unlike length."""
        name, *_ = self.data["audio"]
        filled = self.rows[name].filled if name in self.rows else None
        if filled is None:
            return torch.zeros_like(moves)
        mask = filled.flatten(1).cpu()  # (sound, time)
        if len(shape) != 2 or shape[0] != len(mask):
            return ~moves
        if mask.shape[1] % shape[1] == 0:
            return ~mask[:, :: mask.shape[1] // shape[1]].flatten()  # a token begins where its stretch of time does
        try:
            counts = torch.tensor([self._tokens_of_sound(name, n, int(row.sum())) for n, row in enumerate(mask)])
        except (RuntimeError, TypeError, ValueError):  # sounds of any other length, or without other inputs
            return ~moves
        return (torch.arange(shape[1]) >= counts[:, None]).flatten()

    def _tokens_of_sound(self, name: str, number: int, length: int) -> int:
        """Return how many tokens one sound has that is shown alone, without silence behind it."""
        filled = self.rows[name].filled
        assert filled is not None
        time = max(range(1, filled.ndim), key=lambda axis: filled.shape[axis])
        value = self.inputs[name][number : number + 1].narrow(time, 0, length)
        states = entering_streams(self.model, self.block, {name: value})
        assert states is not None
        return flatten_tokens(states[self.stream], self.axis).shape[0]

    def _order(self, kind: str, positions: Tensor) -> bool:
        """Put positions (sample, kept) of one kind into the order of the patches that move them, in place.

        The result is whether the order was found. Patches that move more than one position are mixed already, or
        overlap: they have no order.
        """
        names, counts = self.data[kind], (positions >= 0).sum(1)
        value = self.inputs[names[0]]
        if len(names) > 1 or not isinstance(value, Tensor) or names[0] not in self.rows:
            return False
        units = patch_units(value, self.rows[names[0]], counts)
        if units is None:
            return False
        noise = noise_like(value)

        def move(chosen: Tensor) -> Tensor:
            return self._moved_by(dict(self.inputs) | {names[0]: torch.where(chosen[units], value + noise, value)})

        count = int(counts.max())
        if int(move(torch.arange(count) == 0).sum()) != int((counts > 0).sum()):
            return False
        patches = identify_by_bits(count, move, len(self.flat))
        rows = [row[row >= 0] for row in positions]
        if any(not torch.equal(patches[row].sort().values, torch.arange(len(row))) for row in rows):
            return False
        group = packed_group(self.model, self.inputs, names[0], self.rows[names[0]])
        if group is None:
            return False
        for sample, row in enumerate(rows):
            place = reading_order(self.rows[names[0]], group, sample, patches[row])
            positions[sample, : len(row)] = row[place.argsort()]
        return True


def _one_owner_a_row(owner: Tensor) -> bool:
    """Return whether the tokens of each row (row, token) belong to one sample, -1 standing for any."""
    return bool(((owner == owner.amax(1, keepdim=True)) | (owner < 0)).all())


def positions_by_sample(mask: Tensor, owner: Tensor, samples: int) -> Tensor:
    """List the positions where a mask holds, by sample.

    Parameters
    ----------
    mask : torch.Tensor
        (position,), bool.
    owner : torch.Tensor
        (position,), the sample that each position belongs to.
    samples : int
        The number of samples.

    Returns
    -------
    torch.Tensor
        (sample, kept), -1 where a sample has fewer.
    """
    rows = [(mask & (owner == sample)).nonzero()[:, 0] for sample in range(samples)]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def identify_by_bits(count: int, moved: Callable[[Tensor], Tensor], positions: int) -> Tensor:
    """Find which of several changes moves each position, with log2(count) passes.

    The changes are applied together, once for each binary digit of their numbers.

    Parameters
    ----------
    count : int
        The number of changes.
    moved : callable
        `moved(chosen)` applies the changes where `chosen` (count,), bool, holds, and returns which positions move.
    positions : int
        The number of positions.

    Returns
    -------
    torch.Tensor
        (position,), the number of the change that moves each position, -1 for none.
    """
    numbers = torch.arange(count) + 1  # 0 is a position that never moves
    found = torch.zeros(positions, dtype=torch.long)
    for digit in range(count.bit_length()):
        found += moved((numbers >> digit & 1).bool()).long() << digit
    return torch.where(found <= count, found - 1, -1)
