"""What is quoted of the claims: verdicts in words, what would change them, and where no runs are done yet."""

from __future__ import annotations

import pandas as pd
import pytest

from bridgework.studies.quotes import claim_quotes, layout_quotes
from bridgework.studies.quotes.changing import SETTLED, what_would_change
from bridgework.studies.settings import RESULTS

SPLIT = {"metric": "mutual_knn", "run": 0, "met": True}


@pytest.mark.parametrize(
    ("verdict", "numbers", "said"),
    [
        ("holds", [(0.2, 0.1, 0.3)], SETTLED),
        ("fails", [(-0.2, -0.3, -0.1)], SETTLED),
        ("undecided", [(0.02, -0.02, 0.06)], "about 4 times as many seeds, if the number stays"),
        ("undecided", [(0.02, 0.01, 0.03), (0.01, -0.02, 0.04)], "about 9 times as many seeds, if the number stays"),
        ("undecided", [(0.0001, -0.1, 0.1)], "more seeds would hardly help: over 100 times as many would be needed"),
        ("undecided", [(0.0, -0.1, 0.1)], "more seeds would hardly help: over 100 times as many would be needed"),
        (
            "undecided",
            [(0.2, 0.1, 0.3), (-0.2, -0.3, -0.1)],
            "numbers that agree: each is away from 0, on different sides",
        ),
        ("not yet measured", [(float("nan"),) * 3], "its runs"),
    ],
)
def test_what_would_change_a_verdict(verdict, numbers, said):
    assert what_would_change(verdict, numbers, "seeds") == said


@pytest.fixture
def results(tmp_path):
    """Tables of a study with a fork that is best at 3, in a trunk whose tasks split behind block 3."""
    (tmp_path / "claims").mkdir()
    claim = {"name": "H-as-dense", "paper": "HBridge", "claim": "no less", "outcome": "worth", "pair": "a x b"}
    verdicts = pd.DataFrame([
        claim | {"seeds": 5, "difference": 0.12, "low": 0.07, "high": 0.17, "margin": 0.05, "verdict": "holds"},
        claim | {"name": "shift-2", "seeds": 0, "margin": 0.0, "verdict": "not yet measured"},
    ])  # fmt: skip
    verdicts.to_csv(tmp_path / "claims" / "verdicts.csv", index=False)
    fork = {"paper": "UniFork", "claim": "half", "by": "fork", "published": 6, "seeds": 3, "best": 3, "near": "3 4"}
    fork |= {"behind": 0.02, "low": 0.01, "high": 0.03, "verdict": "fails"}
    named = [("drawing", "loss"), ("answering", "accuracy")]
    best = pd.DataFrame([fork | {"name": f"best-fork-{task}", "outcome": outcome} for task, outcome in named])
    best.to_csv(tmp_path / "claims" / "best.csv", index=False)
    shapes = pd.DataFrame([
        SPLIT | {"shape": "understanding rises then falls", "model": "one trunk, both tasks", "value": 0.05,
                 "low": 0.02, "high": 0.08},
        SPLIT | {"shape": "both tasks coincide", "model": "one trunk, both tasks", "met": False, "value": 0.25,
                 "low": 0.2, "high": 0.35},
        SPLIT | {"shape": "tasks split at a depth", "model": "one trunk, then one task", "value": 0.25, "low": 0.2,
                 "high": 0.35},
    ])  # fmt: skip
    shapes = pd.concat([shapes, shapes.assign(metric="cka")])
    shapes.to_csv(tmp_path / "claims" / "shapes.csv", index=False)
    return tmp_path


def test_claims_are_quoted_with_their_numbers(results):
    said = {found.claim: found for found in layout_quotes.judged_claims(results)}
    assert said["no less"].verdict in ("holds", "not yet measured")
    measured = [found.measured for found in layout_quotes.judged_claims(results)]
    assert "gain in worth .12 [.070, .17] (a x b, 5 seeds); no less than -.050 was asked" in measured
    assert "its runs are not done" in measured
    half = next(text for text in measured if text.startswith("best at 3"))
    assert (
        half
        == "best at 3 (within noise of it: 4); at 6, as published, the loss is higher by .020 [.010, .030]; 3 seeds"
    )
    at_split = next(found for found in said.values() if "before any fork" in found.claim)
    assert at_split.verdict == "holds"  # blocks 2.4 to 4.2 hold the best forks
    assert at_split.measured == "split behind block 3.00 [2.40, 4.20]; best forks: drawing 3, answering 3 of 12"


def test_a_split_at_the_embeddings_names_no_fork(results):
    file = results / "claims" / "shapes.csv"
    pd.read_csv(file).assign(value=0.0, low=0.0, high=0.0).to_csv(file, index=False)
    found = list(layout_quotes.judged_claims(results))[-1]
    assert found.verdict == "undecided" and "differ from the embeddings on" in found.measured


def test_every_committed_claim_has_a_verdict_and_says_what_would_change_it():
    rows = [line.split(" | ") for line in claim_quotes.claims_table(RESULTS).splitlines()[2:]]
    assert len(rows) > 40
    for _, claim, measured, verdict, change, command in rows:
        assert verdict.split(":")[0] in ("holds", "fails", "undecided", "not yet measured"), claim
        assert measured and change and command.strip(" |")


@pytest.mark.parametrize(
    ("highs", "said"), [((0.17, -0.07), "undecided, since the pairs of experts differ"), ((0.17, 0.3), "undecided")]
)
def test_a_verdict_on_pairs_that_differ_says_so(highs, said):
    rows = pd.DataFrame({"verdict": "undecided", "pair": ["a x b", "c x b"], "margin": 0.05, "high": highs})
    assert layout_quotes._in_words(rows.assign(low=rows["high"] - 0.2)) == said
