"""Measure what a rule needs from the features of two experts, and choose the plan by it."""

from __future__ import annotations

import warnings
from time import perf_counter
from typing import Any

import pandas as pd

from ..features.features import Features
from ..features.layer_features import LayerFeatures
from ..similarity.nulls import map_null
from .bridge_plan import BridgePlan
from .choice_options import PUBLISHED, ChoiceOptions
from .choosing import choose_bridges
from .evidence_files import read_evidence
from .layouts import lay_out
from .matching import count_towers
from .rules import RULES, text_target
from .stability import check_stability


def choose_from_features(
    understanding: Features, generation: Features, options: ChoiceOptions | None = None
) -> tuple[BridgePlan, dict[str, Any]]:
    """Return the bridge plan that a rule chooses for two experts, and what its evidence cost.

    Parameters
    ----------
    understanding, generation : Features
        Features of the two experts on the same stimuli; the understanding text and the generation image are read, and
        by some rules the other modality as well.
    options : ChoiceOptions, optional
        The rule and what it is given; the defaults if left out.

    Returns
    -------
    plan : BridgePlan
        The plan.
    cost : dict
        Amounts by unit, such as {"seconds": 2.1}; {} where the evidence was not measured and does not record its cost.

    Raises
    ------
    ValueError
        The rule needs evidence that features do not hold; the rule reads several timesteps and none is named; or as
        `choose_bridges` and `lay_out` do.
    KeyError
        A modality is missing in one of the features.
    FileNotFoundError
        There is no such file of evidence.

    See Also
    --------
    choose_bridges : Chooses from evidence that is there already.

    Examples
    --------
    >>> vlm, dit = Features.load("runs/vlm"), Features.load("runs/dit")
    >>> plan, cost = choose_from_features(vlm, dit, ChoiceOptions("alignment", timestep=0.5, bridges=4))
    """
    options = options or ChoiceOptions()
    if options.timestep is not None:
        parts = {name: part.at(options.timestep) for name, part in generation.modalities.items()}
        generation = Features(parts, generation.provenance)
    layers = count_towers(understanding["text"], generation["image"])
    rule, published = options.rule, options.rule == PUBLISHED
    features = _features_of_rule(rule, understanding, generation) if options.draws is not None else None
    check_stability(rule, options.draws, features)
    evidence, cost, began = None, {}, perf_counter()
    if options.evidence is not None:
        evidence = read_evidence(options.evidence)
    elif rule in RULES or options.matching == "optimal":
        row = RULES[rule if rule in RULES else "alignment"]
        if row.measure is None:
            raise ValueError(f"the rule {rule!r} needs {row.needs}: pass it as --evidence FILE")
        if len(times := generation["image"].timesteps) > 1:
            swept = ", ".join(f"{time:g}" for time in times)
            raise ValueError(f"the generation features hold the timesteps {swept}: choose one with --timesteps")
        evidence = row.measure(understanding, generation, options.metric, options.k)
        cost = {"seconds": round(perf_counter() - began, 1)}
        if rule == "alignment":
            evidence.attrs["cost"] = cost
            if options.permutations and not evidence.attrs.get("scaled"):
                _add_null(evidence, understanding["text"], generation["image"], options)
    named = understanding["text"].origin, generation["image"].origin
    joined: dict[str, Any] = {"stream": options.stream, "rank": options.rank}
    if published:
        heat = evidence if isinstance(evidence, pd.DataFrame) else None
        plan = lay_out(options.layout, *layers, matching=options.matching, heat=heat, **joined)
        return plan.of_experts(*named), cost
    joined |= {"layers": layers, "layout": options.layout, "draws": options.draws, "features": features}
    plan = choose_bridges(evidence, rule, options.bridges, options.seed, block=options.block, **joined)
    return plan.of_experts(*named), plan.evidence.get("cost") or cost


def _add_null(heat: Any, x: LayerFeatures, y: LayerFeatures, options: ChoiceOptions) -> None:
    """Put the null of a layer map into its attrs, or say why it has none."""
    try:
        null = map_null(x, y, options.metric, options.k, options.permutations, block=options.block)
    except ValueError as error:
        warnings.warn(f"the layer map is not held against a null: {error}", stacklevel=3)
        return
    heat.attrs |= null.summary


def _features_of_rule(rule: str, understanding: Features, generation: Features) -> tuple[Any, ...]:
    """Return what a rule's map is made from."""
    both = understanding["text"], generation["image"]
    return (*both, text_target(generation)) if rule == "complementarity" else both
