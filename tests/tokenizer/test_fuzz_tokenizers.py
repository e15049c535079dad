"""Files of every kind of tokenizer, spoiled at random: each works or is refused in one sentence.

They are read in a process of its own. A library in C++ or Rust may end it, and memory is limited.
This file imports no torch at its head: those processes import it too.
"""

import base64
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
from spoiling import cut_out, cut_short, flip_bits

from llama_edu.tokenizer import BytePairs, RebuiltSentencePiece, load, tiktoken_bpe
from llama_edu.tokenizer.gguf import reader

N_RANKS = 300           # in place of Llama 3's 128,000
SECONDS = 2             # of one core, for one file
GROWTH = 256            # MiB, for all files of a kind
TEXTS = ("", "a llama <s> and</s> ", "Süße 日本語 🦙\0\t\r\n\u2028 ▁é́ ½ 123456", " " * 300,
         "a" * 1000, "".join(map(chr, range(1, 700))))

# -- files that are sound ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder for each kind, with the files that belong together."""
    from folders import bytes_tokenizer, save_tokenizer, spaces_tokenizer
    from gguf_files import two_files

    home = tmp_path_factory.mktemp("sound")
    for name in ("sentencepiece", "ranks", "tekken", "gguf-bytes", "gguf-spaces"):
        (home / name).mkdir()
    save_sentencepiece(home / "sentencepiece" / "tokenizer")
    words = BytePairs.train("a llama and another llama " + "".join(map(chr, range(256, 400))),
                            n_vocab=N_RANKS + 2, special=["<|x|>", "<|y|>"], pattern=r"\S+|\s+")
    words.save(home / "ranks" / "tokenizer.model")
    (home / "tekken" / "tekken.json").write_text(json.dumps(tekken(words)))
    save_tokenizer(bytes_tokenizer(), home / "json-bytes")
    save_tokenizer(spaces_tokenizer(), home / "json-spaces")
    for name, content in zip(("gguf-bytes", "gguf-spaces"), two_files(tmp_path_factory),
                             strict=True):
        (home / name / "model.gguf").write_bytes(content)
    return home


def save_sentencepiece(prefix: Path) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a llama and another llama ½ ﬁ"] * 5), model_prefix=str(prefix),
        model_type="bpe", vocab_size=290, byte_fallback=True, hard_vocab_limit=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=9)
    prefix.with_suffix(".vocab").unlink()
    n = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model").get_piece_size()
    (prefix.parent / "added_tokens.json").write_text(json.dumps({"<pad>": n, "<more>": n + 1}))
    (prefix.parent / "tokenizer_config.json").write_text('{"add_bos_token": true}')


def tekken(words: BytePairs) -> dict:
    rows = [{"rank": i, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for i, piece in enumerate(words.ranks)]
    return {"config": {"pattern": tiktoken_bpe.TEKKEN_PATTERN, "num_vocab_tokens": len(rows),
                       "default_vocab_size": N_RANKS + 3, "default_num_special_tokens": 5,
                       "version": "v3"}, "vocab": rows,
            "special_tokens": [{"rank": 3, "token_str": "[INST]", "is_control": True}]}


# -- ways to spoil them ------------------------------------------------------------------------


def insert(content: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(content))
    content[at:at] = dice.choice((dice.randbytes(8), b"\xff" * 12, b"\0" * 8, b"[" * 5000,
                                  b"9" * 400, b'"', b"\n", b"e999"))


def double(content: bytearray, dice: random.Random) -> None:
    begin = dice.randrange(len(content))
    part = content[begin : begin + dice.choice((1, 20, 500))]
    content[begin:begin] = part * dice.choice((1, 1, 50))


def near_the_end(content: bytearray, dice: random.Random) -> None:
    """Where the settings of a SentencePiece model are."""
    for _ in range(dice.choice((1, 2, 5))):
        content[-dice.randint(1, min(200, len(content)))] = dice.randrange(256)


WAYS = (flip_bits, cut_short, cut_out, insert, double, near_the_end)
SLOW = "(?:a+)+b"
STRANGE = (0, -1, 1, 2, 255, 2**31, 2**32 - 1, 2**63, 10**30, 0.5, 1e308, float("nan"), True, None,
           "", "a", "<s>", "\0", "▁" * 40, SLOW, "(a)", "(", "ByteLevel", "BPE", "x" * 2000, [], {},
           ["a"], {"content": "<s>"}, [[]] * 3)


def change_json(content: bytes, dice: random.Random, strange: tuple) -> bytes:
    """One to three values, deep or high up: gone, doubled, or of another kind."""
    fields = json.loads(content)
    for _ in range(dice.choice((1, 1, 3))):
        branch = fields         # go down by level, or the thousand pieces take every hit
        while True:
            key = dice.choice(list(branch) if type(branch) is dict else range(len(branch)))
            child = branch[key]
            if type(child) not in (dict, list) or not child or dice.random() < 0.15:
                break
            branch = child
        way = dice.random()
        if way < 0.15 and len(branch) > 1:
            del branch[key]
        elif way < 0.3:
            branch[key] = [child] * dice.choice((2, 60))
        else:
            branch[key] = deepcopy(dice.choice(strange))
    return json.dumps(fields).encode()


def change_field(fields: dict, dice: random.Random) -> dict:
    """Fields as a GGUF file can have them: a scalar, or a list all of one kind."""
    fields = {name: list(value) if type(value) is list else value for name, value in fields.items()}
    name = dice.choice([name for name in fields if name.startswith("tokenizer.")])
    value = fields[name]
    kinds = {str: ("", "a", "<s>", "\0", "a b", "▁" * 40, "x" * 2000, "<0x0G>", "gpt2"),
             int: (-1, 0, 1, 6, 7, 2**31, 2**63), float: (float("nan"), float("inf"), -1e30, 0.5),
             bool: (True, False)}
    if type(value) is list and value and dice.random() < 0.6:
        for _ in range(dice.choice((1, 1, 50))):
            value[dice.randrange(len(value))] = dice.choice(kinds[type(value[0])])
        return fields
    if type(value) is list and dice.random() < 0.6:
        fields[name] = dice.choice((value[:-1], value[:3], value * 2, value + value[:1], []))
    elif dice.random() < 0.3:
        del fields[name]
    else:
        options = kinds[dice.choice(list(kinds))]
        fields[name] = dice.choice((*options, list(options)))
    return fields


def spoil(folder: Path, files: dict[str, bytes], dice: random.Random) -> None:
    """Write the files again, and then change one of them, mostly the first: the vocabulary."""
    main, *others = files
    chosen = dice.choice((main, main, main, *others))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if chosen.endswith(".json") and dice.random() < 0.7:
        # A pattern that BytePairs.save noted is the reader's own: it may take its time.
        noted = chosen.endswith(".model.json")
        spoiled = change_json(files[chosen], dice, tuple(
            value for value in STRANGE if not (noted and value == SLOW)))
    else:
        header = files[chosen][: 20_000]        # of a GGUF file: weights take most blind hits
        spoiled = bytearray(header)
        dice.choice(WAYS)(spoiled, dice)
        spoiled += files[chosen][20_000:]
    (folder / chosen).write_bytes(spoiled)


# -- what becomes of them ----------------------------------------------------------------------


def works(words) -> None:
    """Encode and decode what is hard to. Any error but ours comes through."""
    ends = dict(bos=words.bos_id is not None, eos=words.eos_id is not None)
    special = [*words.special][:3] + [*words.special][-2:]
    for text in (*TEXTS, " ".join(special)):
        ids = words.encode(text, **ends, allow_special=special)
        assert all(0 <= i < words.n_vocab for i in ids)
        assert type(words.decode(ids)) is type(words.decode(ids, special=True)) is str
        assert all(type(piece) is str for piece in words.pieces(text))


def outcome(read, *given) -> str:
    """"works" or "refused". An error that is not ours, or says too much, comes through."""
    try:
        works(read(*given))
    except ValueError as error:
        if type(error) is not ValueError or len(str(error)) > 1000 or "\n" in str(error):
            raise RuntimeError("not one of our errors") from error
        return "refused"
    return "works"


BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
          "tokenizer.model.json")
