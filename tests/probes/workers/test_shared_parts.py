"""Parts of a computation are shared, resumed, taken over and checked; the result is that of one process."""

from __future__ import annotations

import threading

import pytest
import torch

from bridgework.probes.workers.shared_parts import SharedParts, as_worker, in_parts, kept_in

MADE = {"what": "squares"}


class Squares:
    """Sums squares of the sums of all parts before, and notes which parts were computed by whom."""

    def __init__(self, count: int = 9, most: int = 99) -> None:
        self.count, self.most, self.computed = count, most, []

    def __call__(self) -> torch.Tensor:
        total = torch.zeros(())
        for step in range(2):

            def compute(numbers, step=step, before=total):
                for number in numbers:
                    if len(self.computed) == self.most:
                        raise KeyboardInterrupt
                    self.computed.append((step, number))
                    yield ((before + number / 7) ** 2,)

            for (part,) in in_parts(compute, self.count):
                total = total + part
        return total


def run_together(folder, works) -> list[torch.Tensor]:
    found: list = [None] * len(works)

    def run(worker: int) -> None:
        with as_worker(worker, len(works)):
            found[worker] = kept_in(folder, MADE, {}, works[worker])

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_workers_share_the_parts_and_have_the_same_result(tmp_path):
    works = [Squares() for _ in range(3)]
    found = run_together(tmp_path / "new", works)
    alone = Squares()()
    assert all(torch.equal(one, alone) for one in found)
    computed = [part for work in works for part in work.computed]
    assert set(computed) == {(step, number) for step in range(2) for number in range(9)}
    assert all(work.computed for work in works)


def test_a_run_that_ended_half_way_computes_the_rest(tmp_path):
    first, second = Squares(most=13), Squares()
    with pytest.raises(KeyboardInterrupt):
        kept_in(tmp_path / "m", MADE, {}, first)
    assert torch.equal(kept_in(tmp_path / "m", MADE, {}, second), Squares()())
    assert len(first.computed) == 13
    assert second.computed == [(1, number) for number in range(4, 9)]


def test_the_parts_of_a_worker_that_never_comes_are_taken_over_but_for_its_last(tmp_path):
    class Gone(Exception):
        pass

    work = Squares()
    parts = SharedParts(tmp_path, 0, 2, check=lambda: gone.append(len(work.computed)) or len(gone) < 9 or stop())
    gone: list[int] = []

    def stop() -> None:
        raise Gone

    with pytest.raises(Gone):
        parts.parts(lambda numbers: ((torch.tensor(work.computed.append(n) or n),) for n in numbers), 9)
    assert work.computed == [0, 2, 4, 6, 8, 7, 5, 3]


def test_what_is_complete_is_read_and_another_made_is_refused(tmp_path):
    work, values = Squares(), torch.arange(6.0)
    first = kept_in(tmp_path / "m", MADE, {"x": [values]}, work)
    again = Squares()
    assert torch.equal(kept_in(tmp_path / "m", MADE, {"x": [values]}, again), first)
    assert not again.computed
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["made.json", "scores.safetensors"]
    with pytest.raises(ValueError, match=r"made differently \(what: there squares, asked for cubes\): give another"):
        kept_in(tmp_path / "m", {"what": "cubes"}, {"x": [values]}, again)
    with pytest.raises(ValueError, match=r"made differently \(x: "):
        kept_in(tmp_path / "m", MADE, {"x": [values + 1]}, again)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="holds something else: give a new folder"):
        kept_in(tmp_path / "other", MADE, {}, again)


def test_a_damaged_part_is_named(tmp_path):
    kept_in(tmp_path / "m", MADE, {}, Squares())
    path = tmp_path / "m" / "scores.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"scores\.safetensors is damaged .*remove it"):
        kept_in(tmp_path / "m", MADE, {}, Squares())
