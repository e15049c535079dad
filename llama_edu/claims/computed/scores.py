"""Benchmark results as they were published, and who is ahead in them."""

# Zero-shot accuracy in per cent, None where nothing was reported: Touvron et al. 2023a, table 3.
TASKS = ("BoolQ", "PIQA", "SIQA", "HellaSwag", "WinoGrande", "ARC-e", "ARC-c", "OBQA")
COMMON_SENSE = {
    "GPT-3 175B": (60.5, 81.0, None, 78.9, 70.2, 68.8, 51.4, 57.6),
    "Chinchilla 70B": (83.7, 81.8, 51.3, 80.8, 74.9, None, None, None),
    "PaLM 540B": (88.0, 82.3, None, 83.4, 81.1, 76.6, 53.0, 53.4),
    "Llama 1 7B": (76.5, 79.8, 48.9, 76.1, 70.1, 72.8, 47.6, 57.2),
    "Llama 1 13B": (78.1, 80.1, 50.4, 79.2, 73.0, 74.8, 52.7, 56.4),
    "Llama 1 33B": (83.1, 82.3, 50.4, 82.8, 76.0, 80.0, 57.8, 58.6),
    "Llama 1 65B": (85.3, 82.8, 52.3, 84.2, 77.0, 78.9, 56.0, 60.2)}
# Groups of benchmarks, in per cent: Touvron et al. 2023b, table 3 (in the model card without 34B).
GROUPS = ("Code", "Commonsense", "World", "Reading", "Math", "MMLU", "BBH", "AGI Eval")
GROUPED = {
    "Llama 1 7B": (14.1, 60.8, 46.2, 58.5, 6.95, 35.1, 30.3, 23.9),
    "Llama 1 13B": (18.9, 66.1, 52.6, 62.3, 10.9, 46.9, 37.0, 33.9),
    "Llama 1 33B": (26.0, 70.0, 58.4, 67.6, 21.4, 57.8, 39.8, 41.7),
    "Llama 1 65B": (30.7, 70.7, 60.5, 68.6, 30.8, 63.4, 43.5, 47.6),
    "Llama 2 7B": (16.8, 63.9, 48.9, 61.3, 14.6, 45.3, 32.6, 29.3),
    "Llama 2 13B": (24.5, 66.9, 55.4, 65.8, 28.7, 54.8, 39.4, 39.1),
    "Llama 2 34B": (27.8, 69.9, 58.7, 68.0, 24.2, 62.6, 44.1, 43.4),
    "Llama 2 70B": (37.5, 71.9, 63.6, 69.4, 35.2, 68.9, 51.2, 54.2)}
# MMLU, 5-shot, in per cent: Touvron et al. 2023a, table 10. The I is for instructions.
MMLU_OF_65B, MMLU_OF_65B_I = 63.4, 68.9


def tasks_in_common(first: str, second: str) -> int:
    """Tasks of common sense for which a result of both was published."""
    return sum(None not in pair for pair in zip(COMMON_SENSE[first], COMMON_SENSE[second],
                                                strict=True))


def tasks_won(first: str, second: str) -> list[str]:
    """Tasks of common sense on which the first model has the better result of the two."""
    return [task for task, a, b in zip(TASKS, COMMON_SENSE[first], COMMON_SENSE[second],
                                       strict=True) if None not in (a, b) and a > b]


def tasks_lost(first: str, second: str) -> list[str]:
    """Tasks of common sense on which the first model has the worse result of the two."""
    return tasks_won(second, first)


def groups_won(first: str, second: str) -> list[str]:
    """Groups of benchmarks in which the first model has the better average of the two."""
    return [group for group, a, b in zip(GROUPS, GROUPED[first], GROUPED[second], strict=True)
            if a > b]


def gain_by_instructions() -> float:
    """Points on MMLU that a little tuning on instructions gave Llama 1 65B."""
    return MMLU_OF_65B_I - MMLU_OF_65B