READERS = {"sentencepiece": [load, RebuiltSentencePiece.read], "ranks": [load, BytePairs.load]}


def fuzz(kind: str, sound: Path, folder: Path, n: int, seed: int) -> dict[str, float]:
    """Spoil and try a file n times; how often each thing happened, and the slowest's seconds."""
    tiktoken_bpe.N_RANKS = N_RANKS
    dice, counts, slowest = random.Random(seed), Counter(), 0.0
    files = {file.name: file.read_bytes() for file in sorted((sound / kind).iterdir())}
    files = {name: files[name] for name in sorted(files, key=BESIDE.__contains__)}
    file, read_header = folder / next(iter(files)), reader.read_header
    for number in range(n):
        print(number, file=sys.stderr, flush=True)      # a crash tells which it was
        began = time.process_time()
        if kind.startswith("gguf") and number % 3:
            fields = change_field(read_header(sound / kind / file.name).fields, dice)
            reader.read_header = lambda _, fields=fields: SimpleNamespace(fields=fields)
            counts[outcome(reader.read, file)] += 1
            reader.read_header = read_header
        else:
            spoil(folder, files, dice)
            for read in READERS.get(kind, [load]):
                counts[outcome(read, file)] += 1
        slowest = max(slowest, time.process_time() - began)
    return {"works": counts["works"], "refused": counts["refused"], "slowest": slowest}


CODE = """
import json, resource, sys; from pathlib import Path; sys.path.append('tokenizer')
import test_fuzz_tokenizers as t
kind, sound, folder, n = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
t.fuzz(kind, sound, folder, 2, seed=1)
if sys.platform == 'linux':
    size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, -1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counts = t.fuzz(kind, sound, folder, n, seed=0)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps(counts | {'grown': grown // (2**20 if sys.platform == 'darwin' else 1024)}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits and measures no memory so")
@pytest.mark.parametrize(("kind", "n"), [
    ("sentencepiece", 400), ("ranks", 400), ("tekken", 400), ("json-bytes", 600),
    ("json-spaces", 600), ("gguf-bytes", 400), ("gguf-spaces", 400)])
def test_no_spoiled_file_does_anything_but_work_or_be_refused(kind, n, sound, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", CODE, kind, str(sound), str(tmp_path), str(n)], check=False,
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
        env=os.environ | {"RUST_BACKTRACE": "0", "PYTHONPATH": str(Path(__file__).parents[2])})
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    tries = n * len(READERS.get(kind, [load]))
    assert found["works"] + found["refused"] == tries
    assert found["slowest"] < SECONDS
    assert found["grown"] < GROWTH
    # The tests of the tests: spoiling does something, and not always the same.
    assert found["works"] > tries / 50
    assert found["refused"] > tries / 4
