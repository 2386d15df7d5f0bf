"""Choose a bridge plan by a rule, from all plans that neither cross nor repeat a block."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..arguments import check_names, checked
from ..comparison_options import check_comparison
from .bridge_plan import FREE_FIELDS, NOISE, STREAMS, BridgePlan
from .choice_options import DEFAULT_RULE
from .fixed_rules import FIXED
from .layouts import rank_for
from .matching import MOST_BLOCKS, best_pairs
from .rules import RULES, Evidence, count_layers, evidence_summary
from .stability import check_stability, held_against_null, measure_stability

TIE = 1e-9  # scores that differ by less are the same


def choose_bridges(
    evidence: Evidence | None = None,
    rule: str | None = None,
    bridges: int | None = None,
    seed: int = 0,
    stream: str = "image",
    *,
    layers: tuple[int, int] | None = None,
    parameters: int | None = None,
    count: Callable[[BridgePlan], int] | None = None,
    draws: int | None = None,
    features: Sequence[Any] | None = None,
    block: int = 1,
    **fields: Any,
) -> BridgePlan:
    """Choose a bridge plan by a rule, from all plans of so many bridges that neither cross nor repeat a block.

    A rule with a score takes the plan with the largest sum of gains over its pairs, exactly, by dynamic programming:

    =================  ===============================================  ================================================
    rule               evidence                                         gain of a pair
    =================  ===============================================  ================================================
    alignment          `similarity_map`                                 the map's value
    complementarity    `complementarity_map`                            what understanding adds to generation's R^2
    descent            `descent_map` of the generation expert           how far its loss falls by a read of the layer
    causal             `ablate_links` of a trained dense model          the scene score lost with the link broken, or
                                                                        the loss gained where no scene is scored
    gradient_conflict  `gradient_conflict` of a trained dense or        minus the conflict of both blocks (Uni-X)
                       unified model
    soft               `FusedModel.layer_weights` of a trained soft     the block's share in the learnt mix
                       model
    divergence         `divergence`                                     1 up to the depth, -1 beyond (UniFork)
    =================  ===============================================  ================================================

    A fixed plan reads only the towers' depths and has no score:

    =================  =================================================================================================
    rule               pairs
    =================  =================================================================================================
    all                every block of the shallower tower, whatever `bridges` says, with the block of the other tower
                       that is nearest in depth
    middle             that many consecutive pairs of `all`, centred
    shallow            the generation blocks of `middle` with the first understanding blocks, in order
    deep               the generation blocks of `middle` with the last understanding blocks, in order
    uniform            that many pairs, spread evenly over `all`
    first              the first blocks of both towers, in order
    early              the first generation blocks, with understanding blocks spread evenly
    last               the last blocks of both towers
    random             drawn by `seed`, every plan of that size being equally likely
    =================  =================================================================================================

    Parameters
    ----------
    evidence : DataFrame or Divergence or None
        The evidence of the rule, as in the table. For a fixed plan a layer map, or nothing beside `layers`. What its
        `attrs` hold goes into the plan; {"cost": {"steps": ..., "seconds": ...}} is what the evidence took, training
        included.
    rule : str, optional
        A name of `RULES` (with a score) or of `FIXED` (without). By default `early`, depth alone: no rule that reads a
        map was shown to be better (docs/verdict.md).
    bridges : int, optional
        The number of bridges, at most the number of blocks of the shallower tower. By default 4; for `middle`,
        `shallow` and `deep` as many as HBridge (arXiv 2511.20520) has, 16 of 28 scaled; for `divergence` all up to its
        depth.
    seed : int
        The seed of `random`, and of `draws`.
    stream : str
        The stream of the generation tower that the bridges enter.
    layers : (int, int), optional
        The numbers of blocks of the two towers, where no layer map holds them.
    parameters : int, optional
        A budget of trainable parameters, which is met through the rank.
    count : callable, optional
        A function that returns the trainable parameters of a plan, for `parameters`.
    draws : int, optional
        How many random halves of the samples the plan is chosen from again, 200 for instance, to see how stable it is:
        for the rules alignment and complementarity, with `features`. What is found is in the plan, and printed with it.
    features : sequence, optional
        What the map was made from, for `draws`: (understanding, generation) for alignment, as `similarity_map` took
        them; (understanding, generation, target) or (understanding, generation, target, groups) for complementarity.
    block : int
        For `draws`: how many consecutive samples stay in one half together, as in `map_null`.
    **fields
        Other fields of the plan: layout, both_ways, gated, rank, semantic_tokens.

    Returns
    -------
    BridgePlan
        The plan with the largest score, or the fixed plan. Where the map holds a null (`similarity_map` with
        permutations), `evidence["peak_p"]` and `evidence["within_null"]` say what is no more than noise. With `draws`,
        `evidence["stability"]` is plain JSON: settled, whether no other plan comes within noise; sentence, which says
        so; kept, how often each bridge is in the plans of the halves; same_plan, how often all are; plans, the number
        of different plans; runners_up, up to 5 other plans with their pairs, margin (the plan's lead in score), its
        95 % interval (low, high), and how often a half chose it, those within noise first; near_best, the cells of the
        map within noise of its best, which `layer_map` outlines; metrics, the pairs that alignment would choose by
        other metrics; draws, and the samples, k and block of each half.

    Warns
    -----
    UserWarning
        With `draws`, if the plan is not settled; with a null in the map, if no block pair is more than noise. If
        evidence is passed without a rule, since the default reads only its depths.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If the rule, the stream or the layout is unknown, if the evidence is of another kind than the rule's or of other
        towers, if there are too many bridges or none, if the values of the evidence do not allow such a plan, or if the
        budget is too small for rank 1. With `draws`: if the rule is another, if features are missing or do not give the
        map, or if there are fewer than 10 draws or 20 samples.

    See Also
    --------
    score_plan : Gives the score of any plan, a fixed one included.
    lay_out : Makes the published plan of a layout, which no rule chooses.

    Notes
    -----
    Halves are drawn without replacement, since samples that are drawn twice are each other's neighbours, and k is
    halved with them. They are noisier than all samples, so `kept` errs on the low side; `settled` and the intervals are
    of all samples, by the formula of `curve_draws`. The rivals are the best plans without one of the bridges, and all
    plans that a half chose. For towers of 16 and 13 blocks and 512 samples, 200 draws take 6 s of one core by
    mutual_knn and 5 s by cka, and about 25 minutes by complementarity, whose map has no part that halves share.

    Examples
    --------
    >>> choose_bridges(bridges=4, layers=(16, 13)).pairs
    ((2, 0), (6, 1), (10, 2), (14, 3))
    >>> choose_bridges(rule="middle", bridges=4, layers=(16, 13)).pairs
    ((5, 4), (6, 5), (8, 6), (9, 7))
    >>> choose_bridges(rule="shallow", bridges=4, layers=(16, 13)).pairs
    ((0, 4), (1, 5), (2, 6), (3, 7))
    >>> choose_bridges(rule="deep", bridges=4, layers=(16, 13)).pairs
    ((12, 4), (13, 5), (14, 6), (15, 7))
    >>> heat = similarity_map(text, image)
    >>> print(choose_bridges(heat, "alignment", bridges=4, draws=200, features=(text, image)))
    >>> choose_bridges(heat, "alignment", bridges=4, rank=8)                   # K bridges of equal rank
    >>> choose_bridges(heat, bridges=4, parameters=100_000, count=trainable)   # the largest rank within a budget
    """
    checked("rule", rule, str | None, known=[*RULES, *FIXED])
    checked("bridges", bridges, int | None, least=1)
    checked("layers", layers, tuple[int, int] | None, least=1, most=MOST_BLOCKS)
    checked("stream", stream, str, known=STREAMS)
    checked("parameters", parameters, int | None, least=1, most=2**63)
    check_names("field of a plan", fields, FREE_FIELDS)
    check_comparison(seed=seed, block=block)
    if rule is None:
        rule = DEFAULT_RULE
        if evidence is not None and draws is None and features is None:
            warnings.warn(
                f"the default rule, {rule!r}, reads only the depths of this evidence: pass rule='alignment', or the "
                f"rule that the evidence belongs to, to choose by it, or rule={rule!r} to leave out this warning",
                stacklevel=2,
            )
    if parameters is not None and (count is None or fields.get("rank") is not None):
        raise ValueError("a budget of parameters is met through the rank: pass count, and no rank")
    check_stability(rule, draws, features)
    value: float | None = None
    summary: dict[str, Any] = {}
    if rule in RULES:
        gains = RULES[rule].gains(evidence, layers)
        depths = gains.values.shape[0], gains.values.shape[1]
        wanted = _check(RULES[rule].default_bridges(gains.values) if bridges is None else bridges, depths)
        pairs, _ = best_pairs(gains.values + TIE * gains.ties, wanted)
        value = float(sum(gains.values[pair] for pair in pairs))
        assert evidence is not None
        summary = evidence_summary(evidence, rule) | held_against_null(evidence, pairs)
    else:
        depths = count_layers(evidence, layers)
        wanted = _check(FIXED[rule].default_bridges(*depths) if bridges is None else bridges, depths)
        pairs = FIXED[rule].pairs(*depths, wanted, seed)
        summary |= {"seed": seed} if FIXED[rule].seeded else {}
    x, y = (getattr(evidence, "attrs", {}).get(side, {}) for side in "xy")
    plan = BridgePlan(pairs, stream, rule, summary, *depths, value, **fields).of_experts(x, y)
    if summary.get("peak_p", 0) > NOISE:
        warnings.warn(f"{plan.null_sentence} Use more stimuli, or another metric.", stacklevel=2)
    if draws is not None and features is not None and evidence is not None:
        found = measure_stability(plan, evidence, features, draws, seed, block)
        plan = replace(plan, evidence=plan.evidence | {"stability": found})
        if not found["settled"]:
            warnings.warn(found["sentence"], stacklevel=2)
    if parameters is None or count is None:
        return plan
    rank = rank_for(parameters, lambda rank: count(replace(plan, rank=rank)))
    return replace(plan, rank=rank, evidence=plan.evidence | {"parameters": parameters})


def score_plan(plan: BridgePlan, evidence: Evidence, rule: str = "alignment") -> float:
    """Return what a rule gives any plan, a fixed one included.

    Parameters
    ----------
    plan : BridgePlan
        The plan.
    evidence : DataFrame or Divergence
        The evidence of the rule, as `choose_bridges` reads it.
    rule : str
        A name of `RULES`.

    Returns
    -------
    float
        The sum of the rule's gains over the pairs; NaN if one was not measured.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If the rule has no score, or if the evidence is of another kind than the rule's or of other towers.

    See Also
    --------
    choose_bridges : Finds the plan with the largest score.

    Examples
    --------
    >>> middle, best = choose_bridges(heat, "middle", bridges=2), choose_bridges(heat, "alignment", bridges=2)
    >>> score_plan(middle, heat) <= score_plan(best, heat) == best.score
    True
    """
    checked("plan", plan, BridgePlan, remedy="make one with choose_bridges, or read it with BridgePlan.load")
    checked("rule", rule, str, known=RULES, remedy="only these have a score")
    gains = RULES[rule].gains(evidence, (plan.understanding_layers, plan.generation_layers)).values
    return float(sum(gains[pair] for pair in plan.pairs))


def _check(bridges: int, depths: tuple[int, int]) -> int:
    if not 1 <= bridges <= min(depths):
        raise ValueError(
            f"bridges must be from 1 to {min(depths)}, the blocks of the shallower tower (the towers have "
            f"{depths[0]} and {depths[1]}), got {bridges!r}"
        )
    return bridges
