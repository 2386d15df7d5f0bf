"""Count the rows of the table by kind, for docs/guarantees.md: `python -m bridgework.tests.bad_inputs`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bridgework.tests.bad_inputs.frame import KINDS, all_rows

COUNTS = Path(__file__).parents[2] / "benchmarks" / "results" / "bad_inputs.csv"


def counted() -> pd.DataFrame:
    """One line a kind: what it is, how many rows it has, and of how many public names and commands."""
    rows = all_rows()
    return pd.DataFrame(
        [
            {
                "kind": about,
                "rows": sum(row.kind == kind for row in rows),
                "public names": len({row.name for row in rows if row.kind == kind and " " not in row.name}),
                "commands": len({row.name for row in rows if row.kind == kind and " " in row.name}),
            }
            for kind, about in KINDS.items()
        ]
        + [
            {
                "kind": "all",
                "rows": len(rows),
                "public names": len({row.name for row in rows if " " not in row.name}),
                "commands": len({row.name for row in rows if " " in row.name}),
            }
        ]
    )


if __name__ == "__main__":
    counted().to_csv(COUNTS, index=False, lineterminator="\n")
    print(counted().to_string(index=False))
