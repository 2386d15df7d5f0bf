"""The report: complete pairs count, others wait, a verdict needs all; what cannot be judged is one clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bridgework.probes.similarity.intervals import mean_interval
from bridgework.studies.quotes import verdict_quotes
from bridgework.studies.quotes.rounding import with_interval
from bridgework.studies.settings import RESULTS
from bridgework.studies.verdict import report
from bridgework.studies.verdict.bridge_runs import Cell
from bridgework.studies.verdict.testbed import CEILING, FLOOR, PAIRS, SEEDS, Pair
from bridgework.studies.verdict.thresholds import CONTROLS, RULES
from bridgework.studies.verdict.verdicts import rank_table, regrets, verdicts
from bridgework.studies.verdict.worths import worth

from .toy_studies import COLUMNS, ROWS, scattered, toy_study

MAPS = {rule: lambda truth, rng: rng.normal(size=truth.shape) for rule in RULES}
MAPS["descent"] = lambda truth, rng: truth + 0.02 * rng.normal(size=truth.shape)
TOY = {f"{name} x g": Pair(name, "g", tuple(range(ROWS)), tuple(range(COLUMNS))) for name in "abcd"}
RANKS, REGRETS = ["rho", "partial", "curved"], ["worth", "regret", "over_shallow", "over_random"]


@pytest.fixture(scope="module")
def study() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Outcomes and maps of four toy pairs, with the floors and the names that the testbed asks for."""
    outcomes, maps = toy_study(scattered, MAPS)
    floors = outcomes[outcomes["labels"] == '["floor"]'].assign(pairs="[[2, 2]]", bridges=1)
    outcomes = pd.concat([outcomes, floors], ignore_index=True)
    return outcomes.assign(pair=outcomes["pair"] + " x g"), maps.assign(pair=maps["pair"] + " x g")


def is_plan(outcomes: pd.DataFrame) -> pd.Series:
    return ~outcomes["labels"].isin(['["floor"]', '["ceiling"]', '["grid"]'])


@pytest.fixture(scope="module")
def cells(study):
    """The plans that the toy's protocol asks for: all that it has."""
    found: dict[str, list[Cell]] = {name: [] for name in TOY}
    for row in study[0][is_plan(study[0])].itertuples():
        pairs = tuple(map(tuple, json.loads(row.pairs)))
        found[row.pair].append(Cell(TOY[row.pair], pairs, row.seed, tuple(json.loads(row.labels))))
    return found


@pytest.fixture(scope="module")
def whole(study, cells):
    outcomes, maps = study
    return report.report_tables(outcomes, maps, TOY, cells)


@pytest.fixture
def unjudged(monkeypatch):
    """Skip the permutations, where a test is about other tables."""

    def names(runs, maps, outcome, rules):
        return pd.DataFrame({"rule": rules, "pairs": 4, "pairs_with_plans": 4, "verdict": "judged"})

    monkeypatch.setattr(report, "verdicts", names)


def test_a_whole_study_has_the_numbers_of_the_statistics_and_verdicts(study, whole):
    runs, maps = worth(study[0]), study[1]
    assert whole["pairs"][["grid_complete", "plans_complete"]].all(axis=None)
    assert (whole["pairs"]["grid_runs"] == 60).all() and (whole["pairs"]["rules"] == len(RULES)).all()
    for outcome in ("loss", "score"):
        own = {name: table[table["outcome"] == outcome] for name, table in whole.items() if "outcome" in table}
        for found, wanted, keys, numbers in (
            (own["ranks"], rank_table(runs, maps, outcome), ["rule", "pair"], RANKS),
            (own["regrets"], regrets(runs, outcome), ["rule", "pair", "seed"], REGRETS),
        ):
            both = found.merge(wanted, on=keys, suffixes=("", " wanted"))
            assert len(both) == len(found) == len(wanted)
            for number in numbers:
                assert both[number].to_numpy() == pytest.approx(both[f"{number} wanted"].to_numpy())
    judged = whole["verdicts"].set_index(["outcome", "rule"])
    assert judged.loc[("loss", "descent"), "verdict"] == "holds"
    assert judged["verdict"].loc["loss"].to_dict() == verdicts(runs, maps).set_index("rule")["verdict"].to_dict()
    assert judged[["p_holm", "draws_low"]].notna().all(axis=None) and (judged["pairs"] == 4).all()


def test_worths_are_the_grid_cell_by_cell(study, whole):
    rows = whole["worths"].set_index(["pair", "understanding", "generation"])
    assert len(rows) == 4 * ROWS * COLUMNS
    losses = study[0][(study[0]["pair"] == "c x g") & (study[0]["pairs"] == "[[4, 1]]")].set_index("seed")["loss"]
    row = rows.loc[("c x g", 4, 1)]
    assert [row["worth_seed_0"], row["worth_seed_1"]] == pytest.approx([(0.9 - losses[seed]) / 0.4 for seed in SEEDS])
    assert row["worth"] == pytest.approx(row[["worth_seed_0", "worth_seed_1"]].mean())


