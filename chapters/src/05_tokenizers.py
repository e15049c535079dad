# %% [markdown]
# # 05 · Tokenizers: why is 1234 four tokens here and two there?
#
# **The question.** A Llama never sees a letter. It reads numbers, each of which stands for a piece
# of text. Llama 2 cuts `1234` into four pieces, Llama 3 into two, and neither cut is a whim. Who
# decides where a text is cut, and who pays for it?
#
# | you will build | you need | minutes |
# |---|---|---|
# | byte pair encoding, trained and applied; the rules of both families | Python: strings, bytes, dictionaries | 100 |

# %%
import hashlib
import inspect
import io
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path

import regex
import sentencepiece
from tiktoken import encoding_name_for_model
from tiktoken_ext.openai_public import cl100k_base

from llama_edu import claims, plots
from llama_edu.data.samples import LANGUAGES, SAMPLES, parallel, sample
from llama_edu.exercises import check, hint
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import RELEASES, release
from llama_edu.tokenizer import (
    BytePairs,
    RebuiltSentencePiece,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    installed,
)
from llama_edu.tokenizer.base import check_text
from llama_edu.tokenizer.bpe import ALPHABET, grow
from llama_edu.tokenizer.merging import merge_all
from llama_edu.tokenizer.tiktoken_bpe import LLAMA31_SPECIAL
from llama_edu.tokenizer.vocabulary_files import NORMAL

plots.use_style()

# %% [markdown]
# > **Predict.** Sixty short sentences, translated into twelve languages. In Llama 3's vocabulary
# > the English ones make 569 tokens. How many do the Chinese ones make: half as many, about as
# > many, or twice as many? And the Hindi ones?
#
# ## By hand: from a character to bytes
#
# Underneath every text are bytes. Unicode gives each character a number. UTF-8 writes that number
# in one to four bytes: small numbers in one, and the others cut into groups of six bits. The first
# byte says how many follow; each byte that follows begins with the bits `10`.

# %%
HEADS = {2: 0b11000000, 3: 0b11100000, 4: 0b11110000}


def utf8_by_hand(character: str) -> bytes:
    number = ord(character)
    if number < 0x80:
        return bytes([number])
    n = 2 if number < 0x800 else 3 if number < 0x10000 else 4
    groups = [number >> 6 * i & 0b111111 for i in range(n)]     # the lowest six bits first
    groups[-1] |= HEADS[n]
    return bytes([groups[-1], *(0b10000000 | group for group in reversed(groups[:-1]))])


for character in "aé羊🦙":
    print(character, f"number {ord(character):6}  ", *(f"{b:08b}" for b in utf8_by_hand(character)))

# %% [markdown]
# The `x` bits of `1110xxxx 10xxxxxx 10xxxxxx`, read in a row, are the number of 羊. That is all
# there is to UTF-8, and we can check it on every character of our sentences. They come with the
# package: sixty sentences that say the same in twelve languages.

# %%
# NBVAL_CHECK_OUTPUT
sentences = parallel()
characters = sorted({c for lines in sentences.values() for line in lines for c in line} | {"🦙"})
assert all(utf8_by_hand(c) == c.encode() for c in characters)
print(f"{len(characters):,} different characters; bytes each:",
      dict(sorted(Counter(len(c.encode()) for c in characters).items())))

# %% [markdown]
# We could stop here and give a model bytes: 256 tokens, and no text in the world is unknown. But a
# text would be very long, and attention pays for length. We could also give it whole words; then
# every new word is unknown. What lies between the two?
#
# ## The idea: neighbours that meet often become one
#
# *Byte pair encoding* starts with the smallest parts and repeats one step: find the pair of
# neighbours that occurs most often, and make it a new piece. Gage (1994) compressed bytes with it,
# Sennrich et al. (2016) took it to translation and started from characters, and GPT-2 (Radford et
# al. 2019) went back to bytes. So do we. Let us count the neighbours in one sentence.

# %%
# NBVAL_CHECK_OUTPUT
SENTENCE = "small llamas call all llamas"

for pair, n in Counter(pairwise(SENTENCE)).most_common(4):
    print(pair, n)

# %% [markdown]
# `l` and `l` stand together five times, so `ll` is the first new piece. Then we count again, with
# `ll` as one thing. Formally, with the text a row of pieces $p_1 \dots p_T$, each step adds
#
# $$ (a^\ast, b^\ast) = \arg\max_{(a,\,b)} \; \#\{\, i : p_i = a,\; p_{i+1} = b \,\} $$
#
# to the vocabulary, and replaces this pair by the piece $a^\ast b^\ast$ wherever it stands
# (Sennrich et al. 2016, algorithm 1). Here are two functions for that, written for being read.

# %%
def join(parts: list[bytes], a: bytes, b: bytes) -> list[bytes]:
    """Replace the pair (a, b) by one part, from left to right."""
    joined, i = [], 0
    while i < len(parts):
        both = parts[i : i + 2] == [a, b]
        joined.append(a + b if both else parts[i])
        i += 2 if both else 1
    return joined


