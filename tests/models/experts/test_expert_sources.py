"""A missing folder is refused at once: the Hub is asked for ids alone, and only where it answers."""

from __future__ import annotations

import socket
import time

import pytest
from huggingface_hub import constants

from bridgework.models.experts.downloads import expert_sources
from bridgework.models.experts.downloads.expert_sources import source_of


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The addresses that are asked, of a Hub that does not answer, beside an empty cache."""
    addresses = []

    def silent(address, timeout):
        addresses.append(address)
        raise TimeoutError("no answer")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(expert_sources, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", silent)
    monkeypatch.chdir(tmp_path)
    return addresses


@pytest.mark.parametrize("name", ["./x", "../x", "/no/x", "~/x", "a/b/c", "a\\b"])
def test_a_path_that_is_missing_is_not_asked_of_the_hub(asked, name):
    with pytest.raises(
        FileNotFoundError, match=r"there is no folder .*: name a folder that is there, one of scenes-vlm"
    ):
        source_of(name)
    assert asked == []


def test_a_missing_folder_beside_others_is_not_asked_of_the_hub(asked, tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder runs/model, and no model .*, while there is a folder runs"):
        source_of("runs/model")
    assert asked == []


def test_a_hub_that_does_not_answer_is_given_up(asked):
    with pytest.raises(FileNotFoundError, match=r"https://hub\.invalid does not answer .* `hf download some/model`"):
        source_of("some/model")
    assert asked == [("hub.invalid", 443)]


def test_where_the_hub_is_switched_off_nobody_waits_for_it(asked, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"there is no folder runs/nope, and no model .* HF_HUB_OFFLINE leaves"):
        source_of("runs/nope")
    assert asked == []


def test_a_name_server_that_is_silent_is_given_up_too(asked, monkeypatch):
    monkeypatch.setattr(expert_sources, "PATIENCE", 0.05)
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: time.sleep(1))
    with pytest.raises(FileNotFoundError, match="does not answer within"):
        source_of("some/model")


def test_what_lies_in_the_cache_is_opened_without_asking(asked, tmp_path):
    (tmp_path / "cache" / "models--some--model" / "snapshots" / "abc").mkdir(parents=True)
    assert source_of("some/model") == "some/model"
    assert asked == []


def test_a_hub_that_answers_is_asked(asked, monkeypatch):
    class Connection:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: Connection())
    assert source_of("some/model") == "some/model"


def test_a_file_and_a_folder_of_something_else_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file: name the folder of the expert"):
        source_of(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"has neither a config.json nor a transformer/ folder"):
        source_of(tmp_path)