@pytest.fixture(scope="module")
def half(study, cells):
    """One pair is whole, one lacks plans, one a single cell of its grid, one is not begun."""
    outcomes, maps = study
    outcomes = outcomes[outcomes["pair"] != "d x g"]
    outcomes = outcomes[(outcomes["pair"] != "b x g") | ~is_plan(outcomes) | (outcomes["seed"] == 0)]
    outcomes = outcomes[(outcomes["pair"] != "c x g") | (outcomes["pairs"] != "[[3, 2]]") | (outcomes["seed"] == 1)]
    return report.report_tables(outcomes, maps, TOY, {name: cells[name] for name in list(TOY)[:3]})


def test_pairs_count_once_they_are_complete_and_no_verdict_comes_before(half, whole):
    states = half["pairs"].set_index("pair")
    assert states["grid_complete"].tolist() == [True, True, False, False]
    assert states["plans_complete"].tolist() == [True, False, False, False]
    assert states["grid_runs"].tolist() == [60, 60, 59, 0]
    for name, ready in (("worths", "ab"), ("ranks", "ab"), ("regrets", "a")):
        table, full = half[name].set_index("pair"), whole[name].set_index("pair")
        for letter in "abcd":
            rows = table.loc[f"{letter} x g"].dropna()
            assert len(rows) == (len(full.loc[f"{letter} x g"]) if letter in ready else 0)
    ruled = half["verdicts"]
    assert set(ruled["verdict"]) == {report.INCOMPLETE}
    assert (ruled["pairs"] == 2).all() and (ruled["pairs_with_plans"] == 1).all()
    assert ruled[["p", "p_holm", "regret_low"]].isna().all(axis=None) and ruled["partial_low"].notna().all()
    assert list(ruled) == list(whole["verdicts"])


def test_a_rule_without_maps_keeps_verdicts_waiting_until_it_is_left_out_by_name(study, cells, unjudged, monkeypatch):
    outcomes, maps = study
    without = maps[maps["rule"] != "soft"]
    waiting = report.report_tables(outcomes, without, TOY, cells)["verdicts"].set_index("rule")["verdict"]
    assert set(waiting) == {report.INCOMPLETE}
    monkeypatch.setattr(report, "NOT_TO_BE_HAD", ("soft",))
    judged = report.report_tables(outcomes, without, TOY, cells)["verdicts"]
    judged = judged[judged["outcome"] == "loss"].set_index("rule")["verdict"]
    assert judged["soft"] == report.LEFT_OUT and judged["descent"] == "judged" and len(judged) == len(RULES)


def test_rules_that_choose_one_plan_share_its_run(study, cells, whole, unjudged):
    """A run may bear the name of one rule only; the plans that are asked for say who else chose it."""
    outcomes = study[0].copy()
    outcomes["labels"] = outcomes["labels"].str.replace('"deep"', '"again"')
    pd.testing.assert_frame_equal(report.report_tables(outcomes, study[1], TOY, cells)["regrets"], whole["regrets"])


# What the page says


def written(tables: dict[str, pd.DataFrame], folder: Path) -> dict[str, str]:
    """Every table that the page holds, of a study that stands in for the committed one."""
    (folder / "verdict").mkdir()
    for name in ("kinds.csv", "outcomes.parquet"):
        shutil.copy(RESULTS / "verdict" / name, folder / "verdict")
    for name, table in tables.items():
        table.to_csv(folder / "verdict" / f"{name}.csv", index=False)
    return {name: table() for name, table in verdict_quotes.tables(folder).items()}


def test_the_page_of_a_whole_study_names_the_rule_that_holds(whole, tmp_path):
    said = written(whole, tmp_path)
    assert said["verdict answer"].startswith("**Use `descent`**: its map knows more than depth")
    row = whole["verdicts"].set_index(["outcome", "rule"]).loc[("loss", "descent")]
    gain = with_interval(row["over_shallow"], row["over_shallow_low"], row["over_shallow_high"])
    assert f"worth {gain} more than `shallow`" in said["verdict answer"]
    assert "| `descent` | holds |" in said["verdicts"]
    assert said["verdict regrets"].count("\n") == 1 + len(RULES) + len(CONTROLS)
    none = whole | {"verdicts": whole["verdicts"].replace({"verdict": {"holds": "undecided"}})}
    (tmp_path / "none").mkdir()
    said = written(none, tmp_path / "none")["verdict answer"]
    assert said.startswith("**Use depth**, by the default rule `early`: no rule that measures is shown to know more")
    early = whole["regrets"].query("outcome == 'loss' and rule == 'early'").groupby("pair")[REGRETS].mean()
    gain = with_interval(*map(float, mean_interval(early["over_random"].to_numpy())))
    assert "The plans of `early` are worth" in said and f"{gain} more than `random`" in said


