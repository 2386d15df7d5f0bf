"""Tell errors of too little memory from others, and free what a failed pass has left."""

from __future__ import annotations

import gc

import torch


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
