"""Files and folders appear whole, under their own name, and for one writer at a time."""

import os

import pytest

from llama_edu.formats.whole_files import PART, whole_file, whole_folder, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="locks of this kind are POSIX's")


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "new" / "x") as part:
        part.write_bytes(b"half")
        assert not (tmp_path / "new" / "x").exists()
    assert (tmp_path / "new" / "x").read_bytes() == b"half"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / "x", b"old")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "x") as part:  # noqa: PT012
        part.write_bytes(b"new")
        raise RuntimeError
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"old")]


def test_a_folder_has_its_name_when_it_is_whole(tmp_path):
    (tmp_path / f"x{PART}").mkdir()
    (tmp_path / f"x{PART}" / "left by a kill").write_text("")
    with whole_folder(tmp_path / "x") as part:
        (part / "a").write_text("1")
        assert not (tmp_path / "x").exists()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@posix
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_second_writer_is_refused_and_spoils_nothing(tmp_path, whole):
    with whole(tmp_path / "x") as part:
        mine = part / "a" if whole is whole_folder else part
        mine.write_bytes(b"mine")
        with (pytest.raises(ValueError, match="is being written by another run; one at a time"),
              whole(tmp_path / "x")):
            pass
        assert mine.read_bytes() == b"mine"
    assert (tmp_path / "x").exists()
    assert len(list(tmp_path.iterdir())) == 1
