"""The claims: what is compared starts equal, pairs by seed, and is judged as the protocol says."""

from __future__ import annotations

import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

from bridgework.models.experts.opening import open_expert
from bridgework.models.unified.flow_model import UnifiedModel
from bridgework.studies.claims import cell_lists, claim_runs, claim_settings, trunk_models, trunk_runs
from bridgework.studies.claims.claim_cells import Cell, read_cell, run_cell
from bridgework.studies.claims.claim_report import report_tables
from bridgework.studies.claims.claim_tables import link_table, read_runs
from bridgework.studies.claims.claim_verdicts import (
    CLAIMS,
    FAILS,
    HOLDS,
    UNDECIDED,
    UNMEASURED,
    Difference,
    _judge_sweep,
    best_table,
    judge,
    judge_links,
)
from bridgework.studies.claims.tower_runs import fitting_rank, injected, plan_of, run_tower
from bridgework.studies.verdict import bridge_runs, caption_pool

PAIR = claim_settings.PAIRS[0]
CHOSEN = {layout: {"rate": 3e-2, "gated": False} for layout in claim_settings.LAYOUTS}
TRUNKS = {name: {"rate": 2e-3} for name in cell_lists.TRUNKS}
EFFECTS = {"dense": 0.0, "H": -0.002, "last": 0.004, "shared": 0.02}  # of the loss


