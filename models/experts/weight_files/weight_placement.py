"""Say in which format weights are read, onto which devices, and whether they are quantised."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from ....probes.workers.devices import chosen_device

DTYPES = {
    "fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16,
    "fp16": torch.float16, "float16": torch.float16,
}  # fmt: skip
AUTO = "auto"
PLACED = ("auto", "balanced", "balanced_low_0", "sequential", "disk", "meta")  # words of transformers and accelerate
FLAGS = {"bitsandbytes_4bit": {"load_in_4bit": True}, "bitsandbytes_8bit": {"load_in_8bit": True}}  # one class for both


@dataclass(frozen=True)
class WeightPlacement:
    """Hold how the weights of an expert are read.

    Attributes
    ----------
    given : torch.dtype or "auto"
        The format; "auto" is that of the checkpoint.
    device_map : str, dict or None
        As transformers takes it.
    quantization : config or None
        A quantisation config of transformers.
    """

    given: torch.dtype | str = torch.float32
    device_map: Any = None
    quantization: Any = None

    @classmethod
    def of(cls, label: str, dtype: Any, device_map: Any, quantization: Any, random_weights: bool) -> WeightPlacement:
        """Check what a user asks for, before anything is read.

        Parameters
        ----------
        label : str
            The expert, for messages.
        dtype, device_map, quantization
            As of `open_expert`.
        random_weights : bool
            Whether the weights are drawn instead of read.

        Returns
        -------
        WeightPlacement
            What is meant.

        Raises
        ------
        ValueError
            A name is unknown, the package of a quantisation is missing, or random weights are to be quantised or
            spread.
        """
        if dtype is None:
            dtype = torch.float32 if quantization is None else AUTO
        known = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(str(dtype), AUTO if dtype == AUTO else None)
        if known is None or (isinstance(known, torch.dtype) and not known.is_floating_point):
            raise ValueError(f"dtype of expert {label!r} is {dtype!r}: expected fp32, bf16, fp16 or auto")
        if random_weights and (device_map is not None or quantization is not None or known == AUTO):
            raise ValueError(
                f"the weights of {label!r} are drawn at random: leave device_map, quantization and dtype='auto' out"
            )
        if device_map is not None and not isinstance(device_map, str | int | dict | torch.device):
            raise TypeError(
                f"device_map of expert {label!r} is {device_map!r}: expected a word of transformers such as 'auto', a "
                "device such as 'cuda:1', or a dict of them by the names of modules"
            )
        if isinstance(device_map, str) and device_map not in PLACED:
            chosen_device(device_map)
        return cls(known, device_map, _quantization(label, quantization))

    @property
    def dtype(self) -> torch.dtype:
        """The format; float32 where it is that of the checkpoint and no checkpoint says it."""
        return self.given if isinstance(self.given, torch.dtype) else torch.float32

    def options(self, config: Any) -> dict[str, Any]:
        """Return the keywords of `from_pretrained`.

        Parameters
        ----------
        config : PreTrainedConfig
            Of the checkpoint. One that says how it was quantised is read so, in its own format.

        Returns
        -------
        dict
            dtype, and device_map and quantization_config where they are given.
        """
        options: dict[str, Any] = {"dtype": self.given}
        if self.device_map is not None:
            options["device_map"] = self.device_map
        if self.quantization is not None:
            options["quantization_config"] = self.quantization
        elif getattr(config, "quantization_config", None) and self.given == torch.float32:
            options["dtype"] = AUTO
        return options

    def refuse(self, label: str, remedy: str, *names: str) -> None:
        """Raise ValueError where something is asked for that a family cannot do.

        Parameters
        ----------
        label : str
            The expert.
        remedy : str
            What to do instead.
        *names : str
            What the family cannot do: "dtype", "device_map", "quantization".
        """
        plain = WeightPlacement()
        held = {"dtype": self.given, "device_map": self.device_map, "quantization": self.quantization}
        usual = {"dtype": plain.given, "device_map": None, "quantization": None}
        if asked := [name for name in names if held[name] != usual[name]]:
            raise ValueError(f"expert {label!r} takes no {asked[0]}: {remedy}")


def _quantization(label: str, quantization: Any) -> Any:
    """Return the config of a quantisation that is named."""
    if quantization is None:
        return None
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as KNOWN

    if hasattr(quantization, "quant_method") or (isinstance(quantization, dict) and "quant_method" in quantization):
        return quantization
    if not isinstance(quantization, str) or quantization not in KNOWN:
        raise ValueError(
            f"quantization of expert {label!r} is {quantization!r}: expected a config of transformers, or one of "
            f"{', '.join(sorted(KNOWN))}"
        )
    try:
        if quantization == "torchao":  # whose config has no default
            return KNOWN[quantization](import_module("torchao.quantization").Int8WeightOnlyConfig())
        return KNOWN[quantization](**FLAGS.get(quantization, {}))
    except (TypeError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"quantization {quantization!r} of expert {label!r} needs settings or a package ({reason}): install it, or "
            f"pass a {KNOWN[quantization].__name__}"
        ) from None
