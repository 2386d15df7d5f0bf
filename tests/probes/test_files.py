"""Files: the old one or the new one, whatever happens in between, and nothing beside them."""

from __future__ import annotations

import pytest

from bridgework.probes.files import remove_partial_files, write_atomically


def test_a_file_is_written_with_its_folder(tmp_path):
    write_atomically(tmp_path / "new" / "file.txt", lambda path: path.write_text(path.name))
    assert (tmp_path / "new" / "file.txt").read_text() == "file.txt"  # what the writer sees has the name's own ending
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]
    assert (tmp_path / "new" / "file.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
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
