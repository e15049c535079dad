# %% [markdown]
# # 05 · Tokenizers: why is 1234 four tokens here and two there?
#
# **The question.** A Llama never sees a letter. It reads numbers, each of which stands for a piece
# of text. Llama 2 cuts `1234` into four pieces, Llama 3 into two, and neither cut is a whim. Who
# decides where a text is cut, and who pays for it?
#
# | you will build | you need | minutes |
# |---|---|---|
# | byte pair encoding, trained and applied; the rules of both families | Python: strings, bytes, dictionaries | 140 |

# %%
import hashlib
import inspect
import io
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path

import regex
import sentencepiece
from tiktoken import encoding_name_for_model
from tiktoken_ext.openai_public import cl100k_base

from llama_edu import claims, plots
from llama_edu.data.samples import LANGUAGES, SAMPLES, parallel, sample
from llama_edu.exercises import check, hint, reveal, suspects
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import RELEASES, release
from llama_edu.tokenizer import (
    BytePairs,
    RebuiltSentencePiece,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    installed,
    load,
)
from llama_edu.tokenizer.base import check_text
from llama_edu.tokenizer.bpe import ALPHABET, grow
from llama_edu.tokenizer.merging import merge_all
from llama_edu.tokenizer.tiktoken_bpe import LLAMA31_SPECIAL
from llama_edu.tokenizer.vocabulary_files import NORMAL

plots.use_style()

# %% [markdown]
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
    first, *rest = [number >> 6 * i & 0b111111 for i in reversed(range(n))]
    return bytes([HEADS[n] | first, *(0b10000000 | group for group in rest)])


for character in "aé羊🦙":
    bits = " ".join(f"{byte:08b}" for byte in utf8_by_hand(character))
    print(character, f"number {ord(character):6}  ", bits)

# %% [markdown]
# The `x` bits of `1110xxxx 10xxxxxx 10xxxxxx`, read in a row, are the number of 羊. That is all
# there is to UTF-8, and we can check it on every character of our sentences. They come with the
# package: sixty sentences that say the same in twelve languages.

# %% tags=["nbval-check-output"]
sentences = parallel()
everything = "".join(line for lines in sentences.values() for line in lines)
characters = sorted({*everything, "🦙"})
n_bytes = Counter(len(c.encode()) for c in characters)
assert all(utf8_by_hand(c) == c.encode() for c in characters)
print(f"{len(characters):,} different characters; of so many bytes:",
      dict(sorted(n_bytes.items())))

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

# %% tags=["nbval-check-output"]
SENTENCE = "small llamas call all llamas"

for pair, n in Counter(pairwise(SENTENCE)).most_common(4):
    print(pair, n)

# %% [markdown]
# `l` and `l` stand together five times, so `ll` is the first new piece. Then we count again, with
# `ll` as one thing. Formally, with the text a row of pieces $p_1 \dots p_T$, each step adds
#
# $$ (a^\ast, b^\ast) = \arg\max_{(a,\,b)} \; \#\{\, i : p_i = a,\; p_{i+1} = b \,\} $$
#
# to the vocabulary, and replaces this pair by the piece $a^\ast b^\ast$ wherever it stands, from
# left to right (Sennrich et al. 2016, algorithm 1). Ties need a rule, or two computers train two
# vocabularies. Ours: each piece has a number, its *token*. Bytes are 0 to 255, and new pieces are
# numbered in the order of their birth. The smaller pair of numbers wins. The package's `grow`
# yields one such merge after another. Watch the sentence.

# %%
learnt = [merge.piece for merge in islice(grow({SENTENCE.encode(): 1}), 8)]
letters = [ALPHABET[byte] for byte in SENTENCE.encode()]
rows = []
for n in range(9):
    ranks = {piece: rank for rank, piece in enumerate(learnt[:n])}
    rows.append(merge_all(letters, ranks))
assert (len(rows[0]), len(rows[-1])) == (28, 7)
print("learnt:", *(piece.decode() for piece in learnt), sep=" | ")

# %% tags=["hide-input"] mystnb={"image": {"alt": "The sentence small llamas call all llamas in rows. At the top 28 single letters; after one merge ll is one piece, after three all with its space, after eight merges the last two words are one piece, all llamas, and 7 pieces are left."}}
fig, ax = plots.figure("Each merge makes one piece, and the text gets shorter",
                       x="", y="merges made", size=(6.4, 4.4))
for y, row in enumerate(rows):
    x = 0
    for part in row:
        new_here = plots.ORANGE if y and part == learnt[y - 1] else plots.SKY
        colour = "#eeeeee" if len(part) == 1 else new_here
        ax.barh(y, len(part) - 0.1, left=x, height=0.74, color=colour)
        for k, letter in enumerate(part.decode().replace(" ", "·")):
            ax.text(x + k + 0.45, y, letter, ha="center", va="center",
                    fontsize=11, color="black")
        x += len(part)
    ax.text(x + 0.5, y, f"{len(row)} pieces", va="center")
ax.set(ylim=(8.6, -0.6), xlim=(-0.3, 33), yticks=range(9), xticks=[])
ax.grid(visible=False)

# %% [markdown]
# Orange is what was just learnt, blue what was learnt before; a dot is a space. Nobody told the
# algorithm what a word is, and after six merges it has found `llam`. The seventh is silly:
# `all llam` is one piece, across two words. In a large text such pieces would fill the vocabulary
# with phrases: `of the`, `dog.`, `dog!`, `dog?` would each need a place of their own.
#
# ## How does one keep pieces inside words?
#
# Cut the text first, and never merge across a cut. Where to cut is one regular expression, and it
# is as much part of a vocabulary as the pieces are. This is Llama 3's, with the function that
# applies it.

# %% twin="llama_edu.tokenizer.bpe.LLAMA3_PATTERN, llama_edu.tokenizer.bpe.split"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(text: str, pattern: str = LLAMA3_PATTERN) -> list[str]:
    return regex.findall(pattern, check_text(text))


for text in ("The llama's wool: 1234567 hairs!", "if x:\n        return x"):
    print(split(text))

# %% [markdown]
# (These are the package's own lines; a test holds us to it.) Read the pattern by what it does. A
# word keeps the *one* character before it, usually its space. An apostrophe ending is a chunk.
# **Digits come in threes, from the left**: that is where `1234` becomes `123` and `4`. Of a run of
# spaces, the last goes with the next word.
#
# Training then needs the text no more; it needs each chunk once, and how often it occurs.

# %% twin="llama_edu.tokenizer.bpe.count_chunks"
def count_chunks(text: str, pattern: str = LLAMA3_PATTERN) -> dict[bytes, int]:
    return {chunk.encode(): n
            for chunk, n in Counter(split(text, pattern)).items()}


count_chunks(SENTENCE)

