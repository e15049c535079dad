"""Llama Guard's categories and answers, as the package's own prompts have them."""

from ...family.releases import RELEASES
from ...prompts.guard import CATEGORIES_1, CATEGORIES_2, CATEGORIES_3, GUARD_3_SMALL, read_verdict

LISTS = {"1": CATEGORIES_1, "2": CATEGORIES_2, "3 8B": CATEGORIES_3,
         "3 small": GUARD_3_SMALL.categories}


def guard_categories(guard: str) -> int:
    """How many categories a Guard tells apart: "1", "2", "3 8B", or "3 small" (1B and 11B)."""
    return len(LISTS[guard])


def guard_category(guard: str, code: str) -> str:
    """What a code stands for in the list of a Guard; empty where it has none."""
    return {category.code: category.name for category in LISTS[guard]}.get(code, "")


def codes_in(answer: str) -> list[str]:
    """The categories that an answer of a Guard names as violated."""
    return list(read_verdict(answer).codes)


def guards_that_see() -> list[str]:
    """The Guards that take images as well as text."""
    return [r.id for r in RELEASES if r.family == "Llama Guard" and r.whole_parameters]
