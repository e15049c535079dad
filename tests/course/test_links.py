"""Every relative link leads somewhere, and every name of the package in prose exists."""

import importlib
import re
from pathlib import Path

import nbformat
import pytest

LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|(?:href|src)=[\"']([^\"']+)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
NAME = re.compile(r"\bllama_edu((?:\.[A-Za-z_]\w*)+)")
FILE = re.compile(r"`((?:llama_edu|chapters|solutions|tests|tools|book|benchmarks)/[\w/.-]*)`")
DOCUMENTS = ["*.md", "book/*.md", "chapters/*.ipynb", "solutions/*.ipynb"]


def prose(path: Path) -> str:
    """The Markdown of a document, blocks of code left out."""
    if path.suffix != ".ipynb":
        return FENCE.sub("", path.read_text(encoding="utf-8"))
    cells = nbformat.read(path, 4).cells
    return FENCE.sub("", "\n\n".join(c.source for c in cells if c.cell_type == "markdown"))


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub spells them."""
    headings = re.findall(r"^#+\s+(.+?)\s*$", prose(path), re.M)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


def broken_links(path: Path) -> list[str]:
    wrong = []
    for match in LINK.finditer(prose(path)):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists():
            wrong.append(f"{path.name}: {link} leads nowhere")
        elif anchor and anchor not in anchors(target):
            wrong.append(f"{path.name}: {target.name} has no heading #{anchor}")
    return wrong


def resolves(dotted: str) -> bool:
    """Whether `llama_edu.a.b` is a module, or something in one (a field of a dataclass, too)."""
    parts = dotted.split(".")
    thing, rest = None, []
    for n in range(len(parts), 0, -1):
        try:
            thing, rest = importlib.import_module(".".join(parts[:n])), parts[n:]
            break
        except ModuleNotFoundError:
            continue
    for name in rest:
        if name in getattr(thing, "__annotations__", {}):
            return name == rest[-1]
        if name not in dir(thing):
            return False
        thing = getattr(thing, name)
    return thing is not None


def names_that_are_not_there(path: Path, root: Path) -> list[str]:
    text = prose(path)
    dotted = sorted({"llama_edu" + name for name in NAME.findall(text)})
    files = sorted({file for file in FILE.findall(text) if not re.search(r"NN|\*", file)})
    wrong = [name for name in dotted if not resolves(name)]
    return [
        f"{path.name}: {name} does not exist"
        for name in wrong + [file for file in files if not (root / file).exists()]
    ]


def documents(root: Path) -> list[Path]:
    return sorted(path for pattern in DOCUMENTS for path in root.glob(pattern))


def test_every_relative_link_leads_somewhere(root):
    assert [wrong for path in documents(root) for wrong in broken_links(path)] == []


def test_every_name_of_the_package_in_prose_exists(root):
    found = documents(root)
    assert [wrong for path in found for wrong in names_that_are_not_there(path, root)] == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a](nowhere.md)", "nowhere.md leads nowhere"),
        ("![a](nowhere.png)", "nowhere.png leads nowhere"),
        ('<img alt="a" src="nowhere.png">', "nowhere.png leads nowhere"),
        ("[a](#not-there)", "has no heading #not-there"),
        ("[a](here.md#not-there)", "has no heading #not-there"),
    ],
)
def test_a_broken_link_is_found(tmp_path, text, complaint):
    path = tmp_path / "here.md"
    path.write_text(f"# Title\n\n{text}\n", encoding="utf-8")
    (wrong,) = broken_links(path)
    assert complaint in wrong


def test_a_link_that_leads_somewhere_is_fine(tmp_path):
    path = tmp_path / "here.md"
    text = "# What is it?\n\n[a](#what-is-it) [b](here.md) [c](https://a.b) ```[d](no.md)```"
    path.write_text(text.replace("```", "\n```\n"), encoding="utf-8")
    assert broken_links(path) == []


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("llama_edu.config", True),
        ("llama_edu.config.ModelConfig", True),
        ("llama_edu.config.ModelConfig.dim", True),
        ("llama_edu.config.ModelConfig.head_dim", True),
        ("llama_edu.config.ModelConfig.width", False),
        ("llama_edu.config.Model", False),
        ("llama_edu.configuration", False),
    ],
)
def test_a_name_is_looked_up_in_the_package(name, there):
    assert resolves(name) == there


def test_a_file_that_is_not_there_is_found(tmp_path, root):
    path = tmp_path / "here.md"
    path.write_text("`llama_edu/layers.py` `llama_edu/rooms.py` llama_edu.rooms", encoding="utf-8")
    assert names_that_are_not_there(path, root) == [
        "here.md: llama_edu.rooms does not exist",
        "here.md: llama_edu/rooms.py does not exist",
    ]
