"""Training and encoding next to the libraries, interleaved in one run on one thread each.

Every figure is a median. Times are the process's CPU time: a busy machine stretches the clock on
the wall, and each of these uses one thread. The table shows both.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"      # read when the library is first used
os.environ["RAYON_NUM_THREADS"] = "1"

import random
import statistics
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer

from llama_edu import tokenizer
from llama_edu.data import samples
from llama_edu.tokenizer import BytePairs, RebuiltSentencePiece, Tokenizer, installed
from llama_edu.tokenizer.bpe import LLAMA3_PATTERN, count_chunks, grow, split

N_MERGES = 4096
N_BYTES = 5_000_000
ROUNDS = 5


def run() -> Iterator[str]:
    """The lines of the report."""
    text = training_text()
    yield f"Training {N_MERGES:,} merges on {len(text.encode()) / 1e6:.2f} MB, {ROUNDS} rounds."
    yield ""
    yield from training_table(text)
    yield ""
    yield "Encoding the same text, cut into passages; MB/s by the length of a passage."
    yield ""
    yield from encoding_table(text)
    yield ""
    yield "Tokens per character (sentences of `llama_edu/data`, beginning of text not counted)."
    yield ""
    yield from fertility_table()


def training_text() -> str:
    """Four fifths Python's own sources, one fifth our sentences in random order; 5 MB."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    code = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    draw, lines = random.Random(0), sum(samples.parallel().values(), ())
    prose = "\n".join(draw.choices(lines, k=20_000)).encode()
    code = code.encode()[: N_BYTES * 4 // 5]
    return (code + prose)[:N_BYTES].decode(errors="ignore")


def rust_trainer(texts: list[str], n_merges: int) -> RustTokenizer:
    """Hugging Face `tokenizers`, made to do the same: Llama 3's pattern, bytes, no specials."""
    inner = RustTokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=256 + n_merges, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return inner


def merges_by_counting_anew(chunks: dict[bytes, int], n: int) -> None:
    """The definition: count all pairs, merge one, count all pairs again."""
    words = [(list(chunk), count) for chunk, count in chunks.items()]
    for new in range(256, 256 + n):
        counts: Counter = Counter()
        for tokens, count in words:
            for pair in pairwise(tokens):
                counts[pair] += count
        pair = min(counts.items(), key=lambda item: (-item[1], item[0]))[0]
        for tokens, _ in words:
            i = 0
            while i < len(tokens) - 1:
                if (tokens[i], tokens[i + 1]) == pair:
                    tokens[i : i + 2] = [new]
                i += 1


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the process and seconds on the wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def interleaved(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list]:
    """Run all of them in turn, several times; noise then falls on all alike."""
    times: dict[str, list] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(timed(work))
    return times


def training_table(text: str) -> Iterator[str]:
    """Ours, the parts of it, the Rust trainer, and the definition."""
    chunks, lines, n_counted = count_chunks(text), text.splitlines(keepends=True), 8
    ours, rust = "llama_edu, text to vocabulary", "tokenizers (Rust), text to vocabulary"
    times = interleaved({
        ours: lambda: BytePairs.train(text, n_vocab=256 + N_MERGES),
        rust: lambda: rust_trainer([text], N_MERGES),
        "  of ours: cutting into chunks": lambda: split(text),
        "  of ours: merging": lambda: list(islice(grow(chunks), N_MERGES)),
        "  of the Rust trainer: all but the merges": lambda: rust_trainer([text], 0),
        "  the Rust trainer given line by line": lambda: rust_trainer(lines, N_MERGES),
    }, ROUNDS)
    anew = [(cpu * N_MERGES / n_counted, wall * N_MERGES / n_counted) for cpu, wall in
            interleaved({"": lambda: merges_by_counting_anew(chunks, n_counted)}, 1)[""]]
    times[f"  counting anew, from {n_counted} merges: merging"] = anew
    base = times[rust]
    yield "| | CPU s | wall s | CPU, times the Rust trainer |"
    yield "|---|--:|--:|--:|"
    for name, pairs in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a[0] / b[0] for a, b in zip(pairs, base, strict=False))
        yield f"| {name} | {cpu:.2f} | {wall:.2f} | {ratio:.2f} |"
    worst = max(a[0] / b[0] for a, b in zip(times[ours], base, strict=True))
    threads = max(cpu / wall for cpu, wall in base)
    yield ""
    yield f"Slowest round of ours: {worst:.2f} times. Threads of the Rust trainer: {threads:.2f}."


def encoding_table(text: str) -> Iterator[str]:
    """Megabytes a second, the libraries on passages of every length, the rebuilt ones on one."""
    llama3, spm = installed.path("llama3"), installed.path("sentencepiece_32k")
    libraries = {"tiktoken, Llama 3's 128k": tokenizer.load(llama3),
                 "sentencepiece, 32k": tokenizer.load(spm)}
    rebuilt = {"rebuilt tiktoken, Llama 3's 128k": BytePairs.load(llama3),
               "rebuilt sentencepiece, 32k": RebuiltSentencePiece.read(spm)}
    lengths = (200, 2_000, 20_000, 200_000, 1_000_000)
    part = text[-1_000_000:]        # code, then all languages
    speeds = {size: encoding_speeds(libraries, part, size) for size in lengths}
    speeds[2_000] |= encoding_speeds(rebuilt, part, 2_000)
    yield "| characters | " + " | ".join(f"{size:,}" for size in lengths) + " |"
    yield "|---" + "|--:" * len(lengths) + "|"
    for name in libraries | rebuilt:
        row = (speeds[size].get(name) for size in lengths)
        yield f"| {name} | " + " | ".join(f"{x:.2f}" if x else "" for x in row) + " |"


def encoding_speeds(words: dict[str, Tokenizer], text: str, size: int) -> dict[str, float]:
    """Megabytes a second on passages of this many characters."""
    passages = [text[i : i + size] for i in range(0, len(text), size)]
    times = interleaved({name: lambda w=w: [w.encode(p, bos=False, eos=False) for p in passages]
                         for name, w in words.items()}, 3)
    n_bytes = len(text.encode())
    return {name: n_bytes / 1e6 / statistics.median(cpu for cpu, _ in pairs)
            for name, pairs in times.items()}


def fertility_table() -> Iterator[str]:
    """Tokens per character for every language and sample, in both families."""
    small = tokenizer.load(installed.path("sentencepiece_32k"))
    large = tokenizer.load(installed.path("llama3"))
    texts = {name: "\n".join(lines) for name, lines in samples.parallel().items()}
    texts |= {name: samples.sample(name) for name in samples.SAMPLES}
    yield "| text | characters | SentencePiece 32k | Llama 3 128k | fewer |"
    yield "|---|--:|--:|--:|--:|"
    for name, text in texts.items():
        a, b = (len(w.encode(text, bos=False, eos=False)) for w in (small, large))
        yield (f"| {name} | {len(text):,} | {a / len(text):.3f} | {b / len(text):.3f} | "
               f"{1 - b / a:.1%} |")
