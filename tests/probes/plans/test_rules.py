"""Evidence of the wrong kind is refused with the remedy, and evidence survives its file."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from bridgework.probes.curves.divergence_depth import Divergence
from bridgework.probes.evidence.complementarity import complementarity_map
from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.plans.choosing import choose_bridges, score_plan
from bridgework.probes.plans.evidence_files import read_evidence
from bridgework.probes.plans.rules import RULES
from bridgework.probes.similarity.scoring import similarity_map

HEAT = similarity_map(*np.random.default_rng(0).standard_normal((2, 3, 20, 5)), metric="cka")
LINKS = pd.DataFrame({"understanding": [0], "generation": [1], "score_lost": [0.1], "loss_increase": [0.2]})
CONFLICT = pd.DataFrame({"layer": ["0", "1"], "depth": [0.5, 1], "conflict": [0.3, 0.1]})
APART = Divergence("split", 0.5, 0.25, 0.75, "from layer 1 on")


@pytest.mark.parametrize("rule", list(RULES))
def test_evidence_of_another_kind_is_refused(rule):
    right = {"alignment": HEAT, "causal": LINKS, "gradient_conflict": CONFLICT, "divergence": APART}.get(rule)
    for wrong in (HEAT, LINKS, CONFLICT, APART, None):
        if wrong is not right:
            with pytest.raises(ValueError, match=f"the rule '{rule}' needs .*, as .* makes? "):
                choose_bridges(wrong, rule, 1, layers=(3, 3))
    if right is not None:
        fitting = (2, 2) if rule == "gradient_conflict" else (3, 3)
        assert choose_bridges(right, rule, 1, layers=fitting).rule == rule


@pytest.mark.parametrize("rule", ["complementarity", "descent"])
def test_a_map_of_another_rule_is_no_alignment(rule):
    heat = HEAT.copy()
    heat.attrs = {"metric": rule}
    assert choose_bridges(heat, rule, 1).score == HEAT.to_numpy().max()
    with pytest.raises(ValueError, match=f"the rule 'alignment' needs a layer map of a similarity, .* a {rule} map"):
        choose_bridges(heat, "alignment", bridges=1)
    with pytest.raises(ValueError, match=f"needs a {rule} map, .* got a layer map of cka"):
        choose_bridges(HEAT, rule, 1)


def test_maps_of_a_sweep_are_no_evidence():
    with pytest.raises(ValueError, match=r"got the maps of timesteps 0.2, 0.5: pass one, as heat\[0.2\]"):
        choose_bridges({0.2: HEAT, 0.5: HEAT}, "alignment", 1)  # type: ignore[arg-type]


def test_layer_weights_are_no_alignment():
    heat = HEAT.copy()
    heat.attrs = {"metric": "soft"}
    assert choose_bridges(heat, "soft", 1).score == HEAT.to_numpy().max()
    with pytest.raises(ValueError, match=r"'alignment' needs a layer map of a similarity, .* got a soft map"):
        choose_bridges(heat, "alignment", bridges=1)
    with pytest.raises(ValueError, match=r"needs the layer weights .*, as FusedModel.layer_weights .* map of cka"):
        choose_bridges(HEAT, "soft", 1)


def test_towers_of_another_depth():
    plan = choose_bridges(None, "all", layers=(3, 4))
    for evidence, rule, told in [
        (HEAT, "alignment", "towers of 3 and 4 blocks, the map of 3 and 3"),
        (CONFLICT, "gradient_conflict", "towers of 3 and 4 blocks, the gradient conflict of 2 and 2"),
        (LINKS.assign(generation=4), "causal", "link 0-4 is of other towers than those of 3 and 4 blocks"),
    ]:
        with pytest.raises(ValueError, match=told):
            score_plan(plan, evidence, rule)
    with pytest.raises(ValueError, match=r"pass layers=\(understanding, generation\)"):
        choose_bridges(LINKS, "causal", 1)
    with pytest.raises(ValueError, match="a divergence depth is relative: pass layers"):
        choose_bridges(APART, "divergence", 1)
    with pytest.raises(ValueError, match="the towers' depths are unknown"):
        choose_bridges(None, "middle")
    with pytest.raises(ValueError, match="one trunk or two towers, got the subjects a, b, c"):
        choose_bridges(pd.concat(CONFLICT.assign(subject=name) for name in "abc"), "gradient_conflict", 1)


def test_evidence_from_a_file(tmp_path):
    HEAT.to_csv(tmp_path / "map.csv")
    (tmp_path / "map.json").write_text(json.dumps(HEAT.attrs))
    read = read_evidence(tmp_path / "map.csv")
    assert isinstance(read, pd.DataFrame)
    assert read.attrs == HEAT.attrs
    assert choose_bridges(read, "alignment", bridges=2).pairs == choose_bridges(HEAT, "alignment", bridges=2).pairs
    links = LINKS.copy()
    links.attrs = {"cost": {"steps": 600}}
    links.to_parquet(tmp_path / "links.parquet")
    told = choose_bridges(read_evidence(tmp_path / "links.parquet"), "causal", 1, layers=(2, 2)).evidence
    assert told == {"cost": {"steps": 600}}
    every = pd.DataFrame({"understanding": [pd.NA], "generation": [pd.NA], "score_lost": [0.3], "loss_increase": [0.4]})
    pd.concat([links, every]).to_csv(tmp_path / "links.csv")
    assert choose_bridges(read_evidence(tmp_path / "links.csv"), "causal", 1, layers=(2, 2)).score == 0.1
    (tmp_path / "apart.json").write_text(json.dumps(asdict(APART)))
    assert read_evidence(tmp_path / "apart.json") == APART
    with pytest.raises(FileNotFoundError, match=r"no evidence .*none\.csv"):
        read_evidence(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"map\.json holds no evidence"):
        read_evidence(tmp_path / "map.json")
    HEAT.iloc[:2].to_csv(tmp_path / "map.csv")  # another map beside the JSON of this one
    with pytest.raises(
        ValueError, match=r"map\.json describes a layer map of 3 x 3 layers, .*map\.csv holds 2 x 3: put"
    ):
        read_evidence(tmp_path / "map.csv")


def features_of(task: str, blocks: int) -> Features:
    """Image and text that share more, the deeper the layer; a generator's come down again."""
    g = np.random.default_rng(blocks)
    common, depths = np.random.default_rng(0).standard_normal((48, 16)), tuple(i / blocks for i in range(blocks + 1))
    shares = [max(min(depth, 0.8 - depth), 0) if task == "generation" else depth for depth in depths]
    layers = ("embeddings", *map(str, range(blocks)))
    modalities = {}
    for modality in ("image", "text"):
        values = np.stack([share * common + (1 - share) * g.standard_normal((48, 16)) for share in shares])
        samples = tuple(f"stimulus {number}" for number in range(48))
        modalities[modality] = LayerFeatures(
            torch.from_numpy(values).float(), layers, depths, modality, task, task, "separate", "mean", (), samples
        )
    return Features(modalities, {})