def all_cells() -> list[Cell]:
    lists = [cell_lists.trunk_cells(TRUNKS), cell_lists.fork_cells(TRUNKS), cell_lists.end_cells(TRUNKS)]
    for pair in claim_settings.PAIRS:
        lists += [cell_lists.layout_cells(pair, CHOSEN), cell_lists.injection_cells(pair, CHOSEN)]
    lists += [cell_lists.semantic_cells(PAIR, CHOSEN), cell_lists.bridge_cells(PAIR, CHOSEN, 12)]
    return [cell for cells in [*lists, cell_lists.shift_cells(PAIR, CHOSEN)] for cell in cells]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every run with known effects: H is better than dense, last is worse; all else is noise."""
    rng, rows = np.random.default_rng(0), []
    for cell in all_cells():
        about = dict(cell.about)
        loss = 0.07 + EFFECTS.get(about["layout"], 0) + 0.0002 * rng.normal()
        loss += 0.005 * abs(about["fork"] - 3) if cell.study == "forks" else 0
        loss = {"own text": 0.05}.get(about["layout"], 0.09 if about.get("shuffled") else loss)
        measured = {"loss": loss, "score": 0.4, "exact": 0.1, "sharing": 0.5, "step_flops": 1e10, "step_seconds": 0.3}
        measured |= {"parameters": 3e5, "bridges": 7, "used_rank": 9, "answer_loss": rng.normal(), "accuracy": 0.9}
        links = [0.1 + 0.05 * (3 <= link < 10) + 0.001 * rng.normal() for link in range(13)]
        measured |= {"links": links, "link_pairs": [[i, i] for i in range(13)]} if about.get("links") else {}
        row = {"study": cell.study, "key": cell.key, "config": "x", "seed": cell.seed}
        rows.append(row | {"about": json.dumps(about), "measured": json.dumps(measured)})
    path = tmp_path_factory.mktemp("claims") / "runs.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return read_runs(path)


def test_every_layout_has_at_least_five_seeds_and_both_bounds():
    for pair in claim_settings.PAIRS:
        cells = cell_lists.layout_cells(pair, CHOSEN)
        for layout in claim_settings.LAYOUTS:
            of = [cell for cell in cells if cell.about["layout"] == layout]
            assert len({cell.seed for cell in of if not cell.about.get("shuffled")}) >= 5
            assert any(cell.about.get("shuffled") for cell in of)
        assert {"own text", "unbridged"} < {cell.about["layout"] for cell in cells}
    forks = {cell.about["fork"] for cell in cell_lists.fork_cells(TRUNKS)}
    assert forks == set(range(1, claim_settings.DEPTH))
    counts = {cell.about["middle"] for cell in cell_lists.bridge_cells(PAIR, CHOSEN, None)}
    assert counts == {1, 3, 5, 7, 9, 11, 13}


def test_worth_is_0_at_the_floor_and_1_at_the_ceiling(runs):
    rows = runs[(runs["study"] == "layouts") & (runs["pair"] == PAIR)]
    assert rows.loc[rows["layout"] == "dense", "worth"].max() == pytest.approx(0.5, abs=0.02)
    tables = report_tables(runs)
    worth = tables["layouts"].query("pair == @PAIR").set_index("layout")["worth"]
    assert worth["H"] == pytest.approx((0.09 - 0.068) / 0.04, abs=0.01)
    assert tables["forks"]["fork"].tolist() == list(range(1, claim_settings.DEPTH + 1))
    assert len(tables["links"]) == 13
    above = tables["forks"].set_index("fork")["loss_above"]
    assert above[claim_settings.DEPTH] == 0 and above[3] == pytest.approx(-0.02, abs=0.001)  # of the same seeds
    assert tables["trunks"].set_index("layout")["loss_above"]["Y"] == pytest.approx(-0.02, abs=0.001)


def test_verdicts_are_those_of_the_protocol(runs):
    verdicts = {claim.name: judge(claim, runs)["verdict"].iloc[0] for claim in CLAIMS}
    assert verdicts["H-as-dense"] == HOLDS  # better, so no worse
    assert verdicts["double-last"] == HOLDS
    assert verdicts["inject-last"] == UNDECIDED
    h, last = ({"study": "layouts", "layout": name, "shuffled": False} for name in ("H", "last"))
    worse = Difference("worse", "", "", last, h, ("worth",), margin=0.05, pairs=2)
    assert judge(worse, runs)["verdict"].iloc[0] == FAILS
    one = runs[runs["pair"] != claim_settings.PAIRS[1]]
    assert judge(worse, one)["verdict"].iloc[0] == UNMEASURED
    assert judge(worse._replace(pairs=1), one)["verdict"].iloc[0] == FAILS
    assert judge(worse, runs[runs["study"] == "trunks"])["verdict"].iloc[0] == UNMEASURED


def test_answering_is_better_only_by_its_loss_and_by_right_answers(runs):
    claim = next(claim for claim in CLAIMS if claim.name == "X-active-answering")
    x, shared = (runs["study"].eq("trunks") & runs["layout"].eq(layout) for layout in ("X", "shared"))
    step = runs["seed"] * 1e-3
    less_sure = runs.assign(answer_loss=1.2 - 0.5 * x + step * x, accuracy=0.97 - 0.15 * x + step * x)
    rows = judge(claim, less_sure).set_index("outcome")
    assert rows.loc["answer_loss", "low"] > 0 > rows.loc["accuracy", "high"]
    assert set(rows["verdict"]) == {UNDECIDED}
    better = less_sure.assign(accuracy=0.97 - 0.15 * shared + step * shared)
    assert set(judge(claim, better)["verdict"]) == {HOLDS}


def test_the_best_of_a_sweep_is_named_with_what_is_within_noise_of_it(runs):
    best = best_table(runs).set_index("name")
    fork = best.loc["best-fork-drawing"]
    assert fork["best"] == 3 and fork["near"] == "3" and fork["seeds"] == 3
    assert fork["behind"] == pytest.approx(0.015, abs=0.001) and fork["low"] > 0 and fork["verdict"] == FAILS
    noise = pd.DataFrame({3: [1.0, 2.0, 3.1], 6: [1.1, 1.9, 3.2], 9: [4.0, 5.0, 6.0]}, index=[0, 1, 2])
    found = _judge_sweep(noise, 6)
    assert (found["best"], found["near"], found["verdict"]) == (3, "3 6", UNDECIDED)
    assert _judge_sweep(noise - [0, 5, 0], 6)["verdict"] == HOLDS and _judge_sweep(noise, 9)["verdict"] == FAILS
    assert best_table(runs[runs["study"] != "forks"]).set_index("name")["verdict"]["best-fork-drawing"] == UNMEASURED


def test_links_of_the_middle_are_held_against_those_of_the_ends(runs):
    row = judge_links(runs).iloc[0]
    assert row["verdict"] == HOLDS and row["seeds"] == 3
    assert row["difference"] == pytest.approx(0.05, abs=0.002)
    assert judge_links(runs[runs["study"] == "trunks"])["verdict"].iloc[0] == UNMEASURED


def test_runs_of_two_configurations_are_not_mixed(runs, tmp_path):
    rows = pd.DataFrame([
        {"study": "trunks", "key": str(n), "config": config, "seed": 0, "about": '{"layout": "Y"}', "measured": "{}"}
        for n, config in enumerate("ab")
    ])  # fmt: skip
    rows.to_parquet(tmp_path / "runs.parquet")
    with pytest.raises(ValueError, match="one trunk by two protocols"):
        read_runs(tmp_path / "runs.parquet")


@pytest.fixture(scope="module")
def base():
    return trunk_models.untrained_trunk().eval()


def test_trunks_start_equal_and_have_the_parameters_that_they_are_compared_at(base):
    y, x = (trunk_models.trunk_plan(name, **more) for name, more in (("Y", {"fork": 6}), ("X", {"ends": (4, 2)})))
    wider = trunk_models.matching_width(base, y)
    models = [trunk_models.trunk_from(base, plan, more) for plan, more in ((y, 0), (x, 0), (base.plan, wider))]
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert max(counts) / min(counts) < 1.001
    torch.manual_seed(0)
    noisy, time = torch.randn(2, 3, 32, 32), torch.tensor([0.4, 0.9])
    with torch.no_grad():
        want = base.predict(noisy, base.condition(["a red circle", "a ring"]), time)
        for model in (models[0], models[2]):
            found = model.predict(noisy, model.condition(["a red circle", "a ring"]), time)
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_a_batch_is_the_same_for_every_trunk(base):
    with torch.no_grad():
        both, drawing, answering = (float(trunk_runs._loss(base, 3, 1, task)) for task in trunk_runs.TASKS)
    assert both == pytest.approx(drawing + answering, rel=1e-5)
    with torch.no_grad():
        assert both == pytest.approx(float(trunk_runs._loss(base, 3, 1, "both")), rel=1e-6)


def test_what_is_missing_is_run_once_and_what_another_process_runs_is_left_to_it(tmp_path, monkeypatch, capsys):
    cells = [Cell("trunks", {"layout": "Y"}, seed) for seed in range(3)]
    ran: list[int] = []

    def train(cell, folder):
        ran.append(cell.seed)
        return {"loss": 0.5}

    monkeypatch.setattr(claim_runs, "COMMITTED", tmp_path / "none.parquet")
    monkeypatch.setattr(claim_runs, "stages", lambda family, run: iter([cells]))
    monkeypatch.setattr(claim_runs, "run_trunk", train)
    (tmp_path / "locks").mkdir()
    with FileLock(tmp_path / "locks" / cells[1].key):  # as another process holds it
        held = threading.Thread(target=claim_runs.run_missing, args=(tmp_path, ["trunks"]))
        held.start()
        held.join()
    assert ran == [0, 2]
    claim_runs.run_missing(tmp_path, ["trunks"])
    assert ran == [0, 2, 1]
    assert capsys.readouterr().out.count("loss 0.5000") == 3


def test_what_needs_a_rate_that_is_not_chosen_is_not_gathered_yet_and_nothing_is_run(tmp_path, monkeypatch):
    tuned = Cell("tuning", {"layout": "Y", "rate": 0.1}, 100)

    def stages(family, run):
        yield [Cell("tasks", {"layout": "shared"}, seed) for seed in range(2)]
        run(tuned)
        yield [Cell("trunks", {"layout": "Y"}, 0)]

    monkeypatch.setattr(claim_runs, "stages", stages)
    monkeypatch.setattr(claim_runs, "config_of", lambda cell: "x")
    monkeypatch.setattr(claim_runs, "run_trunk", None)
    for cell in (Cell("tasks", {"layout": "shared"}, 1), Cell("trunks", {"layout": "Y"}, 0)):
        run_cell(cell, tmp_path, "x", lambda _: {"loss": 0.5})
    assert claim_runs.gather(tmp_path)["study"].tolist() == ["tasks"]
    run_cell(tuned, tmp_path, "x", lambda _: {"loss": 0.5})
    assert claim_runs.gather(tmp_path)["study"].tolist() == ["tasks", "tuning", "trunks"]


def test_gathered_rows_are_those_of_the_runs_and_are_restored(tmp_path, monkeypatch):
    cells = [Cell("bridges", {"pair": PAIR, "layout": "H", "links": True}, seed) for seed in range(3)]
    for cell in cells:
        measured = {"loss": 0.5, "links": [0.1, 0.2], "link_pairs": [[0, 0], [1, 1]]}
        run_cell(cell, tmp_path, "x", lambda _, found=measured: found)
    monkeypatch.setattr(claim_runs, "stages", lambda family, run: iter([cells] if family == "trunks" else []))
    monkeypatch.setattr(claim_runs, "config_of", lambda cell: "x")
    claim_runs.gather(tmp_path)
    links = link_table(read_runs(tmp_path / "runs.parquet"))
    assert links["loss_increase"].tolist() == pytest.approx([0.1, 0.2]) and set(links["seeds"]) == {3}
    monkeypatch.setattr(claim_runs, "COMMITTED", tmp_path / "runs.parquet")
    claim_runs.restore(tmp_path / "again")
    assert [read_cell(cell, tmp_path / "again", "x") for cell in cells] == [
        read_cell(cell, tmp_path, "x") for cell in cells
    ]


def test_committed_rows_are_not_run_again(tmp_path, monkeypatch):
    measured = '{"loss": 1}'
    cells = [Cell("tasks", {"layout": "shared", "steps": 1} | more, 0) for more in ({}, {"keep": "drawing"})]
    rows = [
        {
            "study": c.study,
            "key": c.key,
            "config": "x",
            "seed": 0,
            "about": json.dumps(c.about),
            "measured": measured,
        }
        for c in cells
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "runs.parquet")
    monkeypatch.setattr(claim_runs, "COMMITTED", tmp_path / "runs.parquet")
    claim_runs.restore(tmp_path)
    assert read_cell(cells[0], tmp_path, "x") == {"layout": "shared", "steps": 1, "seed": 0, "loss": 1, "config": "x"}
    assert read_cell(cells[0], tmp_path, "other") is None
    assert read_cell(cells[1], tmp_path, "x") is None  # its weights are needed again


def test_blocks_are_injected_at_their_depth_deeper_or_from_the_last():
    assert injected("same", 16, 13)[0] == (0, 0)
    assert injected("same", 16, 13)[-1] == (15, 12)
    assert injected("shifted", 16, 13)[0] == (8, 0)
    assert {block for block, _ in injected("last", 16, 13)} == {15}


def test_every_layout_fits_the_budget_of_parameters():
    experts = [open_expert(name) for name in PAIR.split(" x ")]
    for layout in ("H", "last"):
        plan = plan_of({"pair": PAIR, "layout": layout, "gated": False})
        assert fitting_rank(plan, experts) is not None


@pytest.fixture
def small(monkeypatch):
    """Shrink the testbed: few captions, few images."""
    pool = {"train": 8, "evidence": 8, "validation": 2, "test": 2}
    monkeypatch.setattr(caption_pool, "POOL", pool)
    monkeypatch.setattr(bridge_runs, "DRAWN", 1)
    monkeypatch.setattr(bridge_runs, "SAMPLING", {"steps": 1, "guidance": 1.0})
    caption_pool.pool.cache_clear()
    yield
    caption_pool.pool.cache_clear()


def test_a_run_is_read_again_and_repeats(small, tmp_path):
    about = {"pair": PAIR, "layout": "H", "gated": False, "rate": 1e-2, "steps": 2, "rank": 2, "middle": 3}
    cell = Cell("bridges", about | {"links": True}, 0)
    (tmp_path / "locks").mkdir()
    first = claim_runs.row_of(cell, tmp_path)
    assert claim_runs.row_of(cell, tmp_path) == first
    again = run_tower(cell, tmp_path)
    timed = {"step_seconds"}
    assert {name: value for name, value in again.items() if name not in timed}.items() <= first.items()
    assert len(first["links"]) == first["bridges"] == 3
    assert cell._replace(seed=1).key != cell.key


def test_a_trunk_run_scores_both_tasks(small, base, tmp_path, monkeypatch):
    config = trunk_runs.trunk_config()
    base.save(tmp_path / f"trunk-{config}-{claim_settings.START_STEPS}")
    monkeypatch.setattr(claim_settings, "ASKED", 2)
    monkeypatch.setattr(trunk_runs, "answer_losses", lambda model, part: np.ones(2))
    monkeypatch.setattr(trunk_runs, "trunk_config", lambda: config)
    monkeypatch.setattr(trunk_runs, "untrained_trunk", None)  # none is trained: it is in the folder
    about = {"layout": "Y", "fork": 3, "start": claim_settings.START_STEPS, "rate": 1e-3, "steps": 1}
    row = trunk_runs.run_trunk(Cell("forks", about, 0), tmp_path)
    assert row["sharing"] == 3 / claim_settings.DEPTH
    assert {"loss", "answer_loss", "score", "accuracy", "step_flops"} < row.keys()
    assert isinstance(trunk_runs.base_trunk(tmp_path, claim_settings.START_STEPS), UnifiedModel)
