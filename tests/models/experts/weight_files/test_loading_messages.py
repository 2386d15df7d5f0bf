"""Opening an expert writes nothing, and leaves the libraries' bars and notices as the user has set them."""

from __future__ import annotations

import logging

import pytest
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from bridgework.models.experts.opening import open_expert
from bridgework.models.experts.weight_files.loading_messages import quiet_loading
from bridgework.tests.models.tiny_folders import write
from bridgework.tests.models.tiny_pipelines import save


@pytest.mark.parametrize("kind", ["folder", "pipeline"])
def test_opening_writes_nothing(tmp_path, capfd, kind):
    if kind == "folder":
        write("LlamaForCausalLM", tmp_path)
    else:
        save("SD 3.5", tmp_path)
    capfd.readouterr()
    open_expert(tmp_path)
    assert tuple(capfd.readouterr()) == ("", "")


def test_bars_and_notices_are_afterwards_as_before(capfd):
    def notice(text: str) -> bool:
        record = logging.LogRecord("transformers.utils.import_utils", logging.WARNING, "", 0, text, (), None)
        return all(handler.filter(record) for handler in transformers_logging.get_logger("transformers").handlers)

    calls = []

    def mine(factory, arguments, options):
        calls.append(options["desc"])
        return factory(*arguments, **options)

    def bars() -> str:
        for library in (transformers_logging, diffusers_logging):
            list(library.tqdm(range(2), desc="Loading weights"))
        return capfd.readouterr().err

    missing = "`CLIPImageProcessor` requires torchvision (not installed); falling back"
    earlier = transformers_logging.set_tqdm_hook(mine)
    try:
        with quiet_loading():
            assert bars() == ""
            assert calls == []
            assert not notice(missing)
            assert notice("another warning")
            list(transformers_logging.tqdm(range(2), desc="Fetching 2 files"))
        assert calls == ["Fetching 2 files"]
        capfd.readouterr()
        assert bars().count("Loading weights: 100%") == 2
        assert notice(missing)
    finally:
        assert transformers_logging.set_tqdm_hook(earlier) is mine