def most_frequent(counts: dict, number: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Of pairs that are equally frequent the one with the smaller tokens wins."""
    return min(counts, key=lambda pair: (-counts[pair], number[pair[0]], number[pair[1]]))

# %% [markdown]
# Ties need a rule, or two computers train two vocabularies. Ours: each piece has a number (bytes 0
# to 255, new pieces in the order of their birth), and the smaller pair of numbers wins. Now watch
# the sentence grow.

# %% mystnb={"image": {"alt": "The sentence small llamas call all llamas in rows. At the top 28 single letters; after one merge ll is one piece, after three all with its space, after eight merges the last two words are one piece, all llamas, and 7 pieces are left."}}
parts = [letter.encode() for letter in SENTENCE]
number = {piece: i for i, piece in enumerate(ALPHABET)}
rows, learnt = [parts], [""]
for _ in range(8):
    a, b = most_frequent(Counter(pairwise(parts)), number)
    number[a + b], parts = len(number), join(parts, a, b)
    rows, learnt = [*rows, parts], [*learnt, (a + b).decode()]

fig, ax = plots.figure("Each merge makes one piece, and the text gets shorter",
                       x="", y="merges made", size=(6.4, 4.4))
for y, row in enumerate(rows):
    x = 0
    for part in row:
        new_here = plots.ORANGE if part.decode() == learnt[y] else plots.SKY
        colour = "#eeeeee" if len(part) == 1 else new_here
        ax.barh(y, len(part) - 0.1, left=x, height=0.74, color=colour)
        for k, letter in enumerate(part.decode().replace(" ", "·")):
            ax.text(x + k + 0.45, y, letter, ha="center", va="center", fontsize=11)
        x += len(part)
    ax.text(x + 0.5, y, f"{len(row)} pieces", va="center")
ax.set(ylim=(8.6, -0.6), xlim=(-0.3, 33), yticks=range(9), xticks=[])
ax.grid(visible=False)
print("learnt:", *map(repr, learnt[1:]))

# %% [markdown]
# Orange is what was just learnt; a dot is a space. Nobody told the algorithm what a word is, and
# after six merges it has found `llam`. The seventh is silly: `all llam` is one piece, across two
# words. In a large text such pieces would fill the vocabulary with phrases: `of the`, `dog.`,
# `dog!`, `dog?` would each need a place of their own.
#
# ## How does one keep pieces inside words?
#
# Cut the text first, and never merge across a cut. Where to cut is one regular expression, and it
# is as much part of a vocabulary as the pieces are. This is Llama 3's, with the function that
# applies it.

# %%
# twin: llama_edu.tokenizer.bpe.LLAMA3_PATTERN, llama_edu.tokenizer.bpe.split
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
                  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(text: str, pattern: str = LLAMA3_PATTERN) -> list[str]:
    return regex.findall(pattern, check_text(text))


for text in ("The llama's wool: 1234567 hairs!", "if x:\n        return x"):
    print(split(text))

# %% [markdown]
# (The first line, `# twin: ...`, promises that the cell equals the package; a test holds us to it.)
# Read the pattern by what it does. A word keeps the *one* character before it, usually its space.
# An apostrophe ending is a chunk. **Digits come in threes, from the left**: that is where `1234`
# becomes `123` and `4`. Of a run of spaces, the last goes with the next word.
#
# Training then needs the text no more; it needs each chunk once, and how often it occurs.

# %%
# twin: llama_edu.tokenizer.bpe.count_chunks
def count_chunks(text: str, pattern: str = LLAMA3_PATTERN) -> dict[bytes, int]:
    return {chunk.encode(): n for chunk, n in Counter(split(text, pattern)).items()}


count_chunks(SENTENCE)

# %% [markdown]
# Note the last word, and the second: `·llamas` occurs twice and is one entry with the count 2.
#
# ## Build it: the definition, and then something fast
#
# The definition counts all pairs anew for each merge. Nobody can get it wrong, and nobody can wait
# for it.

# %%
def grow_naively(chunks: dict[bytes, int], n_merges: int) -> list[bytes]:
    """The first pieces that training finds, in order."""
    words = [([chunk[i : i + 1] for i in range(len(chunk))], n) for chunk, n in chunks.items()]
    number = {piece: i for i, piece in enumerate(ALPHABET)}
    pieces = []
    for _ in range(n_merges):
        counts = Counter()
        for parts, n in words:
            for pair in pairwise(parts):
                counts[pair] += n
        a, b = most_frequent(counts, number)
        number[a + b] = len(number)
        pieces.append(a + b)
        words = [(join(parts, a, b), n) for parts, n in words]
    return pieces

# %% [markdown]
# Two details hide in there. A chunk counts as often as it occurs. And `aaa` holds the pair `(a, a)`
# twice, though only one of them can merge: we count first, and merge from the left.
#
# The package's `grow` gives the same merges and never counts twice. It remembers where each pair
# stands and mends the counts next to each merge. A queue hands out the largest. It is eighty lines
# of bookkeeping, worth reading once this chapter is done. Do the two agree, ties included?

# %%
small_text = "\n".join([*sentences["English"], *sentences["Thai"], "aaa aaaa aaaaa"])
chunks = count_chunks(small_text)

start = time.perf_counter()
naive = grow_naively(chunks, 600)
between = time.perf_counter()
fast = [merge.piece for merge in islice(grow(chunks), 600)]
end = time.perf_counter()

assert naive == fast
counts = [merge.count for merge in islice(grow(chunks), 600)]
ties = sum(a == b for a, b in pairwise(counts))
print("600 merges equal;", ties, "of them were as frequent as the next one")
print(f"naive {between - start:.2f} s, incremental {end - between:.3f} s")

# %% [markdown]
# Most merges in a small text are ties, so an order that is equal throughout says something. The gap
# in time grows with the text.
#
# ## Where are the real vocabularies?
#
# In packages that you can install. Llama 3's file ships inside Meta's own `llama-models`. Llama 2's
# cannot be had without Meta's form, so a stand-in takes its place: an open vocabulary of 32,000
# pieces of the same kind (SentencePiece, the same rules), made by Mistral. **It is not Llama 2's.**
# Where we quote Llama 2's own numbers, we say so. If you have Llama 2's `tokenizer.model`, write
# its path into `LLAMA2_FILE`.
#
# Without the packages the chapter goes on with two vocabularies that it trains itself; its numbers
# then differ from the text. Their training text is Python's own library and two thirds of our
# sentences. We have a trainer for one kind already. For the other we call Meta's library, with the
# settings that stand in Llama 2's file: split digits, spell what is unknown in bytes
# (`byte_fallback`), and leave the text as it is.

# %%
library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
code = "".join(file.read_text(encoding="utf-8", errors="replace") for file in library)
practice = "\n".join(line for lines in sentences.values() for line in lines[:40]) + code[:400_000]


def train_sentencepiece(n_vocab: int, **other_settings) -> bytes:
    """The `.model` that SentencePiece learns from the practice text."""
    llama2 = dict(model_type="bpe", split_digits=True, byte_fallback=True,
                  character_coverage=0.99995, normalization_rule_name="identity",
                  remove_extra_whitespaces=False, allow_whitespace_only_pieces=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(practice.splitlines()), model_writer=model, vocab_size=n_vocab,
        num_threads=1, minloglevel=2, **(llama2 | other_settings))
    return model.getvalue()

# %% [markdown]
# Now find the two files, or make them. `old` stands for Llama 2's family, `new` for Llama 3's. Each
# is loaded twice: on the library that Meta used, and rebuilt in Python, so that we can compare.

# %%
LLAMA2_FILE = ""        # the path of your Llama 2 tokenizer.model, if you have one
folder = tempfile.TemporaryDirectory()


def vocabulary(name: str, train: Callable[[Path], object]) -> Path:
    if file := installed.find(name):
        return file
    print(installed.how_to_get(name))
    train(file := Path(folder.name, name))
    return file


new_file = vocabulary("llama3", lambda file: BytePairs.train(practice, n_vocab=8_192).save(file))
old_file = Path(LLAMA2_FILE) if LLAMA2_FILE else vocabulary(
    "sentencepiece_32k", lambda file: file.write_bytes(train_sentencepiece(2_048)))
REAL_NEW = new_file == installed.find("llama3")
REAL = REAL_NEW and old_file == installed.find("sentencepiece_32k")     # the text's numbers hold

old_rebuilt, old = RebuiltSentencePiece.read(old_file), SentencePieceTokenizer.read(old_file)
new_rebuilt = BytePairs.load(new_file, special=LLAMA31_SPECIAL)
new = TiktokenTokenizer(new_rebuilt.ranks, new_rebuilt.special, pattern=LLAMA3_PATTERN,
                        bos="<|begin_of_text|>", eos="<|end_of_text|>", stop_ids=())
print("old:", f"{old.n_vocab:,}", "pieces    new:", f"{new.n_vocab:,}", "tokens")

# %% [markdown]
# ## How is a vocabulary used? By rank, with one exception
#
# A piece's *rank* is its place in the file. Where one training wrote the file, that is the order of
# learning; keep the condition in mind. To encode, start with bytes and repeat: of all neighbours
# that form a known piece, merge those of lowest rank, the leftmost first. The counts of training
# are forgotten; so are the text's own statistics. Below, each merged piece has its rank behind it.

# %%
# twin: llama_edu.tokenizer.merging.merge_steps
def merge_steps(parts: Sequence, ranks: Mapping) -> Iterator[list]:
    parts = list(parts)
    while True:
        yield list(parts)
        pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
                 if a + b in ranks]
        if not pairs:
            return
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


for step in merge_steps([bytes([byte]) for byte in b" rained"], new.ranks):
    print(" | ".join(part.decode() + f" {new.ranks[part]}" * (len(part) > 1) for part in step))

# %% [markdown]
# A sensible person would cut ` rained` into ` rain` and `ed`, and both are pieces of Llama 3's
# vocabulary. Look at the last step. Two merges are open: ` r` and `ain` would make ` rain`, whose
# rank is 11,422; `ain` and `ed` would make `ained`, whose rank is 2,692. The lower rank goes first,
# and then nothing is left for ` r` to merge with. Taking the *longest* piece each time is the usual
# wrong guess. How often does it give another result?

# %%
def longest_first(chunk: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    parts = []
    while chunk:
        n = next(n for n in range(len(chunk), 0, -1) if chunk[:n] in ranks)
        parts, chunk = [*parts, chunk[:n]], chunk[n:]
    return parts


if REAL_NEW:
    assert longest_first(b" rained", new.ranks) == [b" rain", b"ed"]
    assert (new.ranks[b" rain"], new.ranks[b"ained"]) == (11_422, 2_692)
for name in ("English", "German", "Hindi"):
    words = [w.encode() for w in sorted({w for line in sentences[name] for w in split(line)})]
    right = [merge_all([bytes([byte]) for byte in word], new.ranks) for word in words]
    other = sum(longest_first(w, new.ranks) != r for w, r in zip(words, right, strict=True))
    print(f"{name}: {other} of {len(words)} words cut differently")

# %% [markdown]
# In English few, in German a quarter. A model fed with the longest pieces still reads most words as
# it learnt them, which makes this bug hard to notice. (`merge_all` is the package's fast form of
# `merge_steps`: a queue of candidates in place of a search. Both families use it; we come back to
# that.)
#
# ## Is rank the order of learning? Not in Llama 3
#
# In a vocabulary that one training made, merging reaches every piece: each was made by a merge, and
# encoding replays the merges in order. If Llama 3's file is such a list, no piece is out of reach.
# We try them all. And we ask of every thousand ranks how many pieces have a letter that is not
# Latin.

# %% mystnb={"image": {"alt": "Share of pieces with letters that are not Latin, for each thousand of Llama 3's 128,000 ranks. It stays at about 3 percent up to rank 100,256, jumps to about 70 percent and stays there. Red ticks, the 588 pieces that merging cannot reach, lie all to the right of the jump."}}
def reached(piece: bytes, ranks: dict[bytes, int]) -> bool:
    return len(merge_all([bytes([byte]) for byte in piece], ranks)) == 1


def not_latin(piece: bytes) -> bool:
    return bool(regex.search(r"(?!\p{Latin})\p{L}", piece.decode(errors="ignore")))


ours = {piece: i for i, piece in enumerate([*ALPHABET, *fast])}     # one training, from above
assert all(reached(piece, ours) for piece in ours)
alone = [piece for piece in new.ranks if not reached(piece, new.ranks)]
by_rank = sorted(new.ranks, key=new.ranks.get)
starts = range(0, len(by_rank), 1_000)
shares = [100 * sum(map(not_latin, block)) / len(block)
          for block in (by_rank[i : i + 1_000] for i in starts)]

fig, ax = plots.figure("After rank 100,256 the pieces come from somewhere else" if REAL_NEW else
                       "One training: no jump", x="rank", y="pieces with non-Latin letters (%)")
ax.step(starts, shares, where="post")
ax.plot([new.ranks[piece] for piece in alone], [90] * len(alone), "|", color=plots.VERMILION)
ax.text(0.7 * len(by_rank), 90, f"{len(alone)} pieces that\nmerging cannot reach", ha="right",
        va="center", color=plots.VERMILION)
_ = ax.set(ylim=(0, 100))

# %% [markdown]
# This is no order of learning. 588 pieces cannot be reached, all of them beyond rank 100,000; and
# there the alphabet changes, at one stroke. The Llama 3 paper says why in half a sentence (section
# 3.2): 100K tokens are "from the tiktoken tokenizer", and 28K were added for languages other than
# English. Which tokenizer? The library holds a checksum of every vocabulary that it can download.
# Both files have one line a piece. Let us take the first 100,256 lines of Llama 3's.

# %%
N_OLDER = 100_256
if not REAL_NEW:
    print("This needs Llama 3's own file. In it the first", f"{N_OLDER:,} pieces are cl100k's.")
else:
    lines = new_file.read_bytes().splitlines(keepends=True)[:N_OLDER]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    assert digest in inspect.getsource(cl100k_base)
    assert encoding_name_for_model("gpt-4") == "cl100k_base"
    print("the same SHA-256 as cl100k_base:", digest[:16], "...")
    for name, block in {"older": by_rank[:N_OLDER], "added": by_rank[N_OLDER:]}.items():
        print(f"{name}: {len(block):7,} pieces, {sum(map(not_latin, block)) / len(block):5.1%} with"
              f" letters not Latin, {len(set(alone) & set(block))} out of reach")
    assert min(new.ranks[piece] for piece in alone) == 100_769
    assert len(alone) == 588
    print(*(f"{part.decode()!r} {new.ranks[part]:,}" for part in merge_all(
        [bytes([byte]) for byte in " Việt".encode()], new.ranks)), "but ' Việt' is a piece:",
        f"{new.ranks[' Việt'.encode()]:,}")
    assert new.pieces(" Việt") == new_rebuilt.pieces(" Việt") == [" Việt"]

# %% [markdown]
# Byte for byte it is the vocabulary of GPT-4, *cl100k*: 100,256 of Llama 3's 128,000 pieces were
# learnt by OpenAI, and 27,744 were added behind them. So a rank says in which order pieces merge,
# and it is the order of learning at most within each part. The older merges go first, and they can
# take a word apart in a way from which no later merge leads to the added piece. ` Việt` is one of
# the 588: merging ends at ` Vi`, `ệ`, `t`.
#
# That is why Llama 3 has one more rule: a chunk that is a piece stays whole.
#
# ## Two families, side by side
#
# The merging is the same. The rules around it are not:
#
# | rule | Llama 1 and 2 (SentencePiece) | Llama 3 and later (tiktoken) |
# |---|---|---|
# | starts from | characters of the whole text | bytes of each chunk |
# | spaces | written `▁`; one is put in front of the text (*dummy prefix*) | belong to the chunk |
# | digits | no piece holds two | pieces of one to three |
# | a whole chunk that is a piece | does not apply | taken whole, before any merge |
# | no piece for a character | its bytes, `<0xE7>` and so on | cannot happen: bytes are pieces |
# | special pieces | `<s>` 1, `</s>` 2 | 256 of them, after the ranks |

# %%
def display(pieces: list[str]) -> str:
    return " | ".join(piece.replace(" ", "·").replace("\n", "⏎") for piece in pieces)


for text in ("1234", "2024-04-18", "the llama", "  return", "羊驼", "🦙"):
    print(f"{text!r:14} old {display(old.pieces(text))}\n{'':14} new {display(new.pieces(text))}\n")
assert not REAL_NEW or [new.ranks[piece] for piece in (b"!", b"A")] == [0, 32]

# %% [markdown]
# There is the answer to our question. Llama 2's training was told that no piece may hold two
# digits, so `1234` is always four tokens (and the dummy prefix before it). Llama 3's pattern lets
# three digits stand together, and every such group is a piece; all of them stand in the older part
# of the file:

# %%
# NBVAL_CHECK_OUTPUT
old_pieces = [text for text, _, kind in old_rebuilt.file.pieces if kind == NORMAL]
two_digits = [piece for piece in old_pieces if len(regex.findall("[0-9]", piece)) > 1]
print("old: pieces with two digits or more:", len(two_digits))
print("new: pieces of digits, by length:   ",
      dict(sorted(Counter(len(p) for p in new.ranks if p.isdigit()).items())))
assert not REAL_NEW or max(rank for p, rank in new.ranks.items() if p.isdigit()) < N_OLDER

# %% [markdown]
# One digit a token is slow and regular: the last token of a number is always its ones. With threes
# from the left, the `4` in `1234` is ones, and in `12345` the tokens are `123`, `45`. The model
# must work out from the length what a token is worth.
#
# The dummy prefix has a reason too. With it, `the` at the start of a text is the same piece as `
# the` inside it. In Llama 3 the two are different tokens.
#
# > **Careful.** Special pieces are tokens, not text. A user who types `<|eot_id|>` must not be able
# > to end a turn.

# %%
message = "<|eot_id|>"
as_text = new.encode(message, bos=False, eos=False)
allowed = new.encode(message, bos=False, eos=False, allow_special={"<|eot_id|>"})

print("as text:", len(as_text), "tokens", display(new.pieces(message)))
print("allowed:", allowed, "   BOS twice:",
      new.encode("<|begin_of_text|>Hi", bos=True, eos=False, allow_special={"<|begin_of_text|>"}))
assert new.decode(as_text) == message
assert allowed == [new.special["<|eot_id|>"]]

# %% [markdown]
# The last line is the second classic: a prompt that already has its *BOS*, the token that begins a
# text, encoded with `bos=True`. Nothing raises, and the model sees a beginning that it never saw in
# training.
#
# ## Prove it: rebuilt in Python, equal to both libraries
#
# Every language, code, digits, dates and emoji; and decoding gives the text back.

# %%
texts = {name: "\n".join(lines) for name, lines in sentences.items()}
texts |= {name: sample(name) for name in SAMPLES}
for text in texts.values():
    for rebuilt, original in ((old_rebuilt, old), (new_rebuilt, new)):
        ids = original.encode(text, bos=True, eos=True)
        assert rebuilt.encode(text, bos=True, eos=True) == ids
        assert rebuilt.decode(ids) == original.decode(ids) == text
print(len(texts), "texts, the same tokens from the library and from Python, and back")

# %% [markdown]
# The package's tests ask the same of thousands of random Unicode strings.
#
# ## What does a language pay?
#
# *Fertility* is tokens per unit of text. We count per character first, as most tables do.

# %%
n_old = {name: len(old.encode(texts[name], bos=False, eos=False)) for name in texts}
n_new = {name: len(new.encode(texts[name], bos=False, eos=False)) for name in texts}

print(f"{'':10}characters  old: tokens, a character   new: tokens, a character   fewer")
for name, text in texts.items():
    print(f"{name:10}{len(text):8,}{n_old[name]:12,}{n_old[name] / len(text):12.2f}"
          f"{n_new[name]:15,}{n_new[name] / len(text):12.2f}{1 - n_new[name] / n_old[name]:11.0%}")

# %% [markdown]
# By the character, Korean is the dearest in the old vocabulary (1.15 tokens), just before Japanese
# (1.14) and Chinese (1.13). In Llama 3 all three pay less, and Chinese is left at the top with
# 0.80. But a Chinese character says more than a letter. Our sentences are parallel, so we can ask a
# fairer question: what does it cost to say *the same*?

# %% mystnb={"image": {"alt": "Two panels, twelve languages, one dot for each vocabulary. Tokens per character: in the new vocabulary English lowest with 0.22, Chinese highest with 0.80; in the old one Korean highest with 1.15. Tokens for the same sentences relative to English: in the new vocabulary Chinese 1.1 and Hindi 2.2; in the old one Hindi is at 4.0."}}
order = sorted(LANGUAGES, key=lambda name: n_new[name])
per_character = [{n: counts[n] / len(texts[n]) for n in order} for counts in (n_old, n_new)]
same_text = [{n: counts[n] / counts["English"] for n in order} for counts in (n_old, n_new)]

fig, panels = plots.figure("Dear by the character, cheap by the sentence: look at Chinese", x="", y="",
                           columns=2, size=(6.4, 4.6))
for ax, (before, after), title in zip(panels, (per_character, same_text), (
        "tokens per character", "tokens for the same sentences\n(English = 1 in each)"), strict=True):
    for y, name in enumerate(order):
        ax.plot([before[name], after[name]], [y, y], color="#bbbbbb", linewidth=3, zorder=1)
    for counts, mark, colour, label in ((before, "o", plots.VERMILION, "old, 32k"),
                                        (after, "D", plots.BLUE, "new, 128k")):
        ax.plot([counts[n] for n in order], range(12), mark, color=colour, label=label)
    ax.set(yticks=range(12), yticklabels=order if ax is panels[0] else [], xlim=(0, None))
    ax.set_xlabel(title)
    ax.get_yticklabels()[order.index("Chinese")].set_fontweight("bold")
_ = panels[1].legend(loc="lower right")

# %%
if REAL:
    dearest = [sorted(table, key=table.get)[-3:] for table in per_character]
    assert dearest == [["Chinese", "Japanese", "Korean"], ["Korean", "Japanese", "Chinese"]]
    assert same_text[1]["Chinese"] < 1.15
    assert same_text[1]["Hindi"] > 2.2
    assert same_text[0]["Hindi"] > 3.9
    assert all(n_new[name] < n_old[name] for name in texts)
for name in ("Chinese", "Hindi", "Arabic"):
    print(f"{name}: the same sentences cost {same_text[0][name]:.1f} times English in old,"
          f" {same_text[1][name]:.1f} times in new")

# %% [markdown]
# In Llama 3 Chinese is the dearest of the twelve by the character, and by the sentence it comes
# close behind English. Hindi pays twice as much as English in Llama 3, and paid four times as much
# in the old vocabulary. Price here is meant literally: tokens are time, memory in the cache of
# chapter 03, context, and money. (Sixty short sentences of ours; other texts give other numbers.)
#
# ## Play: one text, two trainers, five sizes
#
# How large must a vocabulary be? We train both ways on the same text and measure bytes per token on
# text held back: the last third of the sentences, and other files of Python's library. The
# byte-level ranks of 8,192 contain those of every smaller vocabulary, so we train once and cut.

# %%
held = {"twelve languages": "\n".join(s for lines in sentences.values() for s in lines[40:]),
        "Python code": code[1_000_000:1_060_000]}
learnt = [merge.piece for merge in islice(grow(count_chunks(practice)), 8_192 - 256)]


def byte_level(n_vocab: int) -> BytePairs:
    return BytePairs({piece: i for i, piece in enumerate([*ALPHABET, *learnt][:n_vocab])})


def sentence_pieces(n_vocab: int, **other_settings) -> SentencePieceTokenizer:
    model = train_sentencepiece(n_vocab, **other_settings)
    return SentencePieceTokenizer(sentencepiece.SentencePieceProcessor(model_proto=model))


try:
    train_sentencepiece(512)
except RuntimeError as refused:
    smallest = int(regex.search(r"512 vs (\d+)", str(refused))[1])
    print(f"SentencePiece refuses 512 pieces: this text needs {smallest:,} before the first merge")

# %% [markdown]
# That is the first surprise. SentencePiece's trainer gives every character of the text a piece of
# its own (all but the rarest 0.005 %, Llama 2's setting) before it merges anything. Ours has twelve
# languages.

# %% mystnb={"image": {"alt": "Bytes per token against vocabulary size from 512 to 8,192. Byte-level training rises steadily, from 1.3 to 2.6 in twelve languages and from 2.3 to 4.1 on code. SentencePiece starts at 1,175 pieces, passes it in twelve languages to reach 2.7, and stays behind on code at 3.6."}}
sizes = (512, 1024, 2048, 4096, 8192)
curves = {name: {} for name in held}
for n in sorted({*sizes, smallest}):
    words = [("byte level", byte_level(n))]
    if n >= smallest:
        words.append(("SentencePiece", sentence_pieces(n)))
    for way, tokenizer in words:
        for name, text in held.items():
            n_tokens = len(tokenizer.encode(text, bos=False, eos=False))
            curves[name].setdefault(way, []).append((n, len(text.encode()) / n_tokens))

fig, panels = plots.figure("SentencePiece pays an entrance fee; then each way has its text",
                           x="vocabulary size", y="bytes per token", columns=2)
for ax, (name, ways) in zip(panels, curves.items(), strict=True):
    for (way, points), style in zip(ways.items(), ("o-", "s--"), strict=True):
        ax.semilogx(*zip(*points, strict=True), style, base=2, label=way)
    ax.set(title=name, ylim=(0.8, 4.4), xticks=sizes, xticklabels=[f"{n:,}" for n in sizes])
panels[1].set_ylabel("")
_ = panels[0].legend(loc="upper left")
for name, ways in curves.items():
    for way, points in ways.items():
        print(f"{name}, {way}: bytes per token", {n: round(value, 2) for n, value in points})

# %% [markdown]
# The curves keep rising: each doubling still buys something. At its smallest size SentencePiece has
# spent its whole vocabulary on characters. It has no merge at all, and on code, where it needs few
# of these characters, a token is one byte. Then the two texts give opposite verdicts. On code
# SentencePiece stays behind; in twelve languages it *overtakes*. Why?
#
# Three rules are suspects. SentencePiece lets no piece cross from one *script* to another, and to
# it `(`, `.` and `_` are not of the script of the letters: `(self` can never be one piece. It keeps
# digits apart. And Llama 3's pattern has a flaw that is easy to miss: `\p{L}` means letters, but
# the vowel signs of Hindi, and some of Thai's with all its tone marks, are not letters to Unicode;
# they are *marks*, `\p{M}`. So the pattern cuts inside words, and no merge can cross:

# %%
# NBVAL_CHECK_OUTPUT
WITH_MARKS = LLAMA3_PATTERN.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+",
                                    r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+")
word = "रविवार"      # Sunday
print("Llama 3's pattern:", len(split(word)), "chunks;  with marks:", len(split(word, WITH_MARKS)))

# %% [markdown]
# Suspicion is no proof. We change one rule at a time, train again with 8,192 pieces, and count
# tokens on the texts that were held back.

# %%
held |= {name: "\n".join(sentences[name][40:]) for name in ("Hindi", "Thai")}
trained = {"byte level": byte_level(8_192),
           "byte level, marks are letters": BytePairs.train(practice, n_vocab=8_192,
                                                            pattern=WITH_MARKS),
           "SentencePiece": sentence_pieces(8_192),
           "SentencePiece, digits together": sentence_pieces(8_192, split_digits=False),
           "SentencePiece, across scripts": sentence_pieces(8_192, split_by_unicode_script=False)}
print(f"{'':30}", *(f"{name:>16}" for name in held))
n_held = {rule: {name: len(tokenizer.encode(text, bos=False, eos=False))
                 for name, text in held.items()} for rule, tokenizer in trained.items()}
for rule, counts in n_held.items():
    print(f"{rule:30}", *(f"{n:16,}" for n in counts.values()))
plain, marks, pieces, digits, across = n_held.values()
gap = {name: pieces[name] - plain[name] for name in held}
saved = {name: pieces[name] - across[name] for name in held}
assert saved["Python code"] > gap["Python code"] / 3
assert pieces["Python code"] - digits["Python code"] < gap["Python code"] / 10
assert saved["twelve languages"] < gap["twelve languages"] < 0
assert plain["Hindi"] - marks["Hindi"] > 20 > 5 > abs(plain["Thai"] - marks["Thai"])
for rule in ("SentencePiece", "SentencePiece, across scripts"):
    print(rule, "has", sum(bool(regex.search(r"\p{Thai}", trained[rule].inner.id_to_piece(i)))
                           for i in range(8_192)), "pieces with Thai letters")

# %% [markdown]
# **Scripts decide both verdicts.** On code, letting pieces cross them wins back more than half of
# the gap; digits hardly matter. In twelve languages the same freedom costs SentencePiece its whole
# lead. A vocabulary has 8,192 places, and places that go to code are lost to Thai: 322 pieces with
# Thai letters become 181. Marks matter for Hindi, about a tenth of its tokens for one character
# class, and do next to nothing for Thai. (All this is true of our texts and this size.)
#
# Why not a million pieces, then? Because each piece is a row of the embedding.
#
# ## In the Llamas: what a larger vocabulary costs

# %%
# NBVAL_CHECK_OUTPUT
for kind in dict.fromkeys(r.tokenizer for r in RELEASES):
    group = [r for r in RELEASES if r.tokenizer == kind]
    sizes_of_vocabulary = sorted({r.config.vocab_size for r in group})
    print(f"{kind}: {len(group)} releases, {sizes_of_vocabulary} tokens, first {group[0].id}")
for name in ("llama-2-7b", "llama-3-8b", "llama-3.2-1b", "llama-3.1-405b"):
    count = parameters(release(name).config)
    tables = count.embedding + count.output
    print(f"{name:15} {tables:14,} parameters around the blocks, {tables / count.total:.1%} of all")

# %% [markdown]
# The larger vocabulary is one percent of the 405B model and a fifth of the 1B, which therefore uses
# one table for both ends.
#
# ## Fact check
#
# The boxes read from the ledger of published claims, and do each sum again.

# %%
claims.show("E32", "B24")

# %% [markdown]
# First the lengths. We have counted with Llama 2's own file on larger texts, once; those counts
# are written down here. Below them our own samples, with the stand-in. Each line: characters per
# token before and after, and how many tokens fewer that is.

# %%
COUNTED = {"English prose": (340_563, 96_395, 81_799),      # characters, old tokens, new tokens
           "English with code": (480_937, 150_281, 123_391),
           "Python": (903_746, 280_148, 210_561), "Chinese characters": (83_008, 112_729, 62_725)}
samples = {name: (len(texts[name]), n_old[name], n_new[name])
           for name in ("English", "Swahili", "python", "Chinese", "Korean", "Arabic")}
for title, table in {"with Llama 2's file": COUNTED, "here": samples}.items():
    for name, (n, before, after) in table.items():
        fewer = f"{1 - after / before:6.1%}"
        print(f"{title:20} {name:19}{n / before:5.2f} -> {n / after:.2f}  {fewer}")
        assert not REAL or n / before < n / after
print(f"{'Llama 3 paper':20} {'English':19} 3.17 -> 3.94  {1 - 3.17 / 3.94:6.1%}")

# %% [markdown]
# **Right, of English prose.** There we counted 15.1 % fewer. The paper's own pair, 3.17 and 3.94
# characters a token, makes 19.5 %. Both can be true, for they speak of different texts: prose had
# 3.53 characters a token before. English with markdown and code in it comes close to the paper's
# numbers: 3.20 and 3.90, 17.9 % fewer. (Which sample the paper took, it does not say.) Python saves
# 24.8 % and Chinese characters 44.4 %. The sentence circulates with "up to 15 %" as well, and as a
# bound it is wrong.
#
# Now the Chinese characters, one by one:

# %%
ideographs = [chr(number) for number in range(0x4E00, 0x4E00 + 20_902)]
by_bytes = Counter(len(merge_all([bytes([b]) for b in c.encode()], new.ranks)) for c in ideographs)
known = sum(c in old_rebuilt.ids for c in ideographs)
print(f"new: tokens for each of 20,902 characters: {dict(sorted(by_bytes.items()))}")
print(f"old: {known:,} characters are a piece, {20_902 - known:,} take three")

running = [c for c in texts["Chinese"] if c in set(ideographs)]
single = {"old": sum(c in old_rebuilt.ids for c in running),
          "new": sum(c.encode() in new.ranks for c in running)}
for name, n in single.items():
    print(f"{name}: of the characters in our running text, {n / len(running):.0%} are one piece")
new_pieces = [piece.decode(errors="ignore") for piece in new.ranks]
groups = [sum(bool(regex.search(r"\p{Han}{2}", piece)) for piece in pieces)
          for pieces in (old_pieces, new_pieces)]
print(f"pieces of two Chinese characters or more: old {groups[0]:,}, new {groups[1]:,}")
assert not REAL or groups == [3, 1_442]

# %% [markdown]
# **Wrong about both.** In Llama 3 about one character in nine is one token, and most take
# two. Frequent characters are what one reads, so in running text nearly all are one token: but so
# were most before. Llama 2's own file has 700 of these characters, which cover 80.7 % of running
# text; in Llama 3, 98.9 % of the same text. What is new is that many *pairs* of characters are one
# token: 1,442 pieces, against 3 in the stand-in.
#
# Two sentences are left.

# %%
claims.show("D67", "D66")

# %% [markdown]
# **The reverse.** A larger vocabulary has longer pieces, so the cut is coarser: in the table above,
# a token holds more characters after than before in every line.
#
# And is one algorithm faster? Both merge by rank. In our package the *same function*, `merge_all`,
# serves both families. Whatever difference there is comes from the rules around it, or from how a
# library is written. Times are of this machine; yours will differ.

# %%
text = code[:60_000]
for name, tokenizer in {"sentencepiece, C++": old, "tiktoken, Rust": new,
                        "old rebuilt": old_rebuilt, "new rebuilt": new_rebuilt}.items():
    seconds = []
    for _ in range(5):
        start = time.process_time()
        tokenizer.encode(text, bos=False, eos=False)
        seconds.append(time.process_time() - start)
    print(f"{name:19} {len(text) / min(seconds) / 1e6:5.2f} million characters a second")

# %% [markdown]
# **Imprecise.** The merging is one algorithm, and the two compiled libraries were not far apart in
# our runs. What our Python shows is a *rule* at work: the same `merge_all`, several times as fast
# for the new family. Llama 3 cuts the text into chunks first; SentencePiece merges in the whole
# text at one go. On this text our Python even comes near the Rust library. It does not merge that
# fast: it merges each different chunk once, and code repeats itself.
#
# ## Exercises: now you
#
# Replace each `raise NotImplementedError`, run the cell, then its check. `hint("5.1")` gives one
# hint more at each call. The solutions are in [their own
# notebook](../solutions/05_tokenizers.ipynb).

# %%
def best_pair(chunks: dict[tuple[int, ...], int]) -> tuple[int, int]:
    """Exercise 5.1 ●○○ 5 min. Chunks of tokens, and how often each occurs: the next pair to merge.

    Of equally frequent pairs it is the smaller one; Python compares tuples as we need.
    """
    ### BEGIN SOLUTION
    counts = Counter()
    for chunk, n in chunks.items():
        for pair in pairwise(chunk):
            counts[pair] += n
    return min(counts, key=lambda pair: (-counts[pair], pair))
    ### END SOLUTION


check("5.1", best_pair)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.1.** *The first seen wins* is what `max(counts, key=counts.get)` does, and it
# works, until the text arrives in another order and gives another vocabulary. *Each chunk once* is
# tempting because a dictionary shows each once; the vocabulary then serves rare words as well as
# frequent ones. *Across the border* makes pieces out of words that merely stand next to each other
# in a dictionary. *Non-overlapping* counting looks tidier for `aaa`, and is a rule of its own: a
# vocabulary trained with it differs.
# ### END SOLUTION
#
# The other half of a training step. What should become of `7 7 7`, if the pair is `(7, 7)`?

# %%
def merge(tokens: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Exercise 5.2 ●○○ 5 min. Replace the pair by the token `new`, from left to right."""
    ### BEGIN SOLUTION
    merged, i = [], 0
    while i < len(tokens):
        found = tuple(tokens[i : i + 2]) == pair
        merged.append(new if found else tokens[i])
        i += 2 if found else 1
    return merged
    ### END SOLUTION


check("5.2", merge)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.2.** In *overlapping* merges one token serves in two pairs, and decoding gives a
# text with more letters than it had. *From the right* is as good a rule as ours, and another one:
# `aaa` becomes `a aa`, and a model trained on `aa a` has never seen it. *The last token lost* comes
# from a loop over pairs, which ends one early. Without `i += 1` *the index stands still*, and
# `merged` grows until memory is full; the check stops such a loop.
# ### END SOLUTION
#
# Now use a vocabulary. Every single byte of the chunk is in `ranks`.

# %%
def encode(chunk: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Exercise 5.3 ●●○ 8 min. Tokens of a chunk: merge the pair of lowest rank, leftmost first.

    Do not look the whole chunk up first.
    """
    ### BEGIN SOLUTION
    parts = [chunk[i : i + 1] for i in range(len(chunk))]
    while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts))
                    if a + b in ranks]:
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[part] for part in parts]
    ### END SOLUTION


check("5.3", encode)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.3.** All these give pieces of the vocabulary that spell the text, so decoding is
# no test of encoding. *The longest piece* is how WordPiece (BERT) encodes. *The most frequent pair
# of this text* repeats training where it has no place. *The leftmost pair* is a loop that merges
# what it meets. *A byte is its own token* is true of vocabularies trained here and false of Llama
# 3's, where token 0 is `!` and `A` is 32. *Text instead of bytes* works as long as all is English:
# pieces may hold half a character. *The dict's order* is right until somebody sorts the file. And
# who strips, lowers or normalises the text first has a tokenizer that cannot give it back.
# ### END SOLUTION
#
# Back from tokens to text. `spelling` maps a token to its bytes; broken UTF-8 is to show as `�`
# (U+FFFD).

# %%
def decode(ids: list[int], spelling: dict[int, bytes]) -> str:
    """Exercise 5.4 ●○○ 4 min. The text of these tokens; it never raises, whatever the bytes are."""
    ### BEGIN SOLUTION
    return b"".join(spelling[i] for i in ids).decode(errors="replace")
    ### END SOLUTION


check("5.4", decode)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.4.** Tokens may end in the middle of a character: the first of 🦙 in Llama 3 is
# two of its four bytes. *Token by token* is what one writes for streaming, works for months of
# English, and then raises, or prints `���` in front of the first user who sends an emoji. Bytes
# must be joined before they are decoded. `errors="ignore"` hides damage instead of showing it.
# ### END SOLUTION
#
# Digits. Llama 2 cuts a number into single digits (`n` is 1), Llama 3 into groups of up to three
# (`n` is 3).

# %%
def cut_number(digits: str, n: int) -> list[str]:
    """Exercise 5.5 ●○○ 3 min. Groups of at most n digits, as the families cut them."""
    ### BEGIN SOLUTION
    return [digits[i : i + n] for i in range(0, len(digits), n)]
    ### END SOLUTION


check("5.5", cut_number)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.5.** *From the right* is how people write: `1,234`. It lines up ones with ones,
# and experiments with addition favour it (Singh and Strouse 2024); Llama 3's pattern runs from the
# left all the same. *Unsplit* digits leave it to chance which numbers are one piece: years and
# prices, mostly.
# ### END SOLUTION
#
# Llama 2's rules, without any merge: the vocabulary `ids` has single characters only, among them
# `▁` for a space. BOS is token 1, and byte number `b` is token `3 + b`. Do not forget what comes
# before a text.

# %%
def llama2_tokens(text: str, ids: dict[str, int]) -> list[int]:
    """Exercise 5.6 ●●○ 8 min. BOS, then the text by Llama 2's rules. An empty text is BOS alone."""
    ### BEGIN SOLUTION
    tokens = [1]
    for character in (" " + text if text else "").replace(" ", "▁"):
        spelled = [3 + byte for byte in character.encode()]
        tokens += [ids[character]] if character in ids else spelled
    return tokens
    ### END SOLUTION


check("5.6", llama2_tokens)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.6.** *No dummy prefix*: the first word of every prompt becomes a piece that the
# model met only inside words. It copes, and is a little worse at everything. *Unknown as `<unk>`*
# throws the character away: emoji and rare names are gone, and nothing downstream can bring them
# back. *BOS twice* is what happens when a template and a tokenizer each add one. *Bytes without the
# offset* turns byte 1 into `<s>`, and every other into its neighbour three below.
# ### END SOLUTION
#
# Last, the one that matters for safety. A user's message, whatever is in it, is one turn.

# %%
def one_turn(message: str, tokenizer: BytePairs) -> list[int]:
    """Exercise 5.7 ●●○ 6 min. One BOS, the message as plain text, and the token of `<|eot_id|>`."""
    ### BEGIN SOLUTION
    return tokenizer.encode(message, bos=True) + [tokenizer.special["<|eot_id|>"]]
    ### END SOLUTION


check("5.7", one_turn)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.7.** Putting the special pieces into the string and allowing all of them is one
# line, and it is an injection: who types `<|eot_id|>` and a header writes the assistant's turn.
# Deleting such text from the message instead is a promise that some spelling will break, and it
# garbles honest questions about tokenizers.
# ### END SOLUTION
#
# ## Summary: merges, and rules around them
#
# - UTF-8 turns any text into bytes. BPE merges the most frequent neighbours, inside the chunks of
#   a pattern.
# - Encoding replays merges by rank. Longest match, or frequency in the text at hand, gives other
#   tokens.
# - A rank says what merges first. In Llama 3 it is not the order of learning: GPT-4's vocabulary
#   stands first, and 27,744 pieces for other languages behind it.
# - `1234`: no piece of Llama 2's has two digits; Llama 3's pattern takes three from the left.
# - The two families share the algorithm and differ in rules: chunks, spaces, digits, what is
#   unknown, special pieces.
# - Count tokens for the same sentences, and not only per character. Chinese costs about what
#   English does, Hindi twice as much.
# - Special pieces are tokens. Never let a user's text become one.
#
# **Read in the package:** `llama_edu.tokenizer.bpe.grow`, `llama_edu.tokenizer.merging` (fifty
# lines, both families), and `llama_edu.tokenizer.sentencepiece_rebuilt`. **Read elsewhere:**
# Sennrich, Haddow and Birch 2016, *Neural Machine Translation of Rare Words with Subword Units*;
# Kudo and Richardson 2018, *SentencePiece*; Petrov et al. 2023, *Language Model Tokenizers
# Introduce Unfairness Between Languages*.