# %% [markdown]
# `llamas` stands twice, as the second and the last word: one entry, count 2.
#
# ## Your turn: train a vocabulary
#
# Now write the training yourself. Replace the `raise NotImplementedError`, run the cell; the check
# in its last line tells a right answer from a wrong one, and often says which mistake it is.
# `hint("5.1")` gives one hint more at each call, and the solutions are in [their own
# notebook](../solutions/05_tokenizers.ipynb).
#
# A warning about runs: in `a a a` the pair `(a, a)` *stands* twice, and both places count, but only
# the left one can merge.

# %%
def train(chunks: dict[bytes, int], n_merges: int) -> list[tuple[int, int]]:
    """Exercise 5.1 ●●○ 12 min. `chunks` says how often each chunk occurs. Return the first
    `n_merges` merges, in order.

    A merge is a pair of tokens. Bytes are the tokens 0 to 255; the merges make 256, 257 and so
    on. Of pairs that are equally frequent the smaller goes first, as Python compares tuples.
    Where no pair is left, there are fewer merges.
    """
    ### BEGIN SOLUTION
    words, merges = [(list(chunk), n) for chunk, n in chunks.items()], []
    for new in range(256, 256 + n_merges):
        counts = Counter()
        for tokens, n in words:
            for pair in pairwise(tokens):
                counts[pair] += n
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for tokens, _ in words:
            i = 0
            while i < len(tokens) - 1:
                if (tokens[i], tokens[i + 1]) == best:
                    tokens[i : i + 2] = [new]
                i += 1
    return merges
    ### END SOLUTION


check("5.1", train)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.1.** *The first seen wins* is what `max(counts, key=counts.get)` does, and it
# works, until the text arrives in another order and gives another vocabulary. *Each chunk once* is
# tempting because a dictionary shows each once; the vocabulary then serves rare words as well as
# frequent ones. *Non-overlapping* counting looks tidier for `aaa`, and is a rule of its own. So is
# merging *from the right*: `aaa` becomes `a aa`, and a model trained on `aa a` has never seen it.
# *Ties by spelling* agree with ours as long as only bytes are compared.
# ### END SOLUTION
#
# ## Build it: the definition, and then something fast
#
# Here is our definition, on pieces instead of numbers. It counts all pairs anew for each merge.
# Nobody can get it wrong, and nobody would wait for it on a real text.

# %%
def join(parts: list[bytes], a: bytes, b: bytes) -> list[bytes]:
    """Replace the pair (a, b) by one part, from left to right."""
    joined, i = [], 0
    while i < len(parts):
        both = parts[i : i + 2] == [a, b]
        joined.append(a + b if both else parts[i])
        i += 2 if both else 1
    return joined


def grow_naively(chunks: dict[bytes, int], n_merges: int) -> list[bytes]:
    """The first pieces that training finds, in order."""
    words = {chunk: [ALPHABET[byte] for byte in chunk] for chunk in chunks}
    number = {piece: i for i, piece in enumerate(ALPHABET)}
    for _ in range(n_merges):
        counts = Counter()
        for chunk, n in chunks.items():
            for pair in pairwise(words[chunk]):
                counts[pair] += n
        most = max(counts.values())
        a, b = min((pair for pair in counts if counts[pair] == most),
                   key=lambda pair: (number[pair[0]], number[pair[1]]))
        number[a + b] = len(number)
        words = {chunk: join(parts, a, b) for chunk, parts in words.items()}
    return list(number)[256:]

# %% [markdown]
# `join` needs an index of its own, because a merge moves on by two. Each place of a pair counts as
# often as its chunk occurs. Of the pairs that stand most often, `min` takes the one of the smallest
# numbers. `number` keeps its pieces in the order of their birth, so it is the vocabulary too.
#
# The package's `grow` gives the same merges and never counts twice. It remembers where each pair
# stands and mends the counts next to each merge. A queue hands out the largest. With its three
# helpers it is some seventy lines of bookkeeping, worth reading once this chapter is done. Do the
# two agree, ties included? The slow one takes about ten seconds.

# %%
small_text = "\n".join([*sentences["English"], *sentences["Thai"],
                        "aaa aaaa aaaaa"])
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
# In packages that you can install. Two libraries read such files: *SentencePiece*, Google's, which
# Meta used up to Llama 2, and *tiktoken*, OpenAI's, which it has used since. Llama 3's file ships
# inside Meta's own `llama-models`. Llama 2's cannot be had without Meta's form, so a stand-in takes
# its place: an open vocabulary of 32,000 pieces of the same kind and the same rules, made by
# Mistral. **It is not Llama 2's.** Where we quote Llama 2's own numbers, we say so. If you have
# Llama 2's `tokenizer.model`, write its path into `LLAMA2_FILE`. A third vocabulary will stand
# beside them, that of SmolLM2, a small model of the Llama architecture that really answers.
#
# The next cell only finds files; there is nothing in it to learn. What is missing it trains on
# Python's own library and two thirds of our sentences, with Llama 2's settings for the
# SentencePiece library, and numbers then differ from the text.

# %%
LLAMA2_FILE = ""    # the path of your Llama 2 tokenizer.model, if you have one
folder = tempfile.TemporaryDirectory()
library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
code = "".join(file.read_text(encoding="utf-8", errors="replace")
               for file in library)
first_40 = [line for lines in sentences.values() for line in lines[:40]]
practice = "\n".join(first_40) + code[:400_000]


def train_sentencepiece(n_vocab: int, **other_settings) -> bytes:
    """The `.model` that SentencePiece learns from the practice text."""
    llama2 = {
        "model_type": "bpe", "split_digits": True, "byte_fallback": True,
        "character_coverage": 0.99995, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(practice.splitlines()), model_writer=model,
        vocab_size=n_vocab, num_threads=1, minloglevel=2,
        **(llama2 | other_settings))
    return model.getvalue()


new_file, old_file = Path(folder.name, "new"), Path(folder.name, "old")
if not installed.find("llama3"):
    BytePairs.train(practice, n_vocab=8_192).save(new_file)
if not (LLAMA2_FILE or installed.find("sentencepiece_32k")):
    old_file.write_bytes(train_sentencepiece(2_048))

# %% [markdown]
# `old` stands for Llama 2's family, `new` for Llama 3's. Each is loaded twice: on the library that
# Meta used, and rebuilt in Python, so that we can compare.

# %%
for name in ("llama3", "sentencepiece_32k", "smollm2"):
    if not installed.find(name):
        print(installed.how_to_get(name))

stand_in, llama3 = installed.find("sentencepiece_32k"), installed.find("llama3")
new_file = llama3 or new_file
old_file = Path(LLAMA2_FILE) if LLAMA2_FILE else stand_in or old_file
REAL_NEW = new_file == llama3
REAL = REAL_NEW and old_file == stand_in    # the text's numbers hold

