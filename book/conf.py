"""Sphinx settings. What a reader may want to change is in ../book.yml, not here."""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "book")]

import weave  # noqa: E402

from llama_edu.claims import page, rows  # noqa: E402

BOOK = yaml.safe_load((ROOT / "book.yml").read_text(encoding="utf-8"))["project"]


# Reference pages: one for each module or folder of the package, found, not listed


PRIVATE = re.compile(r"_|ch\d\d_")  # what an exercise knows of wrong answers is no reading


def modules(path: Path) -> list[str]:
    """The dotted names of a module, or of a folder and all its modules."""
    files = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    names = [".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts]
    return [name for name in sorted(names) if not PRIVATE.match(name.rpartition(".")[2])]


def reference_page(path: Path) -> str:
    blocks = [f"llama_edu.{path.stem}\n{'=' * (len(path.stem) + 10)}\n"]
    for name in modules(path):
        if name != f"llama_edu.{path.stem}":
            blocks.append(f"{name}\n{'-' * len(name)}\n")
        blocks.append(f".. automodule:: {name}\n   :members:\n   :undoc-members:\n"
                      "   :ignore-module-all:\n")
    return "\n".join(blocks)


def write_reference() -> list[str]:
    """Write book/reference/*.rst where they have changed; returns them, relative to ROOT."""
    folder = ROOT / "book" / "reference"
    folder.mkdir(exist_ok=True)
    found = [p for p in sorted((ROOT / "llama_edu").iterdir()) if not p.name.startswith("_")]
    found = [p for p in found if p.suffix == ".py" or (p / "__init__.py").exists()]
    pages = {f"{path.stem}.rst": reference_page(path) for path in found}
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
    return [f"book/reference/{name}" for name in pages]


def escape_docstring(app, what, name, thing, options, lines):
    """Docstrings are plain text with `code`, and blocks set in: nothing else in them is markup.

    `*` and `|` and a closing `_` would be in reStructuredText; a block set in after a colon
    would lose its lines.
    """
    block_indent = None  # of the block that we are in
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block_indent is not None and (not line.strip() or indent >= block_indent):
            continue
        block_indent = None
        if line.lstrip().startswith((">>>", "...")):
            continue
        lines[i] = escape_line(line)
        below = next((later for later in lines[i + 1 :] if later.strip()), "")
        set_in = len(below) - len(below.lstrip())
        if line.endswith(":") and set_in > indent and lines[i + 1 : i + 2] == [""]:
            lines[i] += ":"
            block_indent = set_in


def escape_line(line: str) -> str:
    parts = re.split(r"(`+[^`]*`+)", line)
    for j in range(0, len(parts), 2):
        bullet = re.match(r"\s*[*-] ", parts[j]) if j == 0 else None
        head = bullet[0] if bullet else ""
        parts[j] = head + re.sub(r"([*|]|_\b|\b_(?!\w))", r"\\\1", parts[j][len(head) :])
    return "".join(parts)


# The fact check: its prose is in fact_check.md, its tables are the ledger's


def fill_fact_check(app, docname, source):
    """Put the tables into the page, and make it anew when the ledger has changed."""
    if docname != "book/fact_check":
        return
    chapters = {path.name[:2]: (f"../chapters/{path.stem}.html",
                                page.shown(path.read_text(encoding="utf-8")))
                for path in ROOT.glob("chapters/src/*.py")}
    source[0] = page.fill(source[0], chapters)
    for path in sorted(rows.LEDGER.parent.rglob("*.*")):
        if path.suffix in (".toml", ".py"):
            app.env.note_dependency(str(path))


# The table of contents: book.yml's, and the reference


def entries(node: dict) -> list[str]:
    """The files of one entry of the table of contents, in order."""
    if "children" in node:
        return [file for child in node["children"] for file in entries(child)]
    if "pattern" in node:
        return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(node["pattern"]))
    return [node["file"]]


def toctree(node: dict) -> str:
    caption = f":caption: {node['title']}\n" if "title" in node else ""
    files = "\n".join(f"/{file}" for file in entries(node))
    return f"\n```{{toctree}}\n:hidden:\n{caption}\n{files}\n```\n"


REFERENCE = write_reference()
ROOMS = [file for file in REFERENCE if (ROOT / "llama_edu" / Path(file).stem).is_dir()]
TOC = BOOK["toc"]
for title, files in (
    ("Reference: what the chapters build", [file for file in REFERENCE if file not in ROOMS]),
    ("Reference: rooms of the package", ROOMS),
    ("Reference: the terminal", [weave.write_commands()]),
):
    TOC.insert(-1, {"title": title, "children": [{"file": file} for file in files]})

project = html_title = BOOK["title"]
author = ", ".join(person["name"] for person in BOOK["authors"])
root_doc = TOC[0]["file"].removesuffix(".md")
include_patterns = [file for node in TOC for file in entries(node)]
exclude_patterns = [".*", "book/_build", "tests", "build"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
    "weave",
]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # outputs are committed
nb_merge_streams = True
nb_code_prompt_show = "show the drawing"  # of cells that only draw
nb_code_prompt_hide = "hide the drawing"

default_role = "code"  # `b t c` in a docstring
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
nitpick_ignore_regex = [("py:.*", r"(?!llama_edu\.).*")]  # torch has no pages here

html_theme = "sphinx_book_theme"
html_context = {"default_mode": "auto"}  # dark or light, as the reader's system says
html_static_path = ["static", "family_tree.png"]
html_css_files = ["course.css", "fact_check.css"]
html_js_files = [("fact_check.js", {"defer": "defer"})]  # does nothing on other pages
html_favicon = "static/favicon.svg"
html_search_scorer = str(ROOT / "book/static/scorer.js")
html_show_sourcelink = False
description = BOOK["description"]
html_theme_options = {
    "navbar_persistent": [],
    "use_download_button": True,  # of a chapter: its notebook
    "use_fullscreen_button": False,
    "show_toc_level": 2,
}
if "github" in BOOK:  # in book.yml, and nowhere else
    html_baseurl = BOOK.get("site_url", "")
    html_theme_options |= {
        "repository_url": BOOK["github"],
        "repository_branch": "main",
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }


def setup(app):
    def add_toctrees(app, docname, source):
        if docname == root_doc:
            source[0] += "".join(toctree(node) for node in TOC[1:] if entries(node))

    app.connect("source-read", add_toctrees)
    app.connect("source-read", fill_fact_check)
    app.connect("autodoc-process-docstring", escape_docstring)
