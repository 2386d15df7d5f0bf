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
    assert second.computed == [(1, number) for number in range(4, 9)]  # it had claimed the first of them


def test_what_another_worker_has_not_come_to_is_taken_over(tmp_path):
    computed: dict[int, list[int]] = {0: [], 1: []}

    def compute_by(worker: int):
        return lambda numbers: ((torch.tensor(computed[worker].append(n) or n),) for n in numbers)

    def stop() -> None:
        if len(computed[0]) == 8:
            raise KeyboardInterrupt

    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "00001.claim").symlink_to("1")  # it died there
    with pytest.raises(KeyboardInterrupt):
        SharedParts(tmp_path, 0, 2, stop).parts(compute_by(0), 9)
    assert computed[0] == [0, 3, 4, 7, 8, 6, 5, 2]
    parts = SharedParts(tmp_path, 1, 2).parts(compute_by(1), 9)
    assert computed[1] == [1]
    assert [int(part) for (part,) in parts] == list(range(9))


def test_fewer_workers_go_on_with_what_more_had_claimed(tmp_path):
    (tmp_path / "0").mkdir()
    for number in range(4):
        (tmp_path / "0" / f"{number:05d}.claim").symlink_to(str(number))
    parts = SharedParts(tmp_path, 0, 1).parts(lambda numbers: ((torch.tensor(n),) for n in numbers), 4)
    assert [int(part) for (part,) in parts] == [0, 1, 2, 3]


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
