"""Killed at any moment, a run ends with the weights of one that was never killed."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from recipes import TINY

from llama_edu.formats.whole_files import PART, write_whole
from llama_edu.training import state as training_state

KILLS = 10
needs_kill = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor "
                                                                "SIGKILL")


MOMENTS = [("step-00000002.state", "half"), ("step-00000006.state", "half"),
           ("step-00000006.state", "before"), ("step-00000006.state", "after"),
           ("step-00000024.state", "after"), ("model.safetensors", "half"),
           ("config.json", "before")]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder in which `killing.py` trained and killed, on one thread, and what it saw."""
    folder = tmp_path_factory.mktemp("killed")
    path = folder / "recipe.toml"
    path.write_text(TINY.replace("steps = 12", "steps = 24"), encoding="utf-8")
    script = Path(__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path), str(folder), str(KILLS), json.dumps(MOMENTS)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def same(a, b):
    """Whether two checkpoints hold the same bits, whatever they are nested in."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def content(file):
    """What a checkpoint holds, past its two lines of head."""
    return torch.load(io.BytesIO(file.read_bytes().split(b"\n", 2)[2]), weights_only=True)


def curve(folder):
    with (folder / "metrics.csv").open(encoding="utf-8") as opened:
        return [{name: value for name, value in row.items() if name != "seconds"}
                for row in csv.DictReader(opened)]


def assert_same_run(folder, whole):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (folder / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    ours, theirs = (sorted((each / "checkpoints").glob("*.state")) for each in (folder, whole))
    assert [file.name for file in ours] == [file.name for file in theirs] == [
        "step-00000022.state", "step-00000024.state"]
    for a, b in zip(ours, theirs, strict=True):
        assert same(content(a), content(b))
    assert curve(folder) == curve(whole)
    assert [int(row["index"]) for row in curve(folder)] == [*range(24)]


@needs_kill
def test_ten_kills_at_random_moments_change_nothing(killed):
    folder, seen = killed
    assert seen["random"]["kills"] == KILLS
    runs = sorted(folder.glob("killed-*"))
    assert len(runs) == seen["random"]["runs"] >= 1
    for run in runs:
        assert_same_run(run, folder / "whole")


@needs_kill
@pytest.mark.parametrize(("name", "moment"), MOMENTS)
def test_a_kill_while_a_file_is_being_written_changes_nothing(killed, name, moment):
    folder, seen = killed
    left = [f"{name}{PART}"] if moment != "after" else []
    assert seen[f"{name} {moment}"] == {"killed": True, "half_written": left}
    number = str(MOMENTS.index((name, moment)))
    assert_same_run(folder / number / "killed", folder / "whole")


# -- one checkpoint ----------------------------------------------------------------------------


@pytest.fixture
def trained():
    """A small model and its optimiser after three steps."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.fixture
def folder(tmp_path, trained):
    """Checkpoints of steps 1 to 3, of which two are kept."""
    for step in (1, 2, 3):
        training_state.save(tmp_path, step, *trained, run="a")
    return tmp_path


def test_the_last_two_are_kept(folder):
    assert [file.name for file in training_state.files(folder)] == [
        "step-00000002.state", "step-00000003.state"]
    assert list(folder.glob("*.part")) == []


def test_weights_moments_step_and_random_numbers_come_back(folder, trained):
    model, optimizer = trained
    file = training_state.save(folder, 7, model, optimizer, run="a")
    numbers = torch.rand(3)
    other = torch.nn.Linear(4, 4)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.5)
    state = training_state.load(file, run="a")
    state.restore(other, fresh)
    assert state.step == 7
    assert torch.equal(torch.rand(3), numbers)
    assert same(other.state_dict(), model.state_dict())
    assert same(fresh.state_dict(), optimizer.state_dict())
    assert fresh.param_groups[0]["lr"] == 0.1


def test_an_empty_folder_and_a_missing_one_have_no_checkpoint(tmp_path):
    assert training_state.newest(tmp_path, run="a") == (None, [])
    assert training_state.newest(tmp_path / "nowhere", run="a") == (None, [])


def last(folder):
    return folder / "step-00000003.state"


