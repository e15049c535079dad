"""`llama-edu start DIR`: a folder of the reader's own, which no newer edition overwrites."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from learner import right

from llama_edu.cli import main
from llama_edu.exercises import check, records, working_folder

ROOT = Path(__file__).parents[2]
NAME = "01_rmsnorm.ipynb"


@pytest.fixture
def edition(monkeypatch):
    """What the course has, as a dictionary that a test may change."""
    held = working_folder.chapters()
    monkeypatch.setattr(working_folder, "chapters", lambda: held)
    return held


def newer(edition, *names):
    for name in names:
        notebook = json.loads(edition[name])
        notebook["cells"][0]["source"] = "# A newer edition"
        edition[name] = json.dumps(notebook).encode()


def work(file, text="x = 1"):
    """What a reader types into a cell, and what Jupyter then writes."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    notebook["cells"].append({"cell_type": "code", "source": [text], "metadata": {},
                              "outputs": [], "execution_count": 1, "id": "of-mine"})
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.13.0"}
    file.write_text(json.dumps(notebook), encoding="utf-8")


def test_all_chapters_and_a_note_are_there(tmp_path, capsys):
    assert main(["start", str(tmp_path / "mine")]) == 0
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    chapters = {path.name for path in (ROOT / "chapters").glob("*.ipynb")}
    assert names == chapters | {"README.md", records.STARTED}
    assert str(ROOT / "solutions") in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    for path in (tmp_path / "mine").glob("*.ipynb"):
        assert "../solutions" not in path.read_text(encoding="utf-8")
    assert f"new: {min(chapters)}" in capsys.readouterr().out


def test_a_second_start_changes_nothing(tmp_path, capsys):
    working_folder.start(tmp_path)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()
              if path.name != records.STARTED}
    said = str(working_folder.start(tmp_path))
    assert "All chapters are of the newest edition" in said
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before


def test_what_was_not_touched_is_replaced_and_what_was_lies_beside(tmp_path, edition):
    working_folder.start(tmp_path)
    work(tmp_path / NAME)
    mine = (tmp_path / NAME).read_bytes()
    newer(edition, NAME, "02_rope.ipynb")
    done = working_folder.start(tmp_path)
    assert done.replaced == ("02_rope.ipynb",)
    assert done.beside == {NAME: "01_rmsnorm.new.ipynb"}
    assert (tmp_path / NAME).read_bytes() == mine
    assert (tmp_path / "01_rmsnorm.new.ipynb").read_bytes() == edition[NAME]
    assert "is beside yours, as 01_rmsnorm.new.ipynb" in str(done)
    again = working_folder.start(tmp_path)
    assert (again.replaced, again.beside, again.kept) == ((), {}, (NAME,))


def test_a_newer_edition_that_was_worked_on_is_kept_too(tmp_path, edition):
    working_folder.start(tmp_path)
    work(tmp_path / NAME)
    newer(edition, NAME)
    working_folder.start(tmp_path)
    work(tmp_path / "01_rmsnorm.new.ipynb", "y = 2")
    kept = (tmp_path / "01_rmsnorm.new.ipynb").read_bytes()
    edition[NAME] = edition[NAME].replace(b"A newer edition", b"A newest edition")
    assert working_folder.start(tmp_path).beside == {NAME: "01_rmsnorm.new2.ipynb"}
    assert (tmp_path / "01_rmsnorm.new.ipynb").read_bytes() == kept


def test_running_a_chapter_is_no_change_of_it(tmp_path, edition):
    working_folder.start(tmp_path)
    work(tmp_path / NAME, "")               # JupyterLab adds an empty cell, and its metadata
    newer(edition, NAME)
    assert working_folder.start(tmp_path).replaced == (NAME,)


def test_a_chapter_that_is_new_or_was_removed_is_put_there(tmp_path, edition):
    late = edition.pop("09_real_weights.ipynb")
    working_folder.start(tmp_path)
    (tmp_path / NAME).unlink()
    edition["09_real_weights.ipynb"] = late
    assert working_folder.start(tmp_path).new == (NAME, "09_real_weights.ipynb")


def test_without_the_digests_nothing_is_overwritten(tmp_path, edition):
    working_folder.start(tmp_path)
    work(tmp_path / NAME)
    mine = (tmp_path / NAME).read_bytes()
    (tmp_path / records.STARTED).write_text("[1", encoding="utf-8")
    working_folder.start(tmp_path)
    assert (tmp_path / NAME).read_bytes() == mine


@pytest.mark.parametrize("place", [".", "chapters", "solutions/mine", "llama_edu"])
def test_the_courses_own_folders_are_refused(capsys, place):
    assert main(["start", str(ROOT / place)]) == 2
    assert "a folder of your own is needed" in capsys.readouterr().err


def test_a_file_in_the_way(tmp_path, capsys):
    (tmp_path / "taken").touch()
    assert main(["start", str(tmp_path / "taken")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_check_and_progress_agree_on_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.yml").touch()         # a repository around it does not count
    working_folder.start(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    assert check("1.1", right).passed
    assert (tmp_path / "mine" / records.FILE).is_file()
    assert main(["progress"]) == 0
    out = capsys.readouterr().out
    assert "1 of " in out
    assert out.endswith(f"read from {tmp_path / 'mine' / records.FILE}\n")


def test_an_install_has_every_file_and_the_chapters(tmp_path):
    """A wheel is built, unpacked as pip does, and used without the repository."""
    built = subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation",
                            "--no-deps", "--no-index", "-w", str(tmp_path), copied(tmp_path)],
                           capture_output=True, text=True, check=False)
    if "No module named" in built.stderr or "setuptools" in built.stderr:
        pytest.skip("there is no setuptools here that builds a wheel")
    assert built.returncode == 0, built.stderr
    packages = tmp_path / "env" / "lib" / "python" / "site-packages"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    source = tmp_path / "source"
    ours = {file.relative_to(source) for file in (source / "llama_edu").rglob("*.*")}
    assert len(ours) > 200
    assert [file for file in ours if not (packages / file).exists()] == []
    data = next(packages.glob("*.data")) / "data"
    (data / "share").rename(tmp_path / "env" / "share")
    done = subprocess.run([sys.executable, "-m", "llama_edu", "start", "mine"], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(packages)}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "mine").glob("*.ipynb")} == {
        path.name for path in (ROOT / "chapters").glob("*.ipynb")}
    assert "that you installed from" in (tmp_path / "mine" / "README.md").read_text()


def copied(tmp_path):
    """What a wheel is made of, elsewhere: a build leaves folders behind."""
    import shutil
    place = tmp_path / "source"
    for name in ("llama_edu", "chapters"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / name)
    return str(place)