def test_the_page_of_half_a_study_says_what_is_missing(half, tmp_path):
    said = written(half, tmp_path)
    assert said["verdict answer"].startswith(
        "**Which rule to use is not known yet**: of 4 pairs of experts the grids of"
    )
    assert "complete for 2, the plans of four bridges for 1 and" in said["verdict answer"]
    assert "So far (pairs of experts: 2) the best single bridge" in said["verdict answer"]
    assert said["verdicts"].startswith("No verdict yet: of 4 pairs")
    assert "| c x g | not complete |" in said["verdict worths"] and "| 59 of 60 |" in said["verdict pairs"]


# The command


@pytest.fixture
def folder(study, cells, tmp_path, monkeypatch):
    """A study's folder, and the testbed replaced by the toy's."""
    for module_name, value in (
        ("PAIRS", {name: TOY[name] for name in list(TOY)[:2]}),
        ("config", lambda pair: "c1"),
        ("rule_plans", lambda maps: {}),
    ):
        monkeypatch.setattr(report, module_name, value)
    monkeypatch.setattr(report, "pair_named", TOY.__getitem__)
    monkeypatch.setattr(report, "plan_cells", lambda pair, plans: cells[pair.name])
    few = study[0][study[0]["pair"].isin(["a x g", "b x g"]) & ~is_plan(study[0])]
    few.to_parquet(tmp_path / "outcomes.parquet")
    some = study[1][(study[1]["pair"] == "a x g") & study[1]["rule"].isin(["descent", "soft"])]
    for (pair, rule), rows in some.groupby(["pair", "rule"]):
        (tmp_path / "maps" / pair).mkdir(parents=True, exist_ok=True)
        rows.assign(config="c1").to_parquet(tmp_path / "maps" / pair / f"{rule}.parquet")
    rows.assign(config="c0").to_parquet(tmp_path / "maps" / "of other settings.parquet")
    return tmp_path


def test_the_command_writes_every_file_and_the_same_bytes_again(folder, capsys):
    report.main([str(folder)])
    assert "incomplete" in capsys.readouterr().out
    first = {name: (folder / name).read_bytes() for name in report.FILES}
    kept = pd.read_parquet(folder / report.MAPS)
    assert list(kept["rule"].unique()) == ["descent", "soft"]
    shutil.rmtree(folder / "maps")
    report.main([str(folder)])  # from the gathered maps alone, as in the committed results
    assert {name: (folder / name).read_bytes() for name in report.FILES} == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(config="c2"), r"'a x g': runs of config c2, this protocol's is c1"),
        (
            lambda t: t.assign(loss=t["loss"].where(t["labels"] != '["ceiling"]', 0.95)),
            r"'a x g': the ceiling's loss 0.95 is not better than the floor's",
        ),
        (lambda t: pd.concat([t, t.tail(1)]), "stands twice at seed"),
    ],
)
def test_outcomes_that_cannot_be_judged_are_one_error(folder, change, message):
    change(pd.read_parquet(folder / "outcomes.parquet")).to_parquet(folder / "outcomes.parquet")
    with pytest.raises(ValueError, match=message):
        report.main([str(folder)])
    assert not (folder / "verdicts.csv").exists()


def test_maps_that_cannot_be_had_and_missing_outcomes_are_one_error(folder):
    path = folder / "maps" / "a x g" / "descent.parquet"
    hole = pd.read_parquet(path).assign(gain=lambda t: t["gain"].where(t["understanding"] != 2, np.nan))
    hole.to_parquet(path)
    with pytest.raises(ValueError, match=r"'descent' has no gain for 5 of 30 cells of 'a x g' .* cannot be had"):
        report.main([str(folder)])
    hole.assign(rule="guess").to_parquet(path)
    with pytest.raises(ValueError, match="unknown rule 'guess', the protocol has alignment, mutual_knn"):
        report.main([str(folder)])
    shutil.rmtree(folder / "maps")
    hole.assign(config="c0").to_parquet(folder / report.MAPS)
    with pytest.raises(ValueError, match=r"rule_maps.parquet holds maps of a x g by another protocol"):
        report.main([str(folder)])
    (folder / "outcomes.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"outcomes.parquet is missing: gather the runs first"):
        report.main([str(folder)])


# What is committed


def test_committed_tables_are_of_this_testbed():
    tables = {name: pd.read_csv(RESULTS / "verdict" / f"{name}.csv") for name in report.TABLES}
    assert list(tables["pairs"]["pair"]) == list(PAIRS)
    outcomes = pd.read_parquet(RESULTS / "verdict" / "outcomes.parquet")
    grid = outcomes["labels"].str.contains('"grid"')
    ends = outcomes["labels"].str.contains(f'"{FLOOR}"|"{CEILING}"')
    for column, rows in (("grid_runs", outcomes[grid]), ("end_runs", outcomes[ends])):
        counted = rows["pair"].value_counts().reindex(list(PAIRS)).fillna(0)
        assert tables["pairs"].set_index("pair")[column].to_dict() == counted.to_dict()
    complete = tables["pairs"]["plans_complete"].all()
    assert complete or set(tables["verdicts"]["verdict"]) == {report.INCOMPLETE}
