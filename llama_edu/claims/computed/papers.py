"""Where and when something was published, and results that papers and cards print."""

from .training_runs import LOSS

# arXiv ids and what they are.
ARXIV = {
    "2302.13971": "LLaMA", "2307.09288": "Llama 2", "2308.12950": "Code Llama",
    "2312.06674": "Llama Guard", "2407.21783": "Llama 3", "2411.10414": "Llama Guard 3 Vision",
    "2002.05202": "GLU Variants Improve Transformer",
    "2104.09864": "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    "1606.08415": "Gaussian Error Linear Units"}
# Per cent solved at the first try, HumanEval and MBPP: Roziere et al. 2023, table 2.
CODE = {"7B": (33.5, 41.4), "13B": (36.0, 47.0), "34B": (48.8, 55.0), "70B": (53.0, 62.4),
        "Python 34B": (53.7, 56.2), "Python 70B": (57.3, 65.6), "GPT-3.5": (48.1, 52.2)}
# Per cent, Llama 3 8B and Llama 2 70B: Llama 3 model card, base models, then tuned ones.
BASE_8B_AGAINST_70B = (
    (66.6, 69.7), (45.9, 54.8), (72.6, 78.7), (76.1, 81.8), (61.1, 65.7), (78.6, 85.3),
    (78.5, 87.5), (76.4, 82.6), (44.4, 49.4), (75.7, 73.1), (58.4, 70.2))
TUNED_8B_AGAINST_70B = ((68.4, 52.9), (34.2, 21.0), (62.2, 25.6), (79.6, 57.5), (30.0, 11.6))
# MMLU, 5-shot, tuned models: Llama 3.2 model card; Mistral 7B Instruct v0.2 as the Rubra
# benchmark measured it with the LM Evaluation Harness.
MMLU = {"Llama 3.2 1B": 49.3, "Llama 3.2 3B": 63.4, "Llama 3.1 8B": 69.4, "Mistral 7B": 59.27}


def paper(arxiv: str) -> str:
    """What stands under an arXiv id."""
    return ARXIV[arxiv]


def month_of_paper(arxiv: str) -> str:
    """The month in which an arXiv id was given: its first four digits are year and month."""
    return f"20{arxiv[:2]}-{arxiv[2:4]}"


def solved(model: str, test: str) -> float:
    """Per cent of HumanEval or MBPP that a model of Code Llama's paper solved at the first try."""
    return CODE[model][("HumanEval", "MBPP").index(test)]


def base_rows_won_by_8b() -> list[int]:
    """Rows of the card in which Llama 3 8B is ahead of Llama 2 70B, and all rows: base models."""
    return [sum(a > b for a, b in BASE_8B_AGAINST_70B), len(BASE_8B_AGAINST_70B)]


def tuned_rows_won_by_8b() -> list[int]:
    """The same for the models that were tuned on instructions."""
    return [sum(a > b for a, b in TUNED_8B_AGAINST_70B), len(TUNED_8B_AGAINST_70B)]


def points_ahead(first: str, second: str) -> float:
    """Points on MMLU by which one tuned model is ahead of another."""
    return MMLU[first] - MMLU[second]


def best_tokens(parameters: float) -> float:
    """Tokens at which Chinchilla's fit has the budget of a model of this size spent best.

    There, one per cent more of either lowers the loss by the same amount.
    """
    _, a, alpha, b, beta = LOSS
    return (beta * b / (alpha * a) * parameters**alpha) ** (1 / beta)
