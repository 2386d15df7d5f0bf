"""What an installation lacks is named with its remedy, and what is wrong ends the command with status 1."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from bridgework import installation
from bridgework.__main__ import main
from bridgework.installation import ABSENT, FINE, WRONG, describe_installation


def test_this_machine_is_fine(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BRIDGEWORK_HOME", str(tmp_path / "none"))
    table = describe_installation().set_index("part")
    assert set(table["verdict"]) <= {FINE, ABSENT}
    assert {"python", "torch", "transformers", "cpu", "smollm2-135m", "tuxpaint"} <= set(table.index)
    assert table.loc["smollm2-135m"].tolist() == ["weights are not fetched", ABSENT, "bridgework fetch weights"]
    assert table.loc["tuxpaint", "remedy"] == "bridgework fetch pictures"
    assert str(tmp_path / "none") in table.loc["cache", "found"]
    main(["doctor"])
    assert "weights are not fetched: bridgework fetch weights" in capsys.readouterr().out


def test_versions_that_do_not_fit_are_named(monkeypatch, capsys):
    asked = ["torch>=99", "nowhere-to-be-found>=2", 'ray[data]>=999; extra == "ray"', "numpy>=2"]
    monkeypatch.setattr(installation, "requires", lambda name: asked)
    table = describe_installation().set_index("part")
    assert "expected >=99" in table.loc["torch", "found"] and table.loc["torch", "verdict"] == WRONG
    assert table.loc["nowhere-to-be-found"].tolist() == ["not installed", WRONG, 'pip install "nowhere-to-be-found>=2"']
    assert table.loc["numpy", "verdict"] == FINE
    with pytest.raises(SystemExit, match="bridgework: wrong: torch, nowhere-to-be-found"):
        main(["doctor"])
    assert 'expected >=99: pip install "torch>=99"' in capsys.readouterr().out


def test_a_torchvision_that_cannot_be_imported_is_named(monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(installation, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torchvision", Broken("torchvision"))
    (row,) = installation._torchvision()
    assert row.verdict == WRONG and "nms does not exist" in row.found and "uninstall torchvision" in row.remedy
