"""Published tables of data: what Llama 1 read, what Llama 2 saw, and what people preferred."""

from ...family.releases import release

# (share of what is read in per cent, times read): Touvron et al. 2023a, table 1.
LLAMA_1_MIX = {
    "CommonCrawl": (67.0, 1.10), "C4": (15.0, 1.06), "Github": (4.5, 0.64),
    "Wikipedia": (4.5, 2.45), "Books": (4.5, 2.23), "ArXiv": (2.5, 1.06),
    "StackExchange": (2.0, 1.03)}
COUNTED_FOR = "llama-1-65b"     # the table counts for a run of this length
# Languages of the Wikipedia dumps: Touvron et al. 2023a, section 2.1.
WIKIPEDIA = ("bg", "ca", "cs", "da", "de", "en", "es", "fr", "hr", "hu", "it", "nl", "pl", "pt",
             "ro", "ru", "sl", "sr", "sv", "uk")

# Per cent of the documents, as fastText tells the language: Touvron et al. 2023b, table 10.
LLAMA_2_LANGUAGES = {
    "en": 89.70, "unknown": 8.38, "de": 0.17, "fr": 0.16, "sv": 0.15, "zh": 0.13, "es": 0.13,
    "ru": 0.13, "nl": 0.12, "it": 0.11, "ja": 0.10, "pl": 0.09, "pt": 0.09, "vi": 0.08,
    "uk": 0.07, "ko": 0.06, "ca": 0.04, "sr": 0.04, "id": 0.03, "cs": 0.03, "fi": 0.03,
    "hu": 0.03, "no": 0.03, "ro": 0.03, "bg": 0.02, "da": 0.02, "sl": 0.01, "hr": 0.01}

# Per cent of the tokens: Grattafiori et al. 2024, section 3.1.2.
LLAMA_3_MIX = {"general knowledge": 50, "mathematics and reasoning": 25, "code": 17,
               "multilingual": 8}

# Comparisons and mean turns of a dialogue: Touvron et al. 2023b, table 6.
PREFERENCES = {
    "Anthropic Helpful": (122_387, 3.0), "Anthropic Harmless": (43_966, 3.0),
    "OpenAI Summarize": (176_625, 1.0), "OpenAI WebGPT": (13_333, 1.0),
    "StackExchange": (1_038_480, 1.0), "Stanford SHP": (74_882, 1.0),
    "Synthetic GPT-J": (33_139, 1.0), "Meta": (1_418_091, 3.9)}


def share_of_mix(*sources: str) -> float:
    """What these sources are of all that Llama 1 read, in per cent; of all, where none is named."""
    return sum(LLAMA_1_MIX[source][0] for source in sources or LLAMA_1_MIX)


def times_read(source: str) -> float:
    """How often Llama 1 met a token of this source, on average."""
    return LLAMA_1_MIX[source][1]


def tokens_read() -> float:
    """Tokens that the table counts for, with repetitions (10**12)."""
    return release(COUNTED_FOR).training.tokens / 1e12


def different_tokens() -> float:
    """Tokens of Llama 1's data (10**12) when each is counted once, however often it was read.

    A source that was not read to its end counts with all its tokens.
    """
    return sum(share / 100 * tokens_read() / times for share, times in LLAMA_1_MIX.values())


def mean_times_read() -> float:
    """How often Llama 1 read a token of its data, over all sources."""
    return tokens_read() / different_tokens()


def share_read_about_once() -> float:
    """What the sources that were read 0.5 to 1.5 times are of all that was read, in per cent."""
    return sum(share for share, times in LLAMA_1_MIX.values() if round(times) == 1)


def wikipedia_languages() -> int:
    """How many languages Llama 1's Wikipedia is in."""
    return len(WIKIPEDIA)


def language_share(language: str) -> float:
    """What a language is of Llama 2's documents, in per cent."""
    return LLAMA_2_LANGUAGES[language]


def languages_named() -> int:
    """How many languages the table of Llama 2 names, English among them."""
    return len(LLAMA_2_LANGUAGES) - 1


def share_of_other_languages() -> float:
    """What all named languages but English are of Llama 2's documents together, in per cent."""
    return sum(LLAMA_2_LANGUAGES.values()) - language_share("en") - language_share("unknown")


def llama_3_share(kind: str) -> int:
    """What a kind of text is of Llama 3's tokens, in per cent, by the paper of July 2024."""
    return LLAMA_3_MIX[kind]


def comparisons(*sets: str) -> int:
    """Comparisons in these sets of preferences; in all eight, where none is named."""
    return sum(PREFERENCES[name][0] for name in sets or PREFERENCES)


def open_comparisons() -> int:
    """Comparisons in the seven sets that others had published."""
    return comparisons() - comparisons("Meta")


def largest_open_set() -> int:
    """Comparisons in the largest of the seven sets that others had published."""
    return max(n for name, (n, _) in PREFERENCES.items() if name != "Meta")


def turns_named() -> list[tuple[float, int]]:
    """The mean lengths of dialogues that the table prints, and in how many sets each occurs."""
    turns = [each for _, each in PREFERENCES.values()]
    return [(each, turns.count(each)) for each in sorted(set(turns), reverse=True)]


def mean_turns() -> float:
    """Turns of a dialogue on average, each set counting as often as it has comparisons."""
    return sum(n * turns for n, turns in PREFERENCES.values()) / comparisons()
