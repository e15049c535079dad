"""What ties the pages of the book together, found at build time and never written twice.

Chapters link to what they build in the package, and it links back. The first use of a word in
a chapter leads to the glossary. The commands are documented by their own --help. Solutions are
not searched, so that a search finds each text once.
"""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = "book/glossary"
COMMANDS = "book/reference/commands.md"
WORD = re.compile(r"^- \*\*(.+?)\*\*", re.M)  # an entry of the glossary; commas part spellings
NOT_LINKED = (nodes.literal, nodes.reference, nodes.title, nodes.math, nodes.image, nodes.table)


# The package's names and the chapters that build them


@cache
def built_in() -> dict[str, str]:
    """The page of the chapter that builds each name of the package, from the cells' metadata."""
    found = {}
    for path in sorted(ROOT.glob("chapters/*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            for name in cell.metadata.get("twin", "").split(","):
                if name.strip():
                    found[name.strip()] = f"chapters/{path.stem}"
    return found


def link_to_the_package(app: Sphinx, docname: str, source: list[str]) -> None:
    """A chapter ends with links to the reference pages of what it has built."""
    names = [name for name, page in built_in().items() if page == docname]
    if not names:
        return
    notebook = json.loads(source[0])
    listed = "\n".join(
        f"- `{name}`" if name.rpartition(".")[2].isupper() else f"- {{py:obj}}`{name} <{name}>`"
        for name in names  # a constant has no entry of its own
    )
    cell = nbformat.v4.new_markdown_cell(f"## In the package\n\n{listed}", id="in-the-package")
    notebook["cells"].append(cell)
    source[0] = json.dumps(notebook)


def link_to_the_chapter(app, what, name, thing, options, lines):
    """What a chapter builds says so on its reference page."""
    if name in built_in():
        lines += ["", f"Built in :doc:`/{built_in()[name]}`."]


# The glossary


def slug(word: str) -> str:
    return re.sub(r"\W+", "-", word.lower()).strip("-")


@cache
def words() -> dict[str, str]:
    """Every spelling in the glossary, and the anchor of its entry; longer ones first."""
    text = (ROOT / f"{GLOSSARY}.md").read_text(encoding="utf-8")
    entries = [entry.split(", ") for entry in WORD.findall(text)]
    spellings = {word: slug(entry[0]) for entry in entries for word in entry}
    return dict(sorted(spellings.items(), key=lambda item: -len(item[0])))


def name_the_entries(app: Sphinx, doctree: nodes.document) -> None:
    """Give each entry of the glossary an anchor."""
    if app.env.docname != GLOSSARY:
        return
    for item in doctree.findall(nodes.list_item):
        if (strong := next(item.findall(nodes.strong), None)) is not None:
            item["ids"].append(slug(strong.astext().split(", ")[0]))


def link_words(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """The first use of each word of the glossary in a chapter's prose leads there."""
    if not docname.startswith("chapters/"):
        return
    page = app.builder.get_relative_uri(docname, GLOSSARY)
    left = dict(words())
    for text in list(doctree.findall(nodes.Text)):
        if not inside(text, nodes.paragraph) or inside(text, *NOT_LINKED):
            continue
        for word, anchor in list(left.items()):
            found = re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", str(text), re.I)
            if found is None:
                continue
            link = nodes.reference("", found[0], refuri=f"{page}#{anchor}", classes=["glossary"])
            before, after = str(text)[: found.start()], str(text)[found.end() :]
            text.parent.replace(text, [nodes.Text(before), link, nodes.Text(after)])
            left = {other: to for other, to in left.items() if to != anchor}
            break


def inside(node: nodes.Node, *kinds: type) -> bool:
    while node is not None:
        if isinstance(node, kinds):
            return True
        node = node.parent
    return False


# The command line, page by page from its own help


def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llama_edu", *command, "--help"],
        cwd=ROOT, env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return done.stdout.rstrip()


def write_commands() -> str:
    """Write the page of all commands; returns its path, relative to ROOT."""
    overview = help_of()
    names = re.findall(r"^ {4}([a-z][\w-]+)", overview, re.M)
    parts = ["# The command `llama-edu`", f"```text\n{overview}\n```"]
    for name in names:
        parts.append(f"## `llama-edu {name}`\n\n```text\n{help_of(name)}\n```")
    page, text = ROOT / COMMANDS, "\n\n".join(parts) + "\n"
    page.parent.mkdir(exist_ok=True)
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")
    return COMMANDS


# What other pages and programs see of a page


def leave_solutions_out_of_search(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname.startswith("solutions/"):
        app.env.metadata[docname]["nosearch"] = ""


def describe(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """A description of the page, for searches and for those who pass its address on."""
    if doctree is None:
        return
    paragraphs = [p.astext() for p in doctree.findall(nodes.paragraph)]
    said = next((text for text in paragraphs if len(text) > 60), app.config.description)
    said = re.sub(r"\s+", " ", said.removeprefix("The question. ")).replace('"', "&quot;")
    said = said if len(said) <= 200 else said[:200].rsplit(" ", 1)[0] + " ..."
    title = re.sub(r"<[^>]+>", "", context["title"])
    picture = f"{app.config.html_baseurl or ''}_static/family_tree.png"
    tags = {"og:title": title, "og:description": said, "og:type": "article", "og:image": picture}
    context["metatags"] = "\n".join(
        [
            context.get("metatags", ""),
            f'<meta name="description" content="{said}">',
            '<meta name="twitter:card" content="summary_large_image">',
        ]
        + [f'<meta property="{name}" content="{value}">' for name, value in tags.items()]
    )


def setup(app: Sphinx) -> dict:
    app.add_config_value("description", "", "html")
    app.connect("source-read", link_to_the_package)
    app.connect("source-read", leave_solutions_out_of_search)
    app.connect("autodoc-process-docstring", link_to_the_chapter, priority=900)
    app.connect("doctree-read", name_the_entries)
    app.connect("doctree-resolved", link_words)
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True}
