"""What users import, by every door that they may know."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

# Of the faces, by the module that defines each name.
FACES = {
    "bridgework.probes": {
        "checks.model_checks": "check_model",
        "comparison_options": "DEFAULT_METRIC",
        "curves.curve": "alignment_curve",
        "curves.curve_companions": "effective_rank halves_ceiling score_by_samples spatial_similarity",
        "curves.divergence_depth": "Divergence divergence",
        "curves.model_pairs": "alignment_matrix",
        "curves.shapes": "rises rises_then_falls",
        "evidence.attention": "attention_mass",
        "evidence.attribution": "attribute",
        "evidence.complementarity": "complementarity_map",
        "evidence.conflict": "gradient_conflict",
        "extraction.extracting": "extract extract_cached",
        "extraction.ray_cluster": "extract_on_ray",
        "features.features": "Features",
        "features.layer_features": "LayerFeatures",
        "features.served_states": "read_hidden_states",
        "hooks.block_stacks": "find_stacks",
        "hooks.capturing": "capture",
        "metrics.named_metrics": "METRICS",
        "plans.bridge_plan": "BridgePlan",
        "plans.choosing": "choose_bridges score_plan",
        "plans.layout_table": "LAYOUTS",
        "plans.layouts": "lay_out",
        "plans.production_taps": "published_taps",
        "plans.rules": "RULES",
        "reading.hidden_state_index": "hidden_states_index layer_of_hidden_states",
        "similarity.labels": "label_probe",
        "similarity.nulls": "map_moments map_null",
        "similarity.patches": "match_patches",
        "similarity.ray_maps": "similarity_map_on_ray",
        "similarity.scaled_maps": "scaled_map",
        "similarity.scoring": "similarity similarity_map",
        "stimuli.controls": "mismatched scrambled",
        "stimuli.sources": "load_stimuli",
        "stimuli.stimulus_set": "Stimuli Stimulus",
        "subjects.any_model": "AnyModel",
        "subjects.subject": "ForwardPass Shown Subject",
        "subjects.token_streams": "find_streams",
    },
    "bridgework.models": {
        "costs.estimate": "estimate_cost",
        "editing.editing_model": "EditRequest EditingModel",
        "evaluation.edit_scores": "score_edits",
        "evaluation.generator_gradients": "descent_map",
        "evaluation.link_ablation": "ablate_links",
        "evaluation.reporting": "open_model report",
        "evaluation.scores": "draw_scenes evaluate",
        "experts.diffusion.latent_generator": "LatentGenerator",
        "experts.opening": "open_expert",
        "fusion.fused_model": "FusedModel",
        "fusion.probe_subject": "fused_subject",
        "fusion.text_states": "TextStates keep_text_states",
        "fusion.two_towers": "Fusion",
        "generation.sampling": "generate",
        "scenes.composing": "scene_stimuli",
        "scenes.edits": "render_edit scene_edits",
        "towers.finding": "find_tower",
        "training.recipe": "Recipe run_recipe",
        "training.train_model": "train",
        "unified.flow_model": "UnifiedModel",
        "unified.token_model": "UnifiedTokens",
        "unified.trunk_subject": "unified_subject",
    },
    "bridgework.figures": {
        "alignment": "alignment_curves before_after",
        "evidence": "causal_evidence",
        "explorer.map_explorer": "Explorer explorer",
        "gallery": "Entry write_gallery",
        "gap": "gap_closed",
        "layout_bars": "layouts_compared",
        "learning": "learning_curves live_curve",
        "maps": "layer_map",
        "matrices.companion_panels": "companions",
        "matrices.pair_matrix": "model_matrix",
        "plan_drawing": "architecture architectures",
        "plan_results": "plan_outcomes",
        "publishing.latex_text": "caption latex_table",
        "publishing.panel_letters": "letter_panels",
        "publishing.saving": "numbers_of save",
        "publishing.venues": "paper",
        "samples": "edit_grid sample_grid",
        "worth.correlation_dots": "rule_correlations",
        "worth.layout_dots": "layout_outcomes quality_against_compute",
        "worth.maps_of_worth": "worth_maps",
        "worth.sweep_lines": "outcome_sweep",
    },
    "bridgework.studies": {
        "alignment_curves": "read_map",
        "runs": "demo reproduce",
        "settings": "EXPERTS RESULTS",
        "verdict.caption_knowledge": "kept_kinds",
    },
}

# Of folders that bear the name of a module of version 0.1, so that imports written for it go on working.
FOLDERS = {
    "bridgework.probes.extraction": "extract mismatched noise_for",
    "bridgework.probes.stimuli": "Stimuli Stimulus load_stimuli",
    "bridgework.probes.features": "ALLOWED DTYPES Features LayerFeatures POOLING Reader axes_of",
    "bridgework.probes.metrics": "Array DEFAULT_METRIC MEMORY METRICS Metric",
    "bridgework.probes.similarity": "MEMORY METRICS chance labelled similarity similarity_map used_k",
    "bridgework.probes.plans": "BridgePlan LAYOUTS STREAMS TRUNKS",
    "bridgework.models.experts": "CHECKPOINTS OWN UNIFIED open_expert",
    "bridgework.models.scenes": "COLOURS COUNTS Example HELD_OUT PARTS PLURAL QUARTERS Question ReadCaption RELATIONS "
    "SHAPES SIZE SKILLS Scene Thing ask compose compose_read draw examples mask_of part_of read_captions scene_stimuli",
    "bridgework.models.fusion": "FusedModel Fusion States",
    "bridgework.models.unified": "OneTrunk PATCH UnifiedModel Words",
    "bridgework.models.training": "CHECKPOINTS EVERY fit reader_of train",
    "bridgework.models.evaluation": "Drawn answer answers draw_scenes evaluate question_accuracy scene_score skills_of",
    "bridgework.models.costs": "Flops WARM_UP attention_sharing costs count_flops held_bytes peak_bytes step_seconds",
}

ROWS = [
    (face, module, name) for face, rows in FACES.items() for module, names in rows.items() for name in names.split()
]


@pytest.mark.parametrize(("face", "module", "name"), ROWS, ids=[f"{face}.{name}" for face, _, name in ROWS])
def test_a_public_name_is_the_same_by_both_doors_and_documented(face, module, name):
    found = getattr(importlib.import_module(face), name)
    assert found is getattr(importlib.import_module(f"{face}.{module}"), name)
    if callable(found):
        assert found.__doc__ and found.__doc__.strip()


@pytest.mark.parametrize("face", FACES)
def test_the_list_is_whole(face):
    listed = {name for _face, _, name in ROWS if _face == face}
    module = importlib.import_module(face)
    assert listed == set(module.__all__) == set(dir(module))


@pytest.mark.parametrize("folder", FOLDERS)
def test_deep_imports_of_the_first_version_work(folder):
    module = importlib.import_module(folder)
    module = sys.modules[folder]  # a function of the face may stand before the folder
    assert not [name for name in FOLDERS[folder].split() if not hasattr(module, name)]


SHADOWS = """
import bridgework.probes.curves.curve
from bridgework.probes import similarity
from bridgework.probes.similarity import chance
import bridgework.probes as probes
assert similarity is probes.similarity and callable(similarity), similarity
"""


def test_a_function_stands_before_the_folder_of_its_name():
    subprocess.run([sys.executable, "-c", SHADOWS], check=True)
