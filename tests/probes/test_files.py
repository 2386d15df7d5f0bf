"""Files: the old one or the new one, whatever happens in between, and nothing beside them."""

from __future__ import annotations

import errno
import json
import os
import signal

import numpy as np
import pandas as pd
import pytest

from bridgework.probes.files import read_parquet, remove_partial_files, write_atomically, write_folder, write_parquet
from bridgework.probes.tensor_files import read_sealed, with_seal


def test_a_file_is_written_with_its_folder(tmp_path):
    write_atomically(tmp_path / "new" / "file.txt", lambda path: path.write_text(path.name))
    assert (tmp_path / "new" / "file.txt").read_text() == "file.txt"  # what the writer sees has the name's own ending
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]
    assert (tmp_path / "new" / "file.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    (tmp_path / "kept").write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise error("stop")

    with pytest.raises(error, match="stop"):
        write_atomically(tmp_path / "kept", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


def test_what_killed_writers_left_is_cleared(tmp_path):
    for name in (".kept.abc", ".other.abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    (tmp_path / "kept").write_text("whole")
    remove_partial_files(tmp_path / "kept")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.abc", "kept"]


def test_the_next_writer_of_a_file_clears_what_a_killed_one_left(tmp_path):
    def half(temporary):
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    if not (child := os.fork()):
        write_atomically(tmp_path / "kept[1]", half)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    write_atomically(tmp_path / "kept[1]", lambda path: path.write_text("whole"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept[1]"]


FULL = OSError(errno.ENOSPC, "No space left on device")
RUST = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("error", [FULL, RUST, OSError(errno.EROFS, "Read-only file system")], ids=str)
@pytest.mark.parametrize("write", [write_atomically, write_folder])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, write, error):
    def fail(temporary):
        raise error

    (tmp_path / "kept").mkdir() if write is write_folder else (tmp_path / "kept").write_text("old")
    with pytest.raises(
        OSError, match=r"kept cannot be written \(.*\): make room there or name another place, then run"
    ):
        write(tmp_path / "kept", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    for name in ("old", "new"):
        write_folder(tmp_path / "made", lambda folder, name=name: (folder / name).write_text(name))
        assert [path.name for path in (tmp_path / "made").iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def flipped(path, bit) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_flipped_bit_of_a_table_or_of_sealed_json_is_noticed(tmp_path):
    table = pd.DataFrame({"score": np.random.default_rng(0).random(500)})
    write_parquet(tmp_path / "table.parquet", table)
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "table.parquet"), table)
    flipped(tmp_path / "table.parquet", 8 * 2000)
    with pytest.raises(ValueError, match=r"table\.parquet is damaged, or no Parquet file: remove it"):
        read_parquet(tmp_path / "table.parquet")
    (tmp_path / "about.json").write_text(json.dumps(with_seal({"steps": 40})))
    assert read_sealed(tmp_path / "about.json") == {"steps": 40}
    (tmp_path / "about.json").write_text((tmp_path / "about.json").read_text().replace("40", "41"))
    with pytest.raises(ValueError, match=r"about\.json is damaged \(it does not say what was written\): remove it"):
        read_sealed(tmp_path / "about.json")
    (tmp_path / "about.json").write_text('{"steps": 41}')  # as earlier versions wrote it
    assert read_sealed(tmp_path / "about.json") == {"steps": 41}
