"""Keep bars and notices of transformers and diffusers out of the output while an expert is opened."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

from transformers.utils import logging as transformers_logging

from ....probes.single_contexts import single_context

BAR = "Loading"  # how the bars of weights, shards and parts of a pipeline begin; bars of downloads begin otherwise
NOTICE = "requires torchvision (not installed)"


@single_context
def quiet_loading() -> Iterator[None]:
    """Hide bars of weights, and notices that torchvision is missing, within a context.

    Bars of downloads stay. Afterwards all settings of the libraries are as they were.
    """
    handlers = list(transformers_logging.get_logger("transformers").handlers)
    for handler in handlers:
        handler.addFilter(_is_other)
    diffusers_logging: Any = sys.modules.get("diffusers.utils.logging")
    bars_of_diffusers = diffusers_logging is not None and diffusers_logging.is_progress_bar_enabled()
    if bars_of_diffusers:
        diffusers_logging.disable_progress_bar()
    earlier: Any = transformers_logging.set_tqdm_hook(None)

    def bar(factory: Callable[..., Any], arguments: tuple, options: dict[str, Any]) -> Any:
        if str(options.get("desc", "")).startswith(BAR):
            return transformers_logging.EmptyTqdm(*arguments, **options)
        return earlier(factory, arguments, options) if earlier is not None else factory(*arguments, **options)

    transformers_logging.set_tqdm_hook(bar)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(earlier)
        if bars_of_diffusers:
            diffusers_logging.enable_progress_bar()
        for handler in handlers:
            handler.removeFilter(_is_other)


def _is_other(record: logging.LogRecord) -> bool:
    return NOTICE not in record.getMessage()
