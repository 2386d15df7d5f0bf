"""Show fewer stimuli at once where memory does not suffice: tell such errors from others, free what they have left."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..hooks.parallel_models import ranks_of
from ..stimuli.stimulus_set import Stimulus
from .passes import PassRunner


def short_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory does not suffice, on the CPU or on a GPU.

    Parameters
    ----------
    error : BaseException
        What a pass has raised.

    Returns
    -------
    bool
        True for memory.
    """
    from accelerate.utils.memory import should_reduce_batch_size  # loads slowly, and few passes fail

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return should_reduce_batch_size(error) or "can't allocate memory" in text or "not enough memory" in text  # type: ignore[arg-type]


def free_memory() -> None:
    """Free the tensors of a pass that has failed, and the cache of the device."""
    from accelerate.utils.memory import clear_device_cache

    gc.collect()
    clear_device_cache()


@dataclass
class BatchSize:
    """The number of stimuli that are shown at once. It is halved where memory does not suffice.

    The first batch is shown in whole passes, so that a block that runs again behind the deepest layer is noticed.

    Attributes
    ----------
    limit : int
        The largest number of stimuli in one pass.
    tried : bool
        Whether a whole pass has succeeded.
    """

    limit: int
    tried: bool = False

    def run(self, passes: PassRunner, batch: Sequence[Stimulus]) -> tuple[list[dict[str, Tensor]], list[int]]:
        """Extract a batch in pieces of at most `limit` stimuli.

        Parameters
        ----------
        passes : PassRunner
            What is asked of the subject.
        batch : sequence of Stimulus
            The stimuli.

        Returns
        -------
        pieces : list of dict of torch.Tensor
            The tensors of each piece.
        sizes : list of int
            The number of stimuli of each piece.

        Raises
        ------
        MemoryError
            One stimulus alone does not fit.
        """
        pieces: list[dict[str, Tensor]] = []
        sizes: list[int] = []
        while (start := sum(sizes)) < len(batch):
            piece = batch[start : start + self.limit]
            try:
                pieces.append(passes.run(piece, stop=self.tried))
                self.tried = True
                sizes.append(len(piece))
                continue
            except (RuntimeError, MemoryError) as error:
                if not short_of_memory(error):
                    raise
                message = (str(error).strip().splitlines() or [type(error).__name__])[0]
                if len(ranks := ranks_of(passes.subject.model)) > 1:  # the others are in the middle of this pass
                    raise MemoryError(
                        f"{len(piece)} stimuli at once do not fit into memory with {passes.subject.name} ({message}), "
                        f"of which {len(ranks)} ranks hold parts: choose a batch_size below {len(piece)}"
                    ) from None
            # The error holds the failed pass's tensors until here, behind the except clause.
            free_memory()
            if len(piece) == 1:
                raise MemoryError(
                    f"stimulus {piece[0].id!r} alone does not fit into memory with {passes.subject.name} ({message}): "
                    "open the model in half precision or with device_map, ask for fewer layers, or pool"
                )
            self.limit = (len(piece) + 1) // 2
            warnings.warn(
                f"{len(piece)} stimuli at once do not fit into memory ({message}): continuing with {self.limit}",
                stacklevel=2,
            )
        return pieces, sizes