old_rebuilt = RebuiltSentencePiece.read(old_file)
old = SentencePieceTokenizer.read(old_file)
new_rebuilt = BytePairs.load(new_file, special=LLAMA31_SPECIAL)
new = TiktokenTokenizer(new_rebuilt.ranks, new_rebuilt.special,
                        pattern=LLAMA3_PATTERN, bos="<|begin_of_text|>",
                        eos="<|end_of_text|>", stop_ids=())
smol = load(installed.path("smollm2")) if installed.find("smollm2") else new
for name, tokenizer in {"old": old, "new": new, "SmolLM2": smol}.items():
    print(f"{name:8}{tokenizer.n_vocab:8,} tokens")

# %% [markdown]
# ## How is a vocabulary used?
#
# A piece's *rank* is its place in the file. In Llama 3 the rank also *is* the token, the number
# that the model reads. Where the whole file came out of one training, rank is the order of
# learning. (Later we meet a file that did not.) To encode, start with bytes and repeat: of all
# neighbours that form a known piece, merge those of lowest rank, the leftmost first. Stop when no
# neighbours form a piece. The counts of training are forgotten; so are the text's own statistics.
#
# ## Your turn: use a vocabulary
#
# A merge may open a pair whose rank is lower than all that merged before it.

# %%
def encode(chunk: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Exercise 5.2 ●●○ 8 min. Return the tokens of a chunk. Of all neighbours that form a piece,
    merge the two of lowest rank: the leftmost two, where they stand several times. Look again,
    until no neighbours form a piece.

    Every single byte of the chunk is in `ranks`. The dict may hold its pieces in any order. Do
    not look the whole chunk up first.
    """
    ### BEGIN SOLUTION
    parts = [bytes([byte]) for byte in chunk]
    while pairs := [(ranks[a + b], i)
                    for i, (a, b) in enumerate(pairwise(parts))
                    if a + b in ranks]:
        i = min(pairs)[1]
        parts[i] += parts.pop(i + 1)
    return [ranks[part] for part in parts]
    ### END SOLUTION


check("5.2", encode)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.2.** All these give pieces of the vocabulary that spell the text, so decoding is
# no test of encoding. *The longest piece* is how WordPiece (BERT) encodes. *The most frequent pair
# of this text* repeats training where it has no place. *The leftmost pair* is a loop that merges
# what it meets. *A byte is its own token* is true of vocabularies trained here and false of Llama
# 3's, where token 0 is `!` and `A` is 32. *Text instead of bytes* works as long as all is English:
# pieces may hold half a character. *The dict's order* is right until somebody sorts the file. And
# who strips, lowers or normalises the text first has a tokenizer that cannot give it back.
# ### END SOLUTION
#
# ## Build it: one merge after the other
#
# The package's definition yields the parts after every merge. Below, each merged piece has its
# rank behind it.

# %% twin="llama_edu.tokenizer.merging.merge_steps"
def merge_steps(parts: Sequence, ranks: Mapping) -> Iterator[list]:
    parts = list(parts)
    while True:
        yield list(parts)
        pairs = [(ranks[a + b], i)
                 for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
                 if a + b in ranks]
        if not pairs:
            return
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def with_rank(piece: bytes) -> str:
    rank = f" {new.ranks[piece]}" if len(piece) > 1 else ""
    return piece.decode() + rank


for parts in merge_steps([ALPHABET[byte] for byte in b" rained"], new.ranks):
    print(" | ".join(map(with_rank, parts)))

# %% [markdown]
# Reading it as a person, one would cut ` rained` into ` rain` and `ed`, and both are pieces of
# Llama 3's vocabulary. Now look at the last step. Two merges are open. ` r` and `ain` would make
# ` rain`, whose rank is 11,422. `ain` and `ed` would make `ained`, whose rank is 2,692. The lower
# rank goes first. Then ` r` stands alone. Taking the *longest* piece each time is the usual wrong
# guess. How often does it give another result?

# %%
def merged(chunk: bytes) -> list[bytes]:
    return merge_all([ALPHABET[byte] for byte in chunk], new.ranks)


def longest_first(chunk: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    parts = []
    while chunk:
        n = next(n for n in range(len(chunk), 0, -1) if chunk[:n] in ranks)
        parts, chunk = [*parts, chunk[:n]], chunk[n:]
    return parts


words = {name: {w.encode() for line in lines for w in split(line)}
         for name, lines in sentences.items()}
if REAL_NEW:
    assert longest_first(b" rained", new.ranks) == [b" rain", b"ed"]
    assert (new.ranks[b" rain"], new.ranks[b"ained"]) == (11_422, 2_692)
for name in ("English", "German", "Hindi"):
    other = sum(longest_first(w, new.ranks) != merged(w) for w in words[name])
    print(f"{name}: {other} of {len(words[name])} words cut differently")

# %% [markdown]
# In English few, in German a quarter. A model fed with the longest pieces still reads most words as
# it learnt them, which makes this bug hard to notice. (`merge_all` is the package's fast form of
# `merge_steps`: a queue of candidates in place of a search. Both families use it.)
#
# ## Your turn: one letter more
#
# A model writes a word letter by letter, and each time we encode what stands there. Do the tokens
# in front stay as they are? Not so: ` raine` is ` r`, `aine`. How bad can it be? As bad as can be,
# and you are to build the case. No code stands above that does it; take six letters and paper.

# %%
def domino(letters: bytes) -> dict[bytes, int]:
    """Exercise 5.3 ●●● 12 min. Return ranks with which the last letter moves every cut before it:
    encode `letters`, and then `letters[:-1]`, and the two have no piece in common.

    `letters` are one or more, any, in any order; all differ. Give a rank to each single letter, and
    to what pairs of letters you like, but to nothing longer. Ranks are whole numbers, none twice.
    """
    ### BEGIN SOLUTION
    ranks = {bytes([letter]): letter for letter in letters}
    while len(letters) > 1:
        ranks[letters[-2:]] = 256 + len(ranks)
        letters = letters[:-1]
    return ranks
    ### END SOLUTION


check("5.3", domino)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.3.** With all six letters of `abcdef`, `ef` has the lowest rank and takes the
# `e`; so `de` is gone, `cd` is next and takes the `c`; `ab` is left. Without the `f`, `de` is the
# lowest; it takes the `d` from `cd`, and `bc` takes the `b` from `ab`. So the ranks fall from the
# front to the end, and no other order of these pairs does it. With the ranks in *the order of the
# text* the front is settled before the end is asked.
# ### END SOLUTION
#
# In a real vocabulary chains are short, and words are cut from each other, but the effect is there.
# In Llama 3's, ` doInBackgroun` makes 6 tokens. (Below, `bos=False, eos=False` leaves out BOS
# and EOS, special pieces that mark where a text begins and ends; of them later.)

# %%
guess = None    # and with the `d`: how many tokens does ` doInBackground` make?

# %%
def display(pieces: list[str]) -> str:
    visible = str.maketrans(" \n\r\t", "·⏎␍⇥")
    return " | ".join(piece.translate(visible) for piece in pieces)


n_tokens = {}
for text in (" raine", " rained", " doInBackgroun", " doInBackground",
             "The answer ", "The answer is"):
    n_tokens[text] = len(new.encode(text, bos=False, eos=False))
    print(f"tokens: {n_tokens[text]}  ", display(new.pieces(text)))
assert not REAL_NEW or [*n_tokens.values()] == [2, 2, 6, 1, 3, 3]
reveal("one letter more", guess, n_tokens[" doInBackground"])

# %% [markdown]
# **Tokens do not add up.** To encode a text in two halves is not to encode the whole. A prompt that
# ends with a space is such a half: the space is a token by itself, and the next word comes without
# its own, which the model has hardly ever seen. Leave that space to the answer.
#
# ## Is rank the order of learning?
#
# In a vocabulary that one training made, merging reaches every piece: each was made by a merge, and
# encoding replays the merges in order. If Llama 3's file is such a list, no piece is out of reach.

# %%
guess = None    # how many of Llama 3's 128,000 pieces can merging not reach?

# %% [markdown]
# We try them all, which takes five to ten seconds. And we ask of every thousand ranks how many
# pieces have a letter that is not Latin.

# %%
def not_latin(piece: bytes) -> bool:
    text = piece.decode(errors="ignore")
    return bool(regex.search(r"(?!\p{Latin})\p{L}", text))


of_one_training = {piece: i for i, piece in enumerate([*ALPHABET, *fast])}
for piece in of_one_training:
    whole = merge_all([ALPHABET[byte] for byte in piece], of_one_training)
    assert whole == [piece]
alone = [piece for piece in new.ranks if merged(piece) != [piece]]
by_rank = sorted(new.ranks, key=new.ranks.get)
shares = []
for start in range(0, len(by_rank), 1_000):
    block = by_rank[start : start + 1_000]
    shares.append(100 * sum(map(not_latin, block)) / len(block))
reveal("pieces out of reach", guess, len(alone))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of pieces with letters that are not Latin, for each thousand of Llama 3's 128,000 ranks. It stays at about 3 percent up to rank 100,256, jumps to about 70 percent and stays there. Red ticks, the pieces that merging cannot reach, lie all to the right of the jump."}}
fig, ax = plots.figure(
    "After rank 100,256 the pieces come from somewhere else" if REAL_NEW
    else "One training: no jump",
    x="rank", y="pieces with non-Latin letters (%)")
ax.step(range(0, len(by_rank), 1_000), shares, where="post")
ax.plot([new.ranks[piece] for piece in alone], [90] * len(alone), "|",
        color=plots.VERMILION)
ax.text(0.7 * len(by_rank), 90, "pieces that merging\ncannot reach",
        ha="right", va="center", color=plots.VERMILION)
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
    print("This needs Llama 3's own file. In it the first",
          f"{N_OLDER:,} pieces are cl100k's.")
else:
    lines = new_file.read_bytes().splitlines(keepends=True)[:N_OLDER]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    assert digest in inspect.getsource(cl100k_base)
    assert encoding_name_for_model("gpt-4") == "cl100k_base"
    print("the same SHA-256 as cl100k_base:", digest[:16], "...")
    halves = {"older": by_rank[:N_OLDER], "added": by_rank[N_OLDER:]}
    for name, block in halves.items():
        share = sum(map(not_latin, block)) / len(block)
        print(f"{name}: {len(block):7,} pieces, {share:5.1%} with letters not",
              f"Latin, {len({*alone} & {*block})} out of reach")
    assert (len(alone), min(map(new.ranks.get, alone))) == (588, 100_769)
    viet = " Việt".encode()
    print(*(f"{part.decode()!r} {new.ranks[part]:,}" for part in merged(viet)),
          "but ' Việt' is a piece:", f"{new.ranks[viet]:,}")
    assert new.pieces(" Việt") == new_rebuilt.pieces(" Việt") == [" Việt"]

# %% [markdown]
# Byte for byte it is the vocabulary of GPT-4, *cl100k*: 100,256 of Llama 3's 128,000 pieces were
# learnt by OpenAI, and 27,744 were added behind them. So a rank says in which order pieces merge,
# and it is the order of learning at most within each part. The older merges go first, and they can
# take a word apart in a way from which no later merge leads to the added piece. ` Việt` is one of
# the 588: merging ends at ` Vi`, `ệ`, `t`.
#
# That is why Llama 3 has one more rule, an exception: **a chunk that is a piece stays whole.** It
# is looked up before any merge, which 5.2 forbade.
#
# ## Your turn: the fewest tokens
#
# Merging by rank does not look ahead. With the same pieces, could a word do with fewer? Forget how
# pieces come about: any that spell the chunk, side by side, will do. Trying every way of cutting is
# hopeless: 47 bytes have more ways than a machine can try.

# %%
def fewest(chunk: bytes, ranks: dict[bytes, int]) -> int:
    """Exercise 5.4 ●●● 10 min. Return the smallest number of pieces that spell the chunk.

    Every single byte is in `ranks`. An empty chunk needs 0 pieces.
    """
    ### BEGIN SOLUTION
    reached, n = {0}, 0
    while len(chunk) not in reached:
        reached = {end for start in reached
                   for end in range(start + 1, len(chunk) + 1)
                   if chunk[start:end] in ranks}
        n += 1
    return n
    ### END SOLUTION


report = check("5.4", fewest)
report

# %% [markdown]
# Now to real words (as the pattern cuts them). For how many does merging by rank need more than the
# fewest? Before your function counts them: in which of the twelve languages will there be most?

# %%
guess = None    # the name of a language, as in "German"

# %% [markdown]
# The counts in the first lines are ours. If 5.4 is solved, your own take their place.

# %%
too_long = {"English": 0, "German": 6, "French": 5, "Spanish": 9, "Swahili": 33,
            "Russian": 13, "Arabic": 16, "Hindi": 0, "Thai": 5, "Korean": 1,
            "Japanese": 1, "Chinese": 2}
for name, chunks in words.items():
    if report.passed:
        longer = sum(len(merged(w)) > fewest(w, new.ranks) for w in chunks)
        assert not REAL_NEW or longer == too_long[name]
        too_long[name] = longer
    print(f"{name:9}{too_long[name]:3} of {len(chunks)} words")
reveal("most words too long", guess, max(too_long, key=too_long.get))

# %% [markdown]
# English 0, Hindi 0, Arabic 16 of 302, Swahili 33 of 311. Merging by rank never looks ahead, and in
# most of these languages it is nearly optimal all the same.
#
# ### BEGIN SOLUTION
# **Discussion of 5.4.** The Swahili ` Jumapili`, Sunday, takes four tokens where three would do.
# The set `reached` holds every place where `n` pieces can end, so each place is looked at once a
# step, however many ways lead to it. A table `best[end]` of the fewest for each beginning does the
# same; both are *dynamic programming*. *Longest first*, from either side, is close and no proof;
# *every way* is right and takes longer than your patience.
# ### END SOLUTION
#
# *A good place to rest. So far a vocabulary was trained, used, and doubted. The second half asks
# what else differs between the families, and what a language pays.*
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
MINE = "Born on 2024-04-18."    # write your own sentence here


def cut_by_smol(text: str) -> list[str]:
    return [smol.decode([i]) for i in smol.encode(text, bos=False, eos=False)]


cutters = {"old": old.pieces, "new": new.pieces, "SmolLM2": cut_by_smol}
for text in ("1234", "  return", "羊驼", "🦙", MINE):
    print(repr(text))
    for name, cut in cutters.items():
        print(f"   {name:9}{display(cut(text))}")
if REAL_NEW:
    assert (new.ranks[b"!"], new.ranks[b"A"]) == (0, 32)
if installed.find("smollm2"):
    assert cut_by_smol("1234") == ["1", "2", "3", "4"]
assert [piece for piece, *_ in old_rebuilt.file.pieces[1:3]] == ["<s>", "</s>"]
assert len(new.special) == 256 and min(new.special.values()) == len(new.ranks)

# %% [markdown]
# There is the answer to our question. Llama 2's training was told that no piece may hold two
# digits, so `1234` is four tokens behind the prefix. Llama 3's pattern lets
# three digits stand together, and every such group is a piece. SmolLM2 is of Llama 3's kind, bytes
# and merges, and cuts digits one by one all the same: it is a rule of the pattern, not of the kind.
# (`�` stands for bytes that are no whole character.)

# %% tags=["nbval-check-output"]
old_pieces = [text for text, _, kind in old_rebuilt.file.pieces
              if kind == NORMAL]
two_digits = [text for text in old_pieces if regex.search("[0-9].*[0-9]", text)]
numbers = [piece for piece in new.ranks if piece.isdigit()]
lengths = Counter(map(len, numbers))
print("old: pieces with two digits or more:", len(two_digits))
print("new: pieces of digits, by length:   ", dict(sorted(lengths.items())))
assert not REAL_NEW or max(map(new.ranks.get, numbers)) < N_OLDER

# %% [markdown]
# One digit a token is slow and regular: the last token of a number is always its ones. With threes
# from the left, `123` is worth 1,230 in `1234` and 12,300 in `12345`; only the number's length
# tells.
#
# The dummy prefix has a reason too. With it, `the` at the start of a text is the same piece as
# inside it, where a space stands before it. In Llama 3 the two are different tokens.
#
# Write Llama 2's rules, without any merge. Do not forget what comes before a text.

# %%
def llama2_tokens(text: str, ids: dict[str, int]) -> list[int]:
    """Exercise 5.5 ●●○ 8 min. Return the tokens of a text by Llama 2's rules, first BOS, the
    token that begins a text: 1.

    `ids` has single characters only, among them `▁`, which stands for a space. A character that
    is not in `ids` is spelled in bytes; byte `b` is token `3 + b`. An empty text is BOS alone,
    without a dummy prefix.
    """
    ### BEGIN SOLUTION
    tokens = [1]
    for character in (" " + text if text else "").replace(" ", "▁"):
        spelled = [3 + byte for byte in character.encode()]
        tokens += [ids[character]] if character in ids else spelled
    return tokens
    ### END SOLUTION


check("5.5", llama2_tokens)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.5.** *No dummy prefix*: the first word of every prompt becomes a piece that the
# model met only inside words. It copes, and is a little worse at everything. *Unknown as `<unk>`*
# throws the character away: emoji and rare names are gone, and nothing downstream can bring them
# back. *BOS twice* is what happens when a template and a tokenizer each add one. *Bytes without the
# offset* turns byte 1 into `<s>`, and every other into its neighbour three below.
# ### END SOLUTION
#
# > **Careful.** Special pieces are tokens, not text. In a chat the token `<|eot_id|>` says that one
# > has finished speaking and the other's turn begins. A user who types it must not be able to do
# > that.

# %%
message, begin = "<|eot_id|>", "<|begin_of_text|>"
as_text = new.encode(message, bos=False, eos=False)
allowed = new.encode(message, bos=False, eos=False, allow_special={message})
twice = new.encode(begin + "Hi", bos=True, eos=False, allow_special={begin})

print("as text:", len(as_text), "tokens", display(new.pieces(message)))
print("allowed:", allowed, "   BOS twice:", twice)
assert new.decode(as_text) == message
assert allowed == [new.special[message]]

# %% [markdown]
# The last line shows another frequent mistake: a prompt that already has its BOS, encoded with
# `bos=True`. Nothing raises, and the model sees a beginning that it never saw in training.
#
# ## Bug hunt: six encoders
#
# Six encoders share one small vocabulary. Each takes a text and gives its pieces, and most have one
# mistake. Below is the vocabulary, and an encoder that is `right`; the suspects come by letter.
# Which mistake is in which? Nothing can be read off a single text. Ask yourself what each mistake
# would do to a text, write that text, and compare: words, numbers, white space, odd characters. A
# `*` marks what differs from `right`; `⏎`, `␍` and `⇥` are `\n`, `\r` and `\t`. `longest_first` and
# `merge_steps` from above, called with `right.ranks`, tell what those ways make of a chunk.
#
# Verdicts: `healthy`, `longest piece first`, `leftmost pair first`, `merges across chunks`,
# `digits from the right`, `digits one by one`, `spaces lost`, `normalised` (to Unicode's NFKC,
# which makes the ligature `ﬁ` into `fi`), `small letters`, `line ends changed`,
# `special pieces obeyed`. Not every mistake has its suspect.

# %%
right = BytePairs.train(
    "\n".join([*sentences["English"], *[sample("digits")] * 3]),
    n_vocab=600, special=["<|eot_id|>"])
text = "The llama is high."     # write your own texts
print(f"{'right':8}", display(right.pieces(text)))
for letter, suspect in suspects("5.6").items():
    differs = suspect(text) != right.pieces(text)
    print(f"{letter} {'*' * differs:6}", display(suspect(text)))

# %%
# Exercise 5.6 ●●● 15 min. Which mistake is in which suspect?
found = {"a": "?", "b": "?", "c": "?", "d": "?", "e": "?", "f": "?"}
### BEGIN SOLUTION
found = {"a": "leftmost pair first", "b": "normalised",
         "c": "special pieces obeyed", "d": "healthy",
         "e": "digits from the right", "f": "longest piece first"}
### END SOLUTION

check("5.6", found)

# %% [markdown]
# ### BEGIN SOLUTION
# **Discussion of 5.6.** `x²` comes back as `x2` from `b` alone. `c` makes one piece of
# `<|eot_id|>`, the injection of above. `1234` parts `e` from the others; `12345` would not tell it
# from merging *across chunks*, which gives the same pieces there. `a` and `f` both differ on
# ` Monday`; ` mountain` parts them: taking the longest piece finds it, taking the leftmost pair
# does not. Nobody proves `d` healthy; one only stops finding differences.
# ### END SOLUTION
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
print(len(texts), "texts: the same tokens from library and Python, and back")

# %% [markdown]
# The package's tests ask the same of thousands of random Unicode strings.
#
#
# ## What does a language pay?
#
# *Fertility* is tokens per unit of text. Our sentences are parallel, so we can ask what it costs to
# say *the same*. The English ones make 569 tokens in Llama 3's vocabulary.

# %%
guess_chinese = None    # tokens of the same in Chinese, English being 569
guess_hindi = None      # and in Hindi

# %%
vocabularies = {"old": old, "new": new, "SmolLM2": smol}
n_tokens = {kind: {name: len(tokenizer.encode(text, bos=False, eos=False))
                   for name, text in texts.items()}
            for kind, tokenizer in vocabularies.items()}
n_old, n_new, n_smol = n_tokens.values()

print(f"{'':20}{'tokens':>12}{'':18}tokens a character")
columns = "".join(f"{kind:>9}" for kind in vocabularies)
print(f"{'':9}{'characters':>11}{columns}{columns}")
for name, text in texts.items():
    tokens = "".join(f"{n[name]:9,}" for n in n_tokens.values())
    each = "".join(f"{n[name] / len(text):9.2f}" for n in n_tokens.values())
    print(f"{name:9}{len(text):11,}{tokens}{each}")
assert not REAL_NEW or n_new["English"] == 569
if installed.find("smollm2"):
    few = [n_smol[name] for name in ("English", "Thai", "Korean")]
    assert few == [629, 3_693, 2_725]

# %% [markdown]
# So how far off were you?

# %%
print(reveal("Chinese", guess_chinese, n_new["Chinese"]))
print(reveal("Hindi", guess_hindi, n_new["Hindi"]))

# %% [markdown]
# By the character, Korean is the dearest in the old vocabulary (1.15 tokens), just before Japanese
# (1.14) and Chinese (1.13). In Llama 3 all three pay less, and Chinese is left at the top with
# 0.80. But a Chinese character says more than a letter. Compare both measures:

# %%
order = sorted(LANGUAGES, key=lambda name: n_new[name])
per_character = [{name: n[name] / len(texts[name]) for name in order}
                 for n in n_tokens.values()]
same_text = [{name: n[name] / n["English"] for name in order}
             for n in n_tokens.values()]
if REAL:
    old_dearest, new_dearest = (sorted(table, key=table.get)[-3:]
                                for table in per_character[:2])
    assert old_dearest == ["Chinese", "Japanese", "Korean"]
    assert new_dearest == ["Korean", "Japanese", "Chinese"]
    assert round(same_text[1]["Chinese"], 2) == 1.13
    assert round(same_text[1]["Hindi"], 1) == 2.2
    assert same_text[0]["Hindi"] > 3.9
    assert all(n_new[name] < n_old[name] for name in texts)
print("the same sentences, times English:")
for name in ("Chinese", "Hindi", "Thai"):
    ratios = zip(n_tokens, (table[name] for table in same_text), strict=True)
    print(f"{name:9}", ", ".join(f"{r:.1f} in {kind}" for kind, r in ratios))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels, twelve languages, one mark for each of three vocabularies. Tokens per character: in the new vocabulary English lowest with 0.22, Chinese highest with 0.80; in the old one Korean highest with 1.15. Tokens for the same sentences relative to English: in the new vocabulary Chinese 1.1 and Hindi 2.2; in the old one Hindi is at 4.0. SmolLM2's has English at 0.24 and Korean at 2.03 tokens a character, and Thai costs 5.9 times as much as English."}}
looks = (("o", plots.VERMILION, "old, 32k"), ("D", plots.BLUE, "new, 128k"),
         ("^", plots.GREEN, "SmolLM2, 49k"))
titles = ("tokens per character",
          "tokens for the same sentences\n(English = 1 in each)")
fig, panels = plots.figure(
    "Dear by the character, cheap by the sentence: look at Chinese",
    x="", y="", columns=2, size=(6.4, 4.6))
tables_of = (per_character, same_text)
for ax, tables, title in zip(panels, tables_of, titles, strict=True):
    for y, name in enumerate(order):
        ax.plot([table[name] for table in tables[:2]], [y, y],
                color="#bbbbbb", linewidth=3, zorder=1)
    for table, (mark, colour, label) in zip(tables, looks, strict=True):
        ax.plot([table[name] for name in order], range(12), mark,
                color=colour, label=label)
    ax.set(yticks=range(12), yticklabels=order if ax is panels[0] else [],
           xlim=(0, None), xlabel=title)
    ax.get_yticklabels()[order.index("Chinese")].set_fontweight("bold")
_ = panels[1].legend(loc="lower right")

# %% [markdown]
# In Llama 3 Chinese is the dearest of the twelve by the character, and by the sentence it is only
# 13 % above English. Hindi pays more than twice as much as English in Llama 3, and paid four times
# as much in the old vocabulary. SmolLM2 is a model for English, and its vocabulary shows it:
# English costs a tenth more than in Llama 3, with two fifths of the pieces, and Thai costs six
# times as much as English. Price is meant literally: tokens are time, memory in the cache of
# chapter 03, context, and money. (Sixty short sentences of ours; other texts give other numbers.)
#
# ## Play: one text, two trainers, five sizes
#
# How large must a vocabulary be? We train both ways on the same text and measure bytes per token on
# text held back: the last third of the sentences, and other files of Python's library. The
# byte-level ranks of 8,192 contain those of every smaller vocabulary, so we train once and cut.

# %%
last_20 = [line for lines in sentences.values() for line in lines[40:]]
held = {"twelve languages": "\n".join(last_20),
        "Python code": code[1_000_000:1_060_000]}
merges = islice(grow(count_chunks(practice)), 8_192 - 256)
learnt = [*ALPHABET, *(merge.piece for merge in merges)]


def byte_level(n_vocab: int) -> BytePairs:
    return BytePairs({piece: i for i, piece in enumerate(learnt[:n_vocab])})


def sentence_pieces(n_vocab: int, **other_settings) -> SentencePieceTokenizer:
    model = train_sentencepiece(n_vocab, **other_settings)
    return SentencePieceTokenizer(
        sentencepiece.SentencePieceProcessor(model_proto=model))


try:
    train_sentencepiece(512)
except RuntimeError as refused:
    smallest = int(regex.search(r"512 vs (\d+)", str(refused))[1])
    print("SentencePiece refuses 512 pieces: this text needs",
          f"{smallest:,} before the first merge")

# %% [markdown]
# That is the first surprise. SentencePiece's trainer gives every character of the text a piece of
# its own (all but the rarest 0.005 %, Llama 2's setting) before it merges anything. Ours has twelve
# languages. At 8,192 pieces, then, where will SentencePiece have more bytes per token?

# %%
guess = None    # "twelve languages", "Python code", "both" or "neither"

# %% [markdown]
# Now the trainings, some seconds each.

# %%
sizes = sorted({512, 1024, smallest, 2048, 4096, 8192})
trained = {"byte level": {n: byte_level(n) for n in sizes},
           "SentencePiece": {n: sentence_pieces(n) for n in sizes
                             if n >= smallest}}


def bytes_per_token(tokenizer, text: str) -> float:
    tokens = tokenizer.encode(text, bos=False, eos=False)
    return len(text.encode()) / len(tokens)


curves = {name: {way: {n: bytes_per_token(tokenizer, text)
                       for n, tokenizer in of_size.items()}
                 for way, of_size in trained.items()}
          for name, text in held.items()}
print(f"{'':31}", *(f"{n:7,}" for n in sizes))
for name, ways in curves.items():
    for way, curve in ways.items():
        row = (f"{curve[n]:7.2f}" if n in curve else 7 * " " for n in sizes)
        print(f"{name + ', ' + way:31}", *row)
wins = [name for name, ways in curves.items()
        if ways["SentencePiece"][8192] > ways["byte level"][8192]]
reveal("SentencePiece leads", guess, ("neither", *wins[:1], "both")[len(wins)])

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bytes per token against vocabulary size from 512 to 8,192. Byte-level training rises steadily, from 1.3 to 2.6 in twelve languages and from 2.3 to 4.1 on code. SentencePiece starts at 1,175 pieces, passes it in twelve languages to reach 2.7, and stays behind on code at 3.6."}}
fig, panels = plots.figure(
    "SentencePiece pays an entrance fee; then each way has its text",
    x="vocabulary size", y="bytes per token", columns=2)
for ax, (name, ways) in zip(panels, curves.items(), strict=True):
    for (way, curve), style in zip(ways.items(), ("o-", "s--"), strict=True):
        ax.semilogx([*curve], [*curve.values()], style, base=2, label=way)
    ticks = [512 * 2**i for i in range(5)]
    ax.set(title=name, ylim=(0.8, 4.4), xticks=ticks,
           xticklabels=[f"{n:,}" for n in ticks])
panels[1].set_ylabel("")
_ = panels[0].legend(loc="upper left")

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

# %% tags=["nbval-check-output"]
WITH_MARKS = LLAMA3_PATTERN.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+",
                                    r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+")
word = "रविवार"  # Sunday
print("Llama 3's pattern:", len(split(word)), "chunks")
print("with marks:", len(split(word, WITH_MARKS)))

# %% [markdown]
# Suspicion is no proof. We change one rule at a time, train again with 8,192 pieces, and count
# tokens on the texts that were held back. Which rule costs SentencePiece most on code? The cell
# after your guess takes about ten seconds.

# %%
guess = None    # "scripts", "digits", or "neither": under a tenth of the gap

# %%
held |= {name: "\n".join(sentences[name][40:]) for name in ("Hindi", "Thai")}
with_marks = BytePairs.train(practice, n_vocab=8_192, pattern=WITH_MARKS)
trained = {
    "byte level": byte_level(8_192),
    "byte level, marks are letters": with_marks,
    "SentencePiece": sentence_pieces(8_192),
    "SentencePiece, digits together": sentence_pieces(
        8_192, split_digits=False),
    "SentencePiece, across scripts": sentence_pieces(
        8_192, split_by_unicode_script=False),
}
n_held = {rule: {name: len(tokenizer.encode(text, bos=False, eos=False))
                 for name, text in held.items()}
          for rule, tokenizer in trained.items()}
print(" " * 31 + "".join(f"{name:>{len(name) + 2}}" for name in held))
for rule, row in n_held.items():
    columns = (f"{n:{len(name) + 2},}" for name, n in row.items())
    print(f"{rule:31}" + "".join(columns))

plain, marks, pieces, digits, across = n_held.values()
gap = {name: pieces[name] - plain[name] for name in held}
saved = {name: pieces[name] - across[name] for name in held}
won = {"scripts": saved["Python code"],
       "digits": pieces["Python code"] - digits["Python code"],
       "neither": gap["Python code"] / 10}
reveal("costs most on code", guess, max(won, key=won.get))

# %% [markdown]
# And where do the places in a vocabulary go? We count the pieces that have Thai letters.

# %%
thai = {}
for rule in ("SentencePiece", "SentencePiece, digits together",
             "SentencePiece, across scripts"):
    vocabulary = map(trained[rule].inner.id_to_piece, range(8_192))
    thai[rule] = sum(bool(regex.search(r"\p{Thai}", p)) for p in vocabulary)
for rule, n in thai.items():
    print(f"pieces with Thai letters: {rule:31}{n}")
assert saved["Python code"] > gap["Python code"] / 2
assert won["digits"] < won["neither"]
assert saved["twelve languages"] < gap["twelve languages"] < 0
assert digits["twelve languages"] > plain["twelve languages"]
assert plain["Hindi"] - marks["Hindi"] > 20
assert abs(plain["Thai"] - marks["Thai"]) < 5
assert thai["SentencePiece"] == max(thai.values()) > min(thai.values())
if plain["twelve languages"] == 5_790:      # the same Python as in the text
    assert digits["twelve languages"] == 5_805
    assert [*thai.values()] == [322, 240, 181]

# %% [markdown]
# **On code, scripts decide.** Letting pieces cross them wins back more than half of the gap here;
# digits are next to nothing. **In twelve languages either freedom**, across scripts or digits
# together, **costs SentencePiece its whole lead** (look at the table: both end above byte level). A
# vocabulary has 8,192 places, and places that go to code are lost to others: the counts of Thai
# pieces show it, 322, 240 and 181. Marks matter for Hindi, and do next to nothing for Thai. (All
# this is true of our texts and this size. The code is your Python's, so your counts may differ from
# another reader's.)
#
# Why not a million pieces, then? Because each piece is a row of the embedding.
#
# ## In the Llamas: what a larger vocabulary costs

# %% tags=["nbval-check-output"]
for kind in dict.fromkeys(r.tokenizer for r in RELEASES):
    group = [r for r in RELEASES if r.tokenizer == kind]
    of_group = sorted({r.config.vocab_size for r in group})
    print(f"{kind}: {len(group)} releases, {of_group} tokens, "
          f"first {group[0].id}")
for name in ("llama-2-7b", "llama-3-8b", "llama-3.2-1b", "llama-3.1-405b"):
    count = parameters(release(name).config)
    tables = count.embedding + count.output
    print(f"{name:15} {tables:14,} parameters around the blocks, "
          f"{tables / count.total:5.1%} of all")

# %% [markdown]
# (The 32,016 are Code Llama's, which has sixteen pieces more, for filling gaps in a program.) The
# larger vocabulary is one percent of the 405B model and a fifth of the 1B, which therefore uses
# one table for both ends.
#
# ## Fact check
#
# Four sentences that one can read about Llama 3's tokenizer, "before" being Llama 2. Judge them
# before you read on: `right`, `wrong`, `imprecise`, or `open` where nothing could settle it. The
# first names no text; take it of English prose. For the last, think of what `merge_all` serves.

# %%
claims.judge({"E32": "?", "B24": "?", "D67": "?", "D66": "?"})

# %% [markdown]
# First the lengths. We have counted with Llama 2's own file on larger texts, once; those counts
# are written down here. Below them our own samples, with the stand-in. Each line: characters per
# token before and after, and how many tokens fewer that is.

# %%
COUNTED = {     # characters, old tokens, new tokens
    "English prose": (340_563, 96_395, 81_799),
    "English with code": (480_937, 150_281, 123_391),
    "Python": (903_746, 280_148, 210_561),
    "Chinese characters": (83_008, 112_729, 62_725),
}
names = ("English", "Swahili", "python", "Chinese", "Korean", "Arabic")
samples = {name: (len(texts[name]), n_old[name], n_new[name]) for name in names}
for title, table in {"with Llama 2's file": COUNTED, "here": samples}.items():
    for name, (n, before, after) in table.items():
        print(f"{title:20} {name:19}{n / before:5.2f} -> {n / after:.2f}",
              f"{1 - after / before:7.1%}")
        assert not REAL or n / before < n / after
print(f"{'Llama 3 paper':20} {'English':19} 3.17 -> 3.94",
      f"{1 - 3.17 / 3.94:7.1%}")

# %% [markdown]
# Then the Chinese characters, one by one. Here too the last line was counted with Llama 2's file.

# %%
ideographs = [chr(number) for number in range(0x4E00, 0x4E00 + 20_902)]
by_bytes = Counter(len(merged(c.encode())) for c in ideographs)
known = sum(c in old_rebuilt.ids for c in ideographs)
print("new: characters by tokens:", dict(sorted(by_bytes.items())))
print(f"old: {known:,} characters are a piece, {20_902 - known:,} take three")

running = [c for c in texts["Chinese"] if "\u4e00" <= c <= ideographs[-1]]
single = {"old": sum(c in old_rebuilt.ids for c in running),
          "new": sum(c.encode() in new.ranks for c in running)}
both = {"old": old_pieces,
        "new": [piece.decode(errors="ignore") for piece in new.ranks]}
two = regex.compile(r"\p{Han}{2}")
longer = {name: sum(bool(two.search(piece)) for piece in pieces)
          for name, pieces in both.items()}
for name in both:
    print(f"{name}: {single[name] / len(running):.0%} of the characters in our",
          f"running text are one piece;\n     {longer[name]:,} pieces have two",
          "Chinese characters or more")
assert not REAL or longer == {"old": 3, "new": 1_442}
print("with Llama 2's file: 700 characters are a piece; of another running",
      "text 80.7 % are one, in Llama 3 98.9 %", sep="\n")

# %% [markdown]
# And is one algorithm faster? Times are of this machine; yours will differ.

# %%
text = code[:60_000]
ways = {"sentencepiece, C++": old, "tiktoken, Rust": new,
        "old rebuilt": old_rebuilt, "new rebuilt": new_rebuilt}
for name, tokenizer in ways.items():
    seconds = []
    for _ in range(5):
        start = time.process_time()
        tokenizer.encode(text, bos=False, eos=False)
        seconds.append(time.process_time() - start)
    per_second = len(text) / min(seconds) / 1e6
    print(f"{name:19} {per_second:5.2f} million characters a second")

# %% [markdown]
# Now the verdicts. The boxes read from the ledger of published claims, and do each sum again.

# %%
claims.show("E32", "B24", "D67", "D66")

# %% [markdown]
# **Lengths: right, of English prose.** There we counted 15.1 % fewer; English with markdown and
# code in it saves 17.9 %, Python 24.8 %, Chinese characters 44.4 %. The paper's own pair, 3.17 and
# 3.94 characters a token, makes 19.5 %, and it does not say of which text. The sentence
# circulates with "up to" as well, and as a bound it is wrong.
#
# **Characters: wrong about both.** In Llama 3 about one character in nine is one token, and most
# take two. Frequent characters are what one reads, so in running text nearly all are one token: but
# so were most before, 80.7 % by Llama 2's own file. What is new is that many *pairs* of characters
# are one token: 1,442 pieces, against 3 in the stand-in.
#
# **Finer: the reverse.** A larger vocabulary has longer pieces, so the cut is coarser: in the table
# above, a token holds more characters after than before in every line.
#
# **Faster: imprecise.** Both merge by rank, and in our package the *same function*, `merge_all`,
# serves both families. A difference comes from the rules around it, or from how a library is
# written. "The library is faster", says the ledger; in our runs of this text the two were not far
# apart. What our Python shows is a *rule* at work: the same `merge_all`, over ten times as fast
# for the new family. Llama 3 cuts the text into chunks first; SentencePiece merges in the whole
# text at one go. On this text our Python even comes near the Rust library. It does not merge that
# fast: it merges each different chunk once, and code repeats itself.
#
# ## Summary: merges, and rules around them
#
# - UTF-8 turns any text into bytes. BPE merges the most frequent neighbours, inside the chunks of
#   a pattern.
# - Encoding replays merges by rank. Longest match, or frequency in the text at hand, gives other
#   tokens. One letter more can move every cut before it.
# - A rank says what merges first. In Llama 3 it is not the order of learning: GPT-4's vocabulary
#   stands first, and 27,744 pieces for other languages behind it.
# - `1234`: no piece of Llama 2's has two digits; Llama 3's pattern takes three from the left.
# - The two families share the algorithm and differ in rules: chunks, spaces, digits, what is
#   unknown, special pieces.
# - Count tokens for the same sentences, and not only per character. In Llama 3 our Chinese costs
#   13 % more than our English, our Hindi more than twice as much.
# - Special pieces are tokens. Never let a user's text become one.
#
#
# **Read in the package:** `llama_edu.tokenizer.bpe.grow`, `llama_edu.tokenizer.merging` (fifty
# lines, both families), and `llama_edu.tokenizer.sentencepiece_rebuilt`. **Read elsewhere:**
# Sennrich, Haddow and Birch 2016, *Neural Machine Translation of Rare Words with Subword Units*;
# Kudo and Richardson 2018, *SentencePiece*; Petrov et al. 2023, *Language Model Tokenizers
# Introduce Unfairness Between Languages*.
