"""How a text is cut into words before pieces form, under the names that GGUF files give it.

A cut is one pattern after another: each isolates what it finds in the parts that the ones before
left. The patterns are those of the models' `tokenizer.json` where llama.cpp keeps them, and its own
(`llama-vocab.cpp`) where it does not: a GGUF file is made to be read by llama.cpp.
"""

from typing import NamedTuple

from ..bpe import LLAMA3_PATTERN


class Cut(NamedTuple):
    """A way to cut a text into words."""

    patterns: tuple[str, ...]
    whole_words: bool = False   # a word that is a piece stays whole, whatever merging arrives at
    adds_bos: bool = False      # where the file does not say it


# These are also what rules of a tokenizer.json stand for: Digits, and ByteLevel's own pattern.
DIGIT, DIGITS = r"\p{N}", r"\p{N}+"
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
SEED_PATTERN = (ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|"
                r"\s+(?!\S)|\s+")
SENTENCE = r" ?[^(\s|.,!?…。，、।۔،)]+"
# Capitals begin a word: "helloWorld" becomes "hello", "World". Letters beyond a-z count as both.
UPPER, LOWER = r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN_PATTERN = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|"
                  rf"\p{{N}}|{REST}")
GPT4O_PATTERN = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDINGS}?|"
                 rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDINGS}?|\p{{N}}{{1,3}}|{REST}")
LETTERS = (     # of the scripts that have capitals, as DeepSeek's files list them
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕ"
    "ἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳ"
    "Ꙁ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
CHINESE = r"[一-龥ࠀ-一가-퟿&&\S]+"
DEEPSEEK_LLM = ("[\r\n]", rf"\s?[{LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟、。]+", r"\s+$",
                CHINESE, DIGITS)
DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CHINESE, DIGIT)
DEEPSEEK_V3 = (r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
               r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"
               r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|"
               r"\s+(?!\S)|\s+")
FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]")
DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, DIGITS, "[0-9][0-9][0-9]")

# Of several names for one cut the first is written.
CUTS = {name: cut for names, cut in (
    ("llama-bpe llama3 llama-v3 falcon3 pixtral midm-2.0 falcon-h1 lfm2 jina-v5-nano",
     Cut((LLAMA3_PATTERN,), whole_words=True, adds_bos=True)),
    ("smaug-bpe dbrx chatglm-bpe", Cut((LLAMA3_PATTERN,))),
    ("glm4", Cut((LLAMA3_PATTERN,), whole_words=True)),
    ("smollm refact starcoder command-r codeshell exaone minerva-7b mellum2",
     Cut((DIGIT, GPT2_PATTERN))),
    ("gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat mellum a.x-4.0 exaone4 "
     "modern-bert", Cut((GPT2_PATTERN,))),
    ("qwen2 deepseek-r1-qwen megrez stablelm2 kormo hunyuan solar-open grok-2",
     Cut((QWEN2_PATTERN,))),
    ("deepseek-llm", Cut(DEEPSEEK_LLM)),
    ("deepseek-coder", Cut(DEEPSEEK_CODER)),
    ("deepseek-v3 hunyuan-dense", Cut(DEEPSEEK_V3)),
    ("tekken", Cut((TEKKEN_PATTERN,), whole_words=True, adds_bos=True)),
    ("gpt-4o llama4", Cut((GPT4O_PATTERN,))),
    ("seed-coder", Cut((SEED_PATTERN,))),
    ("viking", Cut((SENTENCE, DIGIT))),
    ("poro-chat bloom gpt3-finnish", Cut((SENTENCE,))),
    ("superbpe", Cut((DIGITS, r"(?=([0-9]{3})+(?![0-9]))"))),
    ("falcon", Cut(FALCON)),
    ("default", Cut(DEFAULT)),
) for name in names.split()}
