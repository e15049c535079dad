"""Every number that the README prints about the project is asserted.

A number is marked where it stands, by a comment that readers do not see:

    The package has 1,234<!-- n:package-lines --> lines.
    Llama 2 7B has 6,738,415,616<!-- n:parameters llama-2-7b --> parameters.

The word after `n:` names a function in NUMBERS; words after it are its arguments.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llama_edu import claims
from llama_edu.exercises import check
from llama_edu.family import accounting, releases

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"([\d][\d,.]*)\s*<!-- n:([\w-]+)((?: [\w.-]+)*) -->")
LARGE = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?!\s*<!-- n:)(?![\d,])")


def package_lines() -> int:
    """Lines of the package, exercises aside."""
    files = [p for p in ROOT.glob("llama_edu/**/*.py") if "exercises" not in p.parts]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def exercises() -> int:
    stub = re.compile(r'NotImplementedError\(\\"Exercise (\d+\.\d+)\\"\)')
    texts = [path.read_text(encoding="utf-8") for path in ROOT.glob("chapters/*.ipynb")]
    return len({number for text in texts for number in stub.findall(text)})


NUMBERS: dict[str, Callable[..., int]] = {
    "package-lines": package_lines,
    "chapters": lambda: len(list(ROOT.glob("chapters/*.ipynb"))),
    "exercises": exercises,
    "width": lambda name: releases.release(name).config.hidden_dim,
    "releases": lambda: len(releases.RELEASES),
    "claims": lambda: len(claims.ledger()),
    "recomputed": lambda: sum(claim.compute is not None for claim in claims.ledger()),
    "parameters": lambda name: accounting.parameters(releases.release(name).config).total,
}


def wrong_numbers(text: str) -> list[str]:
    wrong = []
    for printed, name, arguments in MARKED.findall(text):
        if name not in NUMBERS:
            wrong.append(f"n:{name} is unknown; there are {', '.join(NUMBERS)}")
            continue
        true = f"{NUMBERS[name](*arguments.split()):,}"
        if printed != true:
            wrong.append(f"n:{name}{arguments} is {true}, not {printed}")
    return wrong + [f"{number} is not marked" for number in LARGE.findall(text)]


def minutes(text: str) -> dict[str, str]:
    """The minutes that the reading list says of each chapter."""
    return dict(re.findall(r"^\| \[[^\]]+\]\(chapters/(\w+)\.ipynb\) \|.*\| (\d+) \|$", text, re.M))


def test_the_reading_list_has_every_chapter_with_the_minutes_of_its_title():
    said = minutes((ROOT / "README.md").read_text(encoding="utf-8"))
    sources = {path.stem: path.read_text(encoding="utf-8") for path in
               ROOT.glob("chapters/src/*.py")}  # fmt: skip
    titles = {name: re.search(r"^# \|.*\| (\d+) \|$", text, re.M)[1]
              for name, text in sources.items()}  # fmt: skip
    assert said == titles


def test_the_diagnosis_in_the_readme_is_what_the_check_says():
    def rms_norm(x, weight, eps):
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n>>> check\(\"1\.1\", rms_norm\)\n(.*?)\n```", text, re.S)[1]
    assert shown == repr(check("1.1", rms_norm))


def test_every_number_in_the_readme_is_true():
    assert wrong_numbers((ROOT / "README.md").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1<!-- n:releases -->", "n:releases is "),
        ("1 <!-- n:parameters llama-2-7b -->", "n:parameters llama-2-7b is 6,738,415,616, not 1"),
        ("1<!-- n:rooms -->", "n:rooms is unknown"),
        ("about 12,345 lines", "12,345 is not marked"),
    ],
)
def test_a_false_or_unmarked_number_is_found(text, complaint):
    (wrong,) = wrong_numbers(text)
    assert wrong.startswith(complaint)


def test_a_true_number_passes():
    text = "6,738,415,616<!-- n:parameters llama-2-7b --> parameters"
    assert wrong_numbers(text) == []
