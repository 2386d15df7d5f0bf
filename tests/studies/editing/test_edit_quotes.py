"""What texts say of the editing study: without runs, with some, with all; intervals, floors, verdicts."""

from __future__ import annotations

import pandas as pd
import pytest

from bridgework.studies.editing import edit_claims
from bridgework.studies.editing.edit_runs import EditCell
from bridgework.studies.editing.edit_testbed import FLOOR, LAYOUTS, MAIN, UNBRIDGED
from bridgework.studies.quotes import edit_quotes
from bridgework.studies.quotes.changing import SETTLED
from bridgework.studies.quotes.claim_quotes import LIGHTFUSION, claims_table
from bridgework.studies.quotes.markers import filled
from bridgework.studies.settings import RESULTS

from .edit_rows import edit_rows

USELESS = "the gain over semantic tokens is surely below .002, the least that counts"


@pytest.fixture
def quoted(tmp_path):
    """A maker of committed results, of which tables, numbers and what else texts quote are returned."""

    def quote(rows: pd.DataFrame):
        (folder := tmp_path / "editing").mkdir()
        differences = edit_claims.edit_differences(rows)
        parts = {"edits": rows, "differences": differences, "verdicts": edit_claims.edit_verdicts(differences)}
        for name, part in parts.items():
            part.to_parquet(folder / f"{name}.parquet")
        return {name: write() for name, write in edit_quotes.tables(tmp_path).items()}, edit_quotes.numbers(tmp_path)

    return quote


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"][2:]


def whole_study(**columns: object) -> pd.DataFrame:
    """Three seeds: both is better than semantic by .3 in all layouts but in H, where it is worse."""
    rows = edit_rows(0.3, 0.9)
    rows.loc[(rows["layout"] == "H") & (rows["source"] == "semantic"), "loss"] -= 0.5
    alone = [EditCell("", "spatial", seed, UNBRIDGED)._asdict() | {"loss": 0.9} for seed in range(3)]
    rows = pd.concat([rows, pd.DataFrame(alone)], ignore_index=True).assign(steps=300)
    return rows.assign(**dict.fromkeys(edit_quotes.SCORES, 0.5), **columns)


def test_a_study_without_runs_says_so(tmp_path):
    for name, write in edit_quotes.tables(tmp_path).items():
        assert "not done yet" in write() or write() == "No run is done yet.", name
    assert edit_quotes.numbers(tmp_path) == {}
    assert edit_quotes.both_kinds(tmp_path)[1:3] == ("its runs are not done", "not yet measured")
    assert edit_quotes.said_by_layout(tmp_path) == {}


def test_ways_are_the_study_s():
    assert {run for run, _ in edit_quotes.WAYS} == {MAIN, FLOOR, UNBRIDGED}
    assert set(edit_quotes.LEAST) == {"semantic", "spatial", FLOOR}
    assert edit_quotes.EVERY == edit_claims.EVERY
    assert set(edit_quotes.SCORES) == {*edit_claims.MEASURES} - {edit_claims.DECIDES}
    assert edit_quotes.CLAIM.lower().replace(" edit ", " are ") == edit_claims.CLAIM


def test_every_layout_and_source_has_a_row_and_floors_are_named(quoted):
    rows = cells(quoted(whole_study())[0]["editing"])
    assert len(rows) == 4 * (len(LAYOUTS) + 1) + 1
    by_name = {(row[0], row[1].split(" (")[0], "floor" in row[1]): row[2:] for row in rows}
    assert by_name["dense", "both", False] == [".50 [.50, .50]", ".50", ".50", ".50", ".50", ".50", "3"]
    assert by_name["dense", "both", True][0] == by_name["none", "spatial", True][0] == ".90 [.90, .90]"
    assert by_name["all layouts", "semantic", False][0] == ".70 [.70, .70]"


