"""Figures of papers and cards that contradict one another, recomputed: the slips."""

from fractions import Fraction

from ...family.accounting import parameters, training_flops
from ...family.releases import release

# GPUs, then tensor, context, pipeline and data parallelism, tokens in a sequence, sequences for
# each data-parallel group: Grattafiori et al. 2024, table 4 (as first published).
MESHES = ((8192, (8, 1, 16, 64), 8192, 32), (16_384, (8, 1, 16, 128), 8192, 16),
          (16_384, (8, 16, 16, 4), 131_072, 16))
# The compute-optimal tokens are a C**alpha (alpha and a as printed in the text and in figure 3);
# the budget, and the tokens that the text reads off: Grattafiori et al. 2024, section 3.2.1.
LAW = {"text": (0.53, 0.29), "figure": (0.537, 0.299)}
BUDGET, READ_OFF = 3.8e25, 16.55e12
# Tokens seen before the batch grew, in the batch then, in annealing, in the last batch:
# Grattafiori et al. 2024, sections 3.4.1 and 3.4.3.
RAMP, FIRST_BATCH, ANNEALED, LAST_BATCH = 252e6, 4e6, 40e6, 16e6
# Steps and tokens in a batch (10**6) of the long-context stage: Roziere et al. 2023, section 2.6.
LONG_CONTEXT = {"7B": (3000, 2), "13B": (10_000, 2), "34B": (11_000, 1)}
# Interruptions of the largest run that were not planned: Grattafiori et al. 2024, table 5.
INTERRUPTIONS = {"faulty GPU": 148, "GPU memory": 72, "software": 54, "network": 35,
                 "maintenance": 32, "GPU SRAM": 19, "GPU processor": 17, "all others": 42}
# GPU hours (10**3) of the Llama 3.2 model card, October 2024.
HOURS_3_2 = {"1B": 370, "3B": 460, "logits": 86, "1B SpinQuant": 0.0017, "3B SpinQuant": 0.0024,
             "1B QLoRA": 1.3, "3B QLoRA": 1.6}
# Size of the file on a phone (MB) and tokens decoded a second: Llama 3.2 model card.
ON_A_PHONE = {"1B": {"BF16": (2358, 19.2), "SpinQuant": (1083, 50.2), "QLoRA": (1127, 45.8)},
              "3B": {"BF16": (6129, 7.6), "SpinQuant": (2435, 19.7), "QLoRA": (2529, 18.5)}}


def gpus_in_the_mesh(row: int) -> int:
    """GPUs that the four kinds of parallelism in a row of the paper's table multiply to."""
    tensor, context, pipeline, data = MESHES[row][1]
    return tensor * context * pipeline * data


def gpus_printed(row: int) -> int:
    """GPUs that the same row prints."""
    return MESHES[row][0]


def batch_of_the_mesh(row: int) -> float:
    """Tokens (10**6) in a batch by that row: groups times sequences times their length."""
    _, (*_, data), length, sequences = MESHES[row]
    return data * sequences * length / 1e6


def tokens_by_the_law(printed: str) -> float:
    """Tokens (10**12) that the law gives for the budget, as printed in the text or the figure."""
    alpha, a = LAW[printed]
    return a * BUDGET**alpha / 1e12


def size_by_the_budget() -> float:
    """Parameters (10**9) for which the printed tokens use up the budget, at six operations each."""
    return BUDGET / (6 * READ_OFF) / 1e9


def share_of_interruptions(cause: str) -> float:
    """What a cause is of all interruptions that were not planned, in per cent."""
    return 100 * INTERRUPTIONS[cause] / sum(INTERRUPTIONS.values())


def steps_of_the_first_batch() -> float:
    """Optimiser steps until the batch grew."""
    return RAMP / FIRST_BATCH


def steps_of_annealing() -> float:
    """Optimiser steps of the last stage, if it is as long as printed."""
    return ANNEALED / LAST_BATCH


def long_context_tokens(size: str) -> float:
    """Tokens (10**9) of Code Llama's long-context stage: steps times batch."""
    steps, batch = LONG_CONTEXT[size]
    return steps * batch / 1000


def card_hours(*rows: str) -> float:
    """GPU hours (10**3) in these rows of the card of Llama 3.2; in all, where none is named."""
    return sum(HOURS_3_2[row] for row in rows or HOURS_3_2)


def smaller_on_a_phone(size: str, scheme: str) -> float:
    """How much smaller the file is than in bfloat16, in per cent."""
    return 100 * (1 - ON_A_PHONE[size][scheme][0] / ON_A_PHONE[size]["BF16"][0])


def tonnes_at_the_rate_of(id: str, *, gpu_hours: float) -> float:
    """Tonnes of CO2 for so many hours, at what the card of another release prints for its own."""
    run = release(id).training
    return gpu_hours * run.tonnes_co2 / run.gpu_hours


def flops_by_assumed_rate(id: str, *, tflops: float) -> float:
    """Operations (10**24) of a run, if every GPU hour had run at this rate."""
    return release(id).training.gpu_hours * 3600 * tflops / 1e12


def flops_by_size_and_tokens(id: str) -> float:
    """Operations (10**24) of a run: six for each parameter and token."""
    r = release(id)
    return training_flops(parameters(r.config).total, r.training.tokens) / 1e24


def decimal_of_pi(place: int) -> int:
    """A digit of pi after the point; Machin's formula in whole fractions."""
    terms = place + 10
    pi = 4 * (4 * _arctan(Fraction(1, 5), terms) - _arctan(Fraction(1, 239), terms))
    return int(pi * 10**place) % 10


def _arctan(x: Fraction, terms: int) -> Fraction:
    return sum(((-1) ** i * x ** (2 * i + 1) / (2 * i + 1) for i in range(terms)), Fraction(0))