SPOILED = {
    "torn": (lambda b: b[:len(b) // 2], "is damaged or cut short; .* do not have the checksum"),
    "one byte short": (lambda b: b[:-1], "is damaged or cut short"),
    "one bit flipped": (lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], "is damaged or cut short"),
    "cut in its first line": (lambda b: b[:11], "is no checkpoint of this package"),
    "empty": (lambda b: b"", "is no checkpoint of this package"),
    "foreign": (lambda b: b"PK\x03\x04" + b, "is no checkpoint of this package; it begins with"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_checkpoint_is_refused_by_name_and_the_one_before_it_used(folder, kind):
    spoil, message = SPOILED[kind]
    last(folder).write_bytes(spoil(last(folder).read_bytes()))
    with pytest.raises(ValueError, match=f"step-00000003.state {message}"):
        training_state.load(last(folder), run="a")
    state, refused = training_state.newest(folder, run="a")
    assert state.step == 2
    assert len(refused) == 1
    assert "step-00000003.state" in refused[0]


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def twins():
    """Forty pairs, each of twice the one before: a terabyte once it is spelled out."""
    pair = (1.5, "x")
    for _ in range(40):
        pair = (pair, pair)
    return pair


def liar(shape, strides=(1,)):
    """A tensor that claims more than its sixteen numbers."""
    return Calls(torch._utils._rebuild_tensor_v2, torch.ones(16)._typed_storage(), 0, shape,
                 strides, False, OrderedDict())


one = torch.ones(4)
FOREIGN = {
    "runs code": {"model": Calls(os.system, "exit 1")},
    "a terabyte": {"model": {"w": Calls(bytearray, 10**12)}},
    "a terabyte of sizes": {"model": {"w": Calls(torch.Size, [10**12])}},
    "pairs of pairs": {"step": twins()},
    "beyond its bytes": {"model": {"w": liar((10**6,))}},
    "one number a trillion times": {"model": {"w": torch.ones(1).expand(2**40)}},
    "one tensor twice": {"model": {"w": one, "v": one.view(2, 2)}},
    "an unknown kind": {"model": {"w": torch.ones(3).to_sparse()}},
    "no field of ours": {"more": 1},
    "another step": {"step": 3.0}, "a step below zero": {"step": -3}, "no name": {"run": 7},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_pickle_of_anything_else_is_refused_and_the_checkpoint_before_it_used(
        folder, trained, kind):
    """The checksum is right, so nothing but this package stands between it and the machine."""
    model, optimizer = trained
    sound = {"step": 3, "run": "a", "model": model.state_dict(),
             "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    sealed(last(folder), sound)
    assert training_state.load(last(folder), run="a").step == 3
    sealed(last(folder), sound | FOREIGN[kind])
    state, refused = training_state.newest(folder, run="a")
    assert state.step == 2
    assert "step-00000003.state holds more than numbers" in refused[0]
    assert "\n" not in refused[0]


def sealed(file, table):
    opened = io.BytesIO()
    torch.save(table, opened)
    digest = hashlib.sha256(opened.getvalue()).hexdigest().encode()
    file.write_bytes(training_state.KIND + digest + b"\n" + opened.getvalue())


def test_a_state_of_another_model_is_refused_in_one_sentence(folder):
    other = torch.nn.Linear(5, 4)
    state = training_state.load(last(folder), run="a")
    with pytest.raises(ValueError, match="the checkpoint of step 3 does not fit this model and it"):
        state.restore(other, torch.optim.AdamW(other.parameters()))


def test_a_folder_in_the_place_of_a_checkpoint_is_refused(folder):
    last(folder).unlink()
    last(folder).mkdir()
    state, refused = training_state.newest(folder, run="a")
    assert state.step == 2
    assert "step-00000003.state cannot be read" in refused[0]


def test_a_checkpoint_of_another_run_is_refused_and_the_one_before_it_used(folder, trained):
    training_state.save(folder, 3, *trained, run="b")
    state, refused = training_state.newest(folder, run="a")
    assert state.step == 2
    assert "step-00000003.state was written for another recipe or another text" in refused[0]


def test_a_checkpoint_under_another_name_is_refused(folder):
    last(folder).rename(folder / "step-00000009.state")
    state, refused = training_state.newest(folder, run="a")
    assert state.step == 2
    assert "step-00000009.state holds step 3; its name says another" in refused[0]


def test_where_no_checkpoint_can_be_used_nothing_is_begun_again(folder):
    for file in training_state.files(folder):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="none of the 2 checkpoints in .* can be used. The newest: "
                                         ".*step-00000003.state .* remove the folder"):
        training_state.newest(folder, run="a")


# -- whole files -------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "x"
    write_whole(file, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"x cannot be written \(No space left on device\); a "
                                         "folder that you may write in"):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old"


def test_folders_are_made_on_the_way_and_a_file_in_the_way_is_named(tmp_path):
    write_whole(tmp_path / "a" / "b" / "c", b"1")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"1"
    with pytest.raises(ValueError, match="cannot be written"):
        write_whole(tmp_path / "a" / "b" / "c" / "d", b"1")
