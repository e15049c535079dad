"""Small texts of our own for looking at tokens: twelve languages, code, digits, dates, emoji."""

from pathlib import Path

FOLDER = Path(__file__).parent
LANGUAGES = ("English", "German", "French", "Spanish", "Swahili", "Russian", "Arabic", "Hindi",
             "Thai", "Korean", "Japanese", "Chinese")
SAMPLES = ("python", "digits", "dates", "emoji")


def parallel() -> dict[str, tuple[str, ...]]:
    """Sixty sentences in twelve languages; sentence i says the same in every language."""
    return {name: tuple(_read("parallel", name.lower()).splitlines()) for name in LANGUAGES}


def sample(name: str) -> str:
    """A text of one kind: python, digits, dates or emoji. Raises KeyError for another."""
    if name not in SAMPLES:
        raise KeyError(f"there is no sample {name!r}; there are {', '.join(SAMPLES)}. "
                       "Take one of these.")
    return _read("kinds", name)


def _read(folder: str, name: str) -> str:
    return (FOLDER / folder / f"{name}.txt").read_text(encoding="utf-8")
