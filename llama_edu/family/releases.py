"""The whole family as data: every published text model, its shape and the facts of its training.

Shapes are what the checkpoints hold; where Meta's own tables disagree with them, the row says so
in `notes`. Training figures are quoted from model cards and papers: what was not published is
None, never guessed. For the vision models the shape is that of the text trunk.
"""

from dataclasses import dataclass, replace
from datetime import date

from ..config import LLAMA_3_1_SCALING, ModelConfig

A100, H100 = "A100-80GB", "H100-80GB"


@dataclass(frozen=True)
class Training:
    """What was published about the training run. Numbers are exact only where the cards are."""

    tokens: float | None = None         # "15T+" and "up to 9T" are stored as 15e12 and 9e12
    gpu_hours: float | None = None
    gpu: str | None = None
    watts: int | None = None            # per GPU
    tonnes_co2: float | None = None     # as printed, location based
    max_lr: float | None = None
    batch_tokens: float | None = None
    warmup_steps: int | None = None
    cutoff: str | None = None           # newest knowledge, year-month
    start: str | None = None            # id of the release whose weights it began from


@dataclass(frozen=True)
class Release:
    """One published model. `released` is None for the one that was trained and withheld."""

    id: str
    family: str
    released: date | None
    variants: tuple[str, ...]
    config: ModelConfig
    multiple_of: int                    # with ffn_dim_multiplier: how hidden_dim was derived
    ffn_dim_multiplier: float | None
    tokenizer: str
    licence: str
    shards: int                         # files consolidated.NN.pth
    training: Training
    published_size: str | None = None   # as Meta prints it
    whole_parameters: int | None = None     # text and vision together, where there is vision
    infilling: bool = False
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The id as people write it: llama-3.1-8b is Llama 3.1 8B."""
        family, _, rest = self.id.partition("-")
        words = [family, *rest.split("-")]
        return " ".join(w.upper() if w[0].isdigit() and w[-1] == "b" else w.capitalize()
                        for w in words)


# -- shapes ------------------------------------------------------------------------------------

SPM, SPM_CODE, TIKTOKEN = "sentencepiece-32000", "sentencepiece-32016", "tiktoken-128256"


def _shape(dim: int, n_layers: int, n_heads: int, n_kv_heads: int, hidden_dim: int) -> ModelConfig:
    """A Llama 2 with these sizes; the other generations are made from it by `replace`."""
    return ModelConfig(dim, n_layers, n_heads, n_kv_heads, hidden_dim, vocab_size=32_000,
                       norm_eps=1e-5, rope_theta=1e4, max_seq_len=4096)


_7B = _shape(4096, 32, 32, 32, 11_008)
_13B = _shape(5120, 40, 40, 40, 13_824)
_33B = _shape(6656, 60, 52, 52, 17_920)
_65B = _shape(8192, 80, 64, 64, 22_016)
_34B = _shape(8192, 48, 64, 8, 22_016)
_70B = _shape(8192, 80, 64, 8, 28_672)
_8B = _shape(4096, 32, 32, 8, 14_336)
_405B = _shape(16_384, 126, 128, 8, 53_248)
_1B = _shape(2048, 16, 32, 8, 8192)
_1B_PRUNED = _shape(2048, 12, 32, 8, 6400)
_3B = _shape(3072, 28, 24, 8, 8192)


def _one(shape: ModelConfig, norm_eps: float = 1e-6) -> ModelConfig:
    """Llama 1: a shorter context, and a smaller epsilon in all but the 65B."""
    return replace(shape, max_seq_len=2048, norm_eps=norm_eps)


def _code(shape: ModelConfig, vocab_size: int = 32_000) -> ModelConfig:
    """Code Llama: slower rotations, a longer context, 16 more pieces where it can fill in."""
    return replace(shape, rope_theta=1e6, max_seq_len=16_384, vocab_size=vocab_size)


def _three(shape: ModelConfig) -> ModelConfig:
    """Llama 3: the large vocabulary and theta 5e5."""
    return replace(shape, vocab_size=128_256, rope_theta=5e5, max_seq_len=8192)


def _long(shape: ModelConfig, factor: float = 8.0, *, tied: bool = False) -> ModelConfig:
    """Llama 3.1 and later: rotations stretched so that 8k positions reach 128k."""
    return replace(_three(shape), max_seq_len=131_072, tied_embeddings=tied,
                   rope_scaling=replace(LLAMA_3_1_SCALING, factor=factor))


# -- training ----------------------------------------------------------------------------------

def _a100(tokens: float, gpu_hours: float, tonnes_co2: float, max_lr: float, *,
          watts: int = 400) -> Training:
    return Training(tokens, gpu_hours, A100, watts, tonnes_co2, max_lr,
                    batch_tokens=4e6, warmup_steps=2000)


def _h100(tokens: float, gpu_hours: float, tonnes_co2: float, cutoff: str = "2023-12", *,
          max_lr: float | None = None) -> Training:
    return Training(tokens, gpu_hours, H100, 700, tonnes_co2, max_lr, cutoff=cutoff)


def _coded(start: str, max_lr: float, tokens: float = 500e9) -> Training:
    """Code Llama: tokens of the first (code) stage. Hours and carbon exist for all 12 at once."""
    return Training(tokens, gpu=A100, max_lr=max_lr, batch_tokens=4e6, warmup_steps=1000,
                    start=start)


# -- the rows ----------------------------------------------------------------------------------

_L1 = dict(family="Llama 1", released=date(2023, 2, 24), variants=("base",), multiple_of=256,
           ffn_dim_multiplier=None, tokenizer=SPM, licence="LLaMA non-commercial")
_L2 = dict(family="Llama 2", released=date(2023, 7, 18), variants=("base", "chat"),
           multiple_of=256, ffn_dim_multiplier=None, tokenizer=SPM, licence="Llama 2 Community")
_CODE = dict(family="Code Llama", released=date(2023, 8, 24), multiple_of=256,
             ffn_dim_multiplier=1.0, licence="Llama 2 Community")
_CODE_70B = _CODE | dict(released=date(2024, 1, 29), multiple_of=4096, ffn_dim_multiplier=1.3,
                         tokenizer=SPM_CODE, shards=8)
_L3 = dict(family="Llama 3", released=date(2024, 4, 18), variants=("base", "instruct"),
           tokenizer=TIKTOKEN, licence="Llama 3 Community")
_L31 = _L3 | dict(family="Llama 3.1", released=date(2024, 7, 23), licence="Llama 3.1 Community")
_L32 = _L3 | dict(family="Llama 3.2", released=date(2024, 9, 25), licence="Llama 3.2 Community",
                  variants=("base", "instruct", "qlora-int4", "spinquant-int4"))
_L32V = _L32 | dict(family="Llama 3.2 Vision", variants=("base",))
_GUARD = dict(family="Llama Guard", variants=("guard",))
_8B_FFN = dict(multiple_of=1024, ffn_dim_multiplier=1.3, shards=1)
_70B_FFN = dict(multiple_of=4096, ffn_dim_multiplier=1.3, shards=8)
_1B_FFN = dict(multiple_of=256, ffn_dim_multiplier=1.5, shards=1)

_SKU = "the shape printed in llama-models' sku_list.py is wrong for this model"
_FACTOR = "Meta's model.py hard-codes RoPE factor 8; 32 is right (llama-models#166)"
_SHORT_70B = "theta 1e4 and 4,096 positions, confirmed by Meta in codellama#188; litgpt prints 1e6"


def _code_llamas(size: str, shape: ModelConfig, shards: int, max_lr: float, *,
                 infilling: bool) -> list[Release]:
    """base, python and instruct of one size. Only models that can fill in have the 16 pieces."""
    rows = []
    for variant in ("base", "python", "instruct"):
        fills = infilling and variant != "python"
        rows.append(Release(
            f"code-llama-{size}-{variant}", variants=(variant,), infilling=fills, shards=shards,
            config=_code(shape, 32_016 if fills else 32_000), tokenizer=SPM_CODE if fills else SPM,
            training=_coded(f"llama-2-{size}", 1e-4 if variant == "python" else max_lr), **_CODE))
    return rows


RELEASES: tuple[Release, ...] = (
    Release("llama-1-7b", config=_one(_7B), shards=1, published_size="6.7B",
            training=_a100(1.0e12, 82_432, 14, 3e-4), **_L1),
    Release("llama-1-13b", config=_one(_13B), shards=2, published_size="13.0B",
            training=_a100(1.0e12, 135_168, 23, 3e-4), **_L1),
    Release("llama-1-33b", config=_one(_33B), shards=4, published_size="32.5B",
            training=_a100(1.4e12, 530_432, 90, 1.5e-4),
            notes=("the download folder is named 30B",), **_L1),
    Release("llama-1-65b", config=_one(_65B, norm_eps=1e-5), shards=8, published_size="65.2B",
            training=_a100(1.4e12, 1_022_362, 173, 1.5e-4), **_L1),

    Release("llama-2-7b", config=_7B, shards=1, training=_a100(2e12, 184_320, 31.22, 3e-4),
            notes=(_SKU, "the first chat upload said norm_eps 1e-6 (llama#771)"), **_L2),
    Release("llama-2-13b", config=_13B, shards=2, training=_a100(2e12, 368_640, 62.44, 3e-4),
            notes=(_SKU,), **_L2),
    Release("llama-2-34b", config=_34B, shards=4,
            training=_a100(2e12, 1_038_336, 153.90, 1.5e-4, watts=350),
            notes=("trained and never released; its shape is taken from Code Llama 34B",),
            **_L2 | dict(released=None, ffn_dim_multiplier=1.0)),
    Release("llama-2-70b", config=_70B, shards=8, training=_a100(2e12, 1_720_320, 291.42, 1.5e-4),
            notes=(_SKU + " (theta; multiple_of of the chat model)",),
            **_L2 | dict(multiple_of=4096, ffn_dim_multiplier=1.3)),

    *_code_llamas("7b", _7B, 1, 3e-4, infilling=True),
    *_code_llamas("13b", _13B, 2, 3e-4, infilling=True),
    *_code_llamas("34b", _34B, 4, 1.5e-4, infilling=False),
    Release("code-llama-70b-base", variants=("base",), config=_code(_70B, 32_016), infilling=True,
            training=_coded("llama-2-70b", 1.5e-4, tokens=1e12), **_CODE_70B),
    Release("code-llama-70b-python", variants=("python",), notes=(_SHORT_70B,),
            config=replace(_70B, vocab_size=32_016),
            training=_coded("llama-2-70b", 1e-4, tokens=1e12), **_CODE_70B),
    Release("code-llama-70b-instruct", variants=("instruct",), notes=(_SHORT_70B,),
            config=replace(_70B, vocab_size=32_016),
            training=_coded("code-llama-70b-python", 1.5e-4, tokens=1e12), **_CODE_70B),

    Release("llama-3-8b", config=_three(_8B), published_size="8B",
            training=_h100(15e12, 1.3e6, 390, "2023-03", max_lr=3e-4), **_L3, **_8B_FFN),
    Release("llama-3-70b", config=_three(_70B), published_size="70B",
            training=_h100(15e12, 6.4e6, 1900, max_lr=1.5e-4), **_L3, **_70B_FFN),
    Release("llama-3.1-8b", config=_long(_8B), published_size="8B",
            training=_h100(15e12, 1.46e6, 420, max_lr=3e-4), **_L31, **_8B_FFN),
    Release("llama-3.1-70b", config=_long(_70B), published_size="70B",
            training=_h100(15e12, 7.0e6, 2040, max_lr=1.5e-4), **_L31, **_70B_FFN),
    Release("llama-3.1-405b", config=_long(_405B), published_size="405B", multiple_of=4096,
            ffn_dim_multiplier=1.2, shards=8,
            training=replace(_h100(15.6e12, 30.84e6, 8930, max_lr=8e-5), warmup_steps=8000),
            notes=("also published in 16 shards, which hold each key/value head twice",),
            **_L31 | dict(variants=("base", "instruct", "fp8", "mp8", "mp16"))),

    Release("llama-3.2-1b", config=_long(_1B, 32.0, tied=True), published_size="1.23B",
            training=replace(_h100(9e12, 370e3, 107), start="llama-3.1-8b"),
            notes=(_FACTOR,), **_L32, **_1B_FFN),
    Release("llama-3.2-3b", config=_long(_3B, 32.0, tied=True), published_size="3.21B",
            multiple_of=256, ffn_dim_multiplier=1.0, shards=1,
            training=replace(_h100(9e12, 460e3, 133), start="llama-3.1-8b"),
            notes=(_FACTOR,), **_L32),
    Release("llama-3.2-11b-vision", config=_long(_8B), published_size="10.6B",
            whole_parameters=10_616_650_275,
            training=Training(gpu_hours=147e3 + 98e3 + 896 + 224, gpu=H100, tonnes_co2=71,
                              start="llama-3.1-8b"),
            notes=("the base model cuts images into tiles of 448 pixels, instruct of 560",),
            **_L32V, **_8B_FFN),
    Release("llama-3.2-11b-vision-instruct", config=_long(_8B), published_size="10.6B",
            whole_parameters=10_629_184_035, training=Training(start="llama-3.2-11b-vision"),
            notes=("the Hugging Face format stores 41,036,800 parameters more",),
            **_L32V | dict(variants=("instruct",)), **_8B_FFN),
    Release("llama-3.2-90b-vision", config=_long(_70B), published_size="88.8B",
            whole_parameters=88_552_318_523,
            training=Training(gpu_hours=885e3 + 885e3 + 3072 + 2048, gpu=H100, tonnes_co2=513,
                              start="llama-3.1-70b"),
            notes=("the card prints 88.8B; computed 88.55B",),
            **_L32V | dict(variants=("base", "instruct")), **_70B_FFN),
    Release("llama-3.3-70b-instruct", config=_long(_70B), published_size="70B",
            training=_h100(15e12, 7.0e6, 2040),
            notes=("the card prints 12.9 t beside the hours that gave 2,040 t in the 3.1 card",),
            **_L31 | dict(family="Llama 3.3", released=date(2024, 12, 6), variants=("instruct",),
                          licence="Llama 3.3 Community"), **_70B_FFN),

    Release("llama-guard-1-7b", released=date(2023, 12, 7), config=_7B, multiple_of=256,
            ffn_dim_multiplier=None, tokenizer=SPM, licence="Llama 2 Community", shards=1,
            published_size="7B", training=Training(start="llama-2-7b"), **_GUARD),
    Release("llama-guard-2-8b", released=date(2024, 4, 18), config=_three(_8B), tokenizer=TIKTOKEN,
            licence="Llama 3 Community", published_size="8B",
            training=Training(start="llama-3-8b"), notes=(_SKU,), **_GUARD, **_8B_FFN),
    Release("llama-guard-3-8b", released=date(2024, 7, 23), config=_long(_8B), tokenizer=TIKTOKEN,
            licence="Llama 3.1 Community", published_size="8B",
            training=Training(start="llama-3.1-8b"),
            notes=("sku_list.py says no RoPE scaling; the conversion script says factor 8",),
            **_GUARD | dict(variants=("guard", "int8")), **_8B_FFN),
    Release("llama-guard-3-1b", released=date(2024, 9, 25), config=_long(_1B, 32.0),
            tokenizer=TIKTOKEN, licence="Llama 3.2 Community", published_size="1B",
            training=Training(start="llama-3.2-1b"),
            notes=("both embedding tables are stored and counted",), **_GUARD, **_1B_FFN),
    Release("llama-guard-3-1b-int4", released=date(2024, 9, 25), config=_long(_1B_PRUNED, 32.0),
            tokenizer=TIKTOKEN, licence="Llama 3.2 Community", published_size="1123M",
            multiple_of=256, ffn_dim_multiplier=None, shards=1,
            training=Training(start="llama-guard-3-1b"),
            notes=("hidden_dim 6400 was pruned, not derived by the width rule",),
            **_GUARD | dict(variants=("guard", "int4"))),
    Release("llama-guard-3-11b-vision", released=date(2024, 9, 25), config=_long(_8B),
            tokenizer=TIKTOKEN, licence="Llama 3.2 Community", published_size="11B",
            whole_parameters=10_629_184_035,
            training=Training(start="llama-3.2-11b-vision-instruct"), **_GUARD, **_8B_FFN),
)

_BY_ID = {release.id: release for release in RELEASES}


def release(id: str) -> Release:
    """One release by its id, upper or lower case: release("Llama-3.1-8B")."""
    try:
        return _BY_ID[id.lower()]
    except KeyError:
        raise KeyError(f"no release is called {id!r}. Known are: {', '.join(_BY_ID)}.") from None
