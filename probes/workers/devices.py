"""Name the device that something is computed on, and refuse one that the machine does not have."""

from __future__ import annotations

import os

import torch

from ..arguments import checked, shown


def local_device() -> str:
    """Return the device of this process.

    Returns
    -------
    str
        A GPU, chosen by the process's local rank, or "cpu" where there is none.
    """
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def chosen_device(device: str | torch.device) -> str:
    """Return a device by its name, after a check that there is one.

    Parameters
    ----------
    device : str or torch.device
        "auto" is the device of this process; or one such as "cpu" or "cuda:1".

    Returns
    -------
    str
        The name of the device.

    Raises
    ------
    ValueError
        The name is unknown, or there is no such device.
    """
    if isinstance(device, str) and device == "auto":
        return local_device()
    try:
        found = torch.device(checked("device", device, str | torch.device))
    except (RuntimeError, TypeError):
        raise ValueError(f"device is {shown(device)}: expected 'auto', or one such as 'cpu' or 'cuda:1'") from None
    if found.type == "meta":
        raise ValueError("device is 'meta', which holds no values: expected 'auto', or one such as 'cpu' or 'cuda:1'")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {str(device)!r}, but torch finds no GPU: leave device at 'auto'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {str(device)!r}, and torch finds {torch.cuda.device_count()} GPUs, counted from 0")
    if found.type not in ("cpu", "cuda"):
        try:
            torch.empty(0, device=found)
        except Exception:  # torch raises another error for each kind of device that it was built without
            raise ValueError(f"device is {str(device)!r}, and torch finds none here: leave device at 'auto'") from None
    return str(device)
