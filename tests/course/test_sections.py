"""A check sends its reader to a section of the chapter: that section must exist."""

import re

from nbformat import NotebookNode

from llama_edu.exercises.registry import exercises


def headings(notebook: NotebookNode) -> list[str]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"^#+ +(.+?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)


def sections(number: int) -> dict[str, set[str]]:
    """The sections that the checks of a chapter name, each with the exercises that do."""
    named: dict[str, set[str]] = {}
    for id, each in exercises().items():
        if each.chapter == number:
            for other in ("", *(slip.section for slip in getattr(each, "misconceptions", ()))):
                named.setdefault(other or each.section, set()).add(id)
    return named


def missing(named: dict[str, set[str]], found: list[str]) -> list[str]:
    """Sections that no heading begins with: "The idea" is short for "The idea: two sums"."""
    return [
        f"{', '.join(sorted(ids))}: no heading begins with {section!r}"
        for section, ids in named.items()
        if not any(heading.startswith(section) for heading in found)
    ]


def test_every_section_that_a_check_names_exists(chapter, read):
    assert missing(sections(int(chapter.stem[:2])), headings(read(chapter))) == []


# The rule above, on a chapter made up for the purpose


def test_a_section_that_is_not_there_is_found(make_notebook):
    made = make_notebook(
        "prose: # 9. Title\n\n## The idea: two sums",
        "code: # ## Your turn",
        "prose: ```\n# Not here\n```",
    )
    assert missing({"The idea": {"9.1"}}, headings(made)) == []
    assert missing({"Your turn": {"9.2", "9.1"}, "Not here": {"9.3"}}, headings(made)) == [
        "9.1, 9.2: no heading begins with 'Your turn'",
        "9.3: no heading begins with 'Not here'",
    ]
