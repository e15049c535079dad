"""Folders in Meta's format, spoiled at random: each loads finite weights or is refused by us."""

import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from meta_folders import FIRST, SECOND, write_sound
from spoiling import cut_out, cut_short, flip_bits

from llama_edu.formats import meta
from llama_edu.formats.meta_params import BESIDE, PARAMS


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_sound(tmp_path_factory.mktemp("sound"))


def overwrite(content: bytearray, dice: random.Random) -> None:
    begin = dice.randrange(len(content))
    some = dice.choice((dice.randbytes(8), b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 2**62)))
    content[begin:begin + 8] = some[:len(content[begin:begin + 8])]


def in_the_pickle(content: bytearray, dice: random.Random) -> None:
    """Where the header is: weights, which are most of a file, take most blind hits."""
    begin, end = content.index(b"\x80\x02"), content.index(b"PK\x03\x04", 100)
    for _ in range(dice.choice((1, 2, 5))):
        content[dice.randrange(begin, end)] = dice.randrange(256)


def in_the_directory(content: bytearray, dice: random.Random) -> None:
    begin = max(0, content.find(b"PK\x01\x02"))
    for _ in range(dice.choice((1, 2, 5))):
        content[dice.randrange(begin, len(content))] = dice.randrange(256)


WAYS = (flip_bits, cut_short, cut_out, overwrite, in_the_pickle, in_the_directory)
STRANGE = (0, -1, 1, 2, 3, 16, 2**31, 2**63, 10**30, 0.5, 1e-5, 1e308, True, None, "", "16", [], {})


def change_a_number(file: Path, dice: random.Random) -> None:
    fields = json.loads(file.read_text())
    name = dice.choice([*fields, "new"])
    fields[name] = dice.choice(STRANGE)
    if dice.random() < 0.2:
        del fields[dice.choice(list(fields))]
    file.write_text(json.dumps(fields))


def spoil(folder: Path, sound: Path, dice: random.Random) -> None:
    """Make a folder sound again, and then change one or two of its files."""
    for file in sound.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    chosen = dice.sample([PARAMS, BESIDE, FIRST, SECOND], counts=[2, 1, 3, 3],
                         k=dice.choice((1, 1, 2)))
    for name in sorted(set(chosen)):
        file, is_json = folder / name, name.endswith(".json")
        if is_json and dice.random() < 0.6:
            change_a_number(file, dice)
        else:
            content = bytearray(file.read_bytes())
            dice.choice(WAYS[:4] if is_json else WAYS)(content, dice)
            file.write_bytes(content)


def tried(folder: Path) -> str:
    """What became of a folder: "read", or the kind of our error. Other errors come through."""
    try:
        source = meta.open_folder(folder)
        weights = {name: stored.read() for name, stored in source.tensors.items()}
    except (ValueError, KeyError) as error:
        if type(error) not in (ValueError, KeyError) or len(error.args[0]) > 1000:
            raise RuntimeError("not one of our errors") from error
        return type(error).__name__
    for name, w in weights.items():
        assert w.isfinite().all()
        assert (tuple(w.shape), w.dtype) == (source.tensors[name].shape, torch.float32)
        assert w.numel() < 10_000
    return "read"


FUZZED, LIMITED = 1000, 200


def fuzz(sound: Path, folder: Path, n: int, seed: int) -> dict[str, int]:
    """Spoil and try a folder n times; how often each thing happened."""
    dice, counts = random.Random(seed), {"read": 0, "ValueError": 0, "KeyError": 0}
    for _ in range(n):
        spoil(folder, sound, dice)
        counts[tried(folder)] += 1
    return counts


def test_no_spoiled_folder_does_anything_but_load_or_be_refused(sound, tmp_path):
    counts = fuzz(sound, tmp_path, FUZZED, seed=0)
    assert sum(counts.values()) == FUZZED
    # The tests of the tests: spoiling does something, and not always the same.
    assert counts["ValueError"] > FUZZED / 2
    assert counts["read"] > FUZZED / 20
    assert counts["KeyError"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_spoiled_folders_ask_for_no_memory(sound, tmp_path):
    """A process that may take 1 GiB more than it has: whoever asks for more fails loudly."""
    code = (
        "import resource, sys, torch; from pathlib import Path; sys.path.append('formats');"
        "import test_fuzz_meta as t;"
        "from llama_edu.formats import meta; meta.open_folder(Path(sys.argv[1]));"
        "size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, -1));"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"counts = t.fuzz(Path(sys.argv[1]), Path(sys.argv[2]), {LIMITED}, seed=1);"
        "print(sum(counts.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    run = subprocess.run([sys.executable, "-c", code, str(sound), str(tmp_path)], check=False,
                         capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert run.returncode == 0, run.stderr[-2000:]
    n, grown = map(int, run.stdout.split())
    assert n == LIMITED
    assert grown < 100_000      # KiB; the folder has 20
