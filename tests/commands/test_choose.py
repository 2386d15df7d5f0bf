"""`bridgework choose`: every rule from two feature stores, layouts as published, and what evidence cost."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
import torch

from bridgework.__main__ import main
from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.plans.bridge_plan import BridgePlan

STIMULI = tuple(f"stimulus {number}" for number in range(48))


def store(folder, task: str, blocks: int, timesteps: tuple[float, ...] = ()) -> None:
    """Write a feature store whose image and text share more, the deeper the layer; a generator's share less again."""
    g = torch.Generator().manual_seed(blocks)
    common = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))
    shares = [layer / blocks for layer in range(blocks + 1)]
    if task == "generation":
        shares = [min(share, max(0.8 - share, 0)) for share in shares]
    modalities = {}
    for modality in ("image", "text"):
        layers = [share * common + (1 - share) * torch.randn(48, 16, generator=g) for share in shares]
        values = torch.stack(layers)
        modalities[modality] = LayerFeatures(
            torch.stack([values] * len(timesteps)) if timesteps else values,
            ("embeddings", *map(str, range(blocks))),
            tuple(layer / blocks for layer in range(blocks + 1)),
            modality,
            task,
            task,
            "separate",
            "mean",
            timesteps,
            STIMULI,
        )
    Features(modalities, {}).save(folder)


@pytest.fixture
def choose(tmp_path, capsys):
    """Run `choose` on towers of 5 and 6 blocks, and return the plan and what was printed."""
    store(tmp_path / "understanding", "understanding", 5)
    store(tmp_path / "generation", "generation", 6, (0.2, 0.8))

    def run(*options: object) -> tuple[BridgePlan, str]:
        out = tmp_path / "plan.json"
        main(
            [
                "choose",
                *map(str, (tmp_path / "understanding", tmp_path / "generation", out, "--timestep", 0.2, *options)),
            ]
        )
        return BridgePlan.load(out), capsys.readouterr().out

    return run


@pytest.mark.parametrize("rule", ["alignment", "complementarity"])
def test_a_rule_reads_the_stores_and_says_what_that_cost(choose, rule):
    plan, printed = choose("--rule", rule, "--bridges", 2)
    assert len(plan.pairs) == 2
    assert (plan.understanding_layers, plan.generation_layers) == (5, 6)
    assert printed.startswith("understanding block - generation block: ")
    assert re.search(rf"the rule {rule} read .*; its cost: [\d.]+ seconds$", printed, re.M)


def test_draws_say_how_stable_the_plan_is(choose):
    with pytest.warns(UserWarning, match="not settled by 48 samples"):
        plan, printed = choose("--rule", "alignment", "--bridges", 2, "--draws", 20, "--block", 2)
    found = plan.evidence["stability"]
    assert (found["draws"], found["samples"], found["block"], found["k"]) == (20, 24, 2, 5)
    assert found["sentence"] in printed
    with pytest.raises(SystemExit):
        choose("--rule", "middle", "--draws", 20)


def test_divergence_reads_the_stores_too(choose):
    plan, printed = choose("--rule", "divergence", "--metric", "cka")
    assert plan.evidence["kind"] == "peak"
    within = [max((u + 1) / 5, (g + 1) / 6) <= plan.evidence["depth"] for u, g in plan.pairs]
    assert all(within)
    assert re.search(r"cost: [\d.]+ seconds$", printed, re.M)


def test_what_must_be_trained_comes_from_a_file(choose, tmp_path):
    with pytest.raises(SystemExit, match=r"'causal' needs the links of a trained dense model, .* --evidence FILE"):
        choose("--rule", "causal")
    with pytest.raises(SystemExit, match=r"'descent' needs .* as models.descent_map makes it .* --evidence FILE"):
        choose("--rule", "descent")
    links = pd.DataFrame(
        {"understanding": [0, 3], "generation": [1, 2], "score_lost": [0.1, 0.2], "loss_increase": 0.0}
    )
    links.to_csv(tmp_path / "links.csv", index=False)
    plan, printed = choose("--rule", "causal", "--bridges", 1, "--evidence", tmp_path / "links.csv")
    assert plan.pairs == ((3, 2),)
    assert printed.rstrip().endswith("cost: not recorded")
    (tmp_path / "links.json").write_text(json.dumps({"cost": {"steps": 600, "seconds": 1200}}))
    plan, printed = choose("--rule", "causal", "--bridges", 1, "--evidence", tmp_path / "links.csv")
    named = {"x": {"subject": "understanding"}, "y": {"subject": "generation"}}
    assert plan.evidence == {"cost": {"steps": 600, "seconds": 1200}} | named
    assert printed.rstrip().endswith("cost: 600 steps, 1200 seconds")


def test_layouts(choose):
    plan, printed = choose("--rule", "published", "--layout", "double fusion", "--rank", 4, "--stream", "both")
    assert plan.pairs == ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (4, 5))
    assert (plan.layout, plan.rank, plan.stream) == ("double fusion", 4, "both")
    assert "cost" not in printed
    plan, _ = choose("--rule", "published", "--layout", "dense", "--matching", "optimal")
    assert len(plan.pairs) == 5
    assert plan.evidence["matching"] == "optimal"
    plan, _ = choose("--rule", "published", "--layout", "Y")
    assert (plan.pairs, plan.understanding_layers, plan.generation_layers) == (((0, 0), (1, 1)), 5, 5)
    plan, _ = choose("--rule", "middle", "--layout", "dense")
    assert (plan.layout, len(plan.pairs)) == ("dense", 3)
    for options, message in [
        (("--matching", "repeat"), "--matching is of --rule published"),
        (("--rule", "published", "--bridges", 2), "--bridges is of the other rules"),
        (("--layout", "last"), "must read the last understanding block, 4"),
    ]:
        with pytest.raises(SystemExit, match=message):
            choose(*options)


def test_without_a_rule_depth_chooses_and_nothing_is_measured(choose):
    plan, printed = choose("--bridges", 2)
    assert (plan.rule, plan.pairs) == ("early", ((1, 0), (3, 1)))
    assert plan.evidence == {"x": {"subject": "understanding"}, "y": {"subject": "generation"}}  # names alone
    assert "the rule early measures nothing: the first generation blocks" in printed
    for option, value in (("--metric", "cka"), ("--k", 5), ("--evidence", "links.csv")):
        for rule in ((), ("--rule", "middle")):
            with pytest.raises(SystemExit, match=f"{option} is of rules that measure"):
                choose(*rule, option, value)


def test_features_of_several_timesteps_need_one(tmp_path, capsys):
    store(tmp_path / "understanding", "understanding", 5)
    store(tmp_path / "generation", "generation", 6, (0.2, 0.5))
    folders = [str(tmp_path / name) for name in ("understanding", "generation", "plan.json")]
    with pytest.raises(SystemExit) as stop:
        main(["choose", *folders, "--rule", "alignment"])
    assert str(stop.value) == (
        "bridgework: the generation features hold the timesteps 0.2, 0.5: choose one with --timesteps"
    )
    main(["choose", *folders, "--rule", "shallow", "--bridges", "2"])
    assert "0-1, 1-3" in capsys.readouterr().out