def test_measured_maps_of_a_metric_that_is_high_for_strangers_are_scaled():
    measure = RULES["alignment"].measure
    assert measure is not None
    evidence = measure(features_of("understanding", 3), features_of("generation", 3), "cka_biased")
    assert evidence.attrs["scaled"]
    assert len(choose_bridges(evidence, "alignment", 2).pairs) == 2


@pytest.mark.parametrize("rule", list(RULES))
def test_a_rule_makes_its_evidence_from_the_features_of_both_experts(rule):
    understanding, generation = features_of("understanding", 5), features_of("generation", 6)
    measure = RULES[rule].measure
    assert (measure is None) == (RULES[rule].trained or rule == "descent")  # which needs the expert itself
    if measure is None:
        return
    evidence = measure(understanding, generation, "cka")
    plan = choose_bridges(evidence, rule, 2, layers=(5, 6))
    assert len(plan.pairs) == 2
    if rule == "alignment":
        expected = similarity_map(understanding["text"], generation["image"], "cka")
        pd.testing.assert_frame_equal(evidence, expected)
        assert {**evidence.attrs, "cost": None} == {**expected.attrs, "cost": None}
        assert evidence.attrs["cost"]["seconds"] >= 0
    if rule == "complementarity":
        target = generation["text"].layer("embeddings")
        pd.testing.assert_frame_equal(evidence, complementarity_map(understanding["text"], generation["image"], target))
    if rule == "divergence":
        assert plan.evidence["kind"] == "peak"