def test_verdicts_stand_beside_what_they_rest_on(quoted):
    tables, numbers = quoted(whole_study())
    rows = {row[0]: row[1:] for row in cells(tables["editing verdicts"])}
    assert list(rows) == [*LAYOUTS, "all layouts"]
    assert rows["dense"] == [".30 [.30, .30]", ".30 [.30, .30]", ".40 [.40, .40]", "**holds**",
        "both intervals are above 0", "0 [0, 0]", "0 [0, 0]", "3"]  # fmt: skip
    assert rows["H"][3:5] == ["**fails**", USELESS]
    assert (numbers["editing.holds"], numbers["editing.fails"], numbers["editing.undecided"]) == ("4", "1", "0")
    assert (numbers["editing.runs"], numbers["editing.seeds"]) == ("63", "3")
    assert numbers["editing.gain.semantic"] == ".20"
    text = ".1<!-- editing.gain.semantic --> [0, 1]<!-- editing.gain.semantic.interval -->"
    assert filled(text, numbers, {}, "here").startswith(".20<!--")


@pytest.mark.parametrize(
    ("rows", "by", "first"),
    [
        (
            whole_study(),
            "less",
            f"{edit_quotes.NEEDED['holds']}: both intervals",
        ),
        (
            edit_rows(-0.2, 0.9).assign(steps=3),
            "more",
            f"{edit_quotes.NEEDED['fails']}: the gain",
        ),
        (edit_rows(0.3, 0.5).assign(steps=3), "less", edit_quotes.NEEDED["undecided"]),
    ],
)
def test_the_answer_is_the_verdict_over_all_layouts(quoted, tmp_path, rows, by, first):
    answer = quoted(rows)[0]["editing answer"]
    assert edit_quotes.both_kinds(tmp_path)[3]
    assert answer.startswith(first)
    assert f"{by} than with semantic tokens" in answer and " -" not in answer
    assert "a copy of the source has 0" in answer


@pytest.mark.parametrize("layouts", [["last"], ["last", "dense"]])
def test_a_part_of_the_runs_is_said_to_be_a_part(quoted, tmp_path, layouts):
    rows = whole_study()
    tables, numbers = quoted(rows[rows["layout"].isin(layouts) & (rows["seed"] == 0) & (rows["source"] != "spatial")])
    assert "not run yet" in tables["editing answer"] and "NaN" not in str(tables)
    assert "| all layouts | semantic" not in tables["editing"]  # a mean over some layouts is none over all
    assert "editing.gain.semantic" not in numbers and "editing.score.both" not in numbers
    assert edit_quotes.both_kinds(tmp_path)[2] == "not yet measured"


def test_one_seed_has_no_interval(quoted, tmp_path):
    tables, numbers = quoted(whole_study()[lambda rows: rows["seed"] == 0])
    assert "NaN" not in str(tables)
    assert "editing.gain.semantic.interval" not in numbers
    assert edit_quotes.both_kinds(tmp_path)[2:4] == ("undecided", "its runs")
    assert {tuple(row[4:6]) for row in cells(tables["editing verdicts"])} == {("**undecided**", "1 of 3 seeds")}


def test_the_claim_has_one_row_and_each_layout_its_words(quoted, tmp_path):
    quoted(whole_study())
    claim, measured, verdict, change, command = edit_quotes.both_kinds(tmp_path)
    assert (verdict, change) == ("holds", SETTLED) and command == "`bridgework reproduce editing`"
    assert (
        "the loss with both is .20 [" in measured
        and f"holds in double fusion, dense, last, soft; fails in H ({USELESS})" in measured
    )
    assert edit_quotes.said_by_layout(tmp_path)["last"] == "both better than either: holds"
    assert edit_quotes.said_by_layout(tmp_path)["H"] == f"both better than either: fails ({USELESS})"
    (row,) = [row for row in claims_table(RESULTS).splitlines() if claim in row]
    assert row.startswith(f"| {LIGHTFUSION} | {claim} |")
