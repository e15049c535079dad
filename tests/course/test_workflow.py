"""The workflow: what it calls is there, in the versions that are pinned."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
DONE = re.compile(r"^([a-z]+)(?: [^\n]*)?:", re.M)     # a target at the left edge


def jobs(text: str) -> dict[str, dict]:
    return yaml.safe_load(text)["jobs"]


def steps(text: str) -> list[str]:
    """The shell lines of every job."""
    runs = [step.get("run", "") for job in jobs(text).values() for step in job["steps"]]
    return [line.strip() for run in runs for line in run.splitlines()]


def missing(text: str, makefile: str) -> list[str]:
    """What the workflow names and the repository has not."""
    made = {*DONE.findall(makefile)}
    targets = [line.split()[1] for line in steps(text) if line.startswith("make ")]
    files = re.findall(r"[\w/-]+\.(?:py|txt)\b", "\n".join(steps(text)))
    needs = [need for job in jobs(text).values() for need in job.get("needs", ())]
    return [*(target for target in targets if target not in made),
            *(name for name in files if not (ROOT / name).is_file()),
            *(need for need in needs if need not in jobs(text))]


def test_everything_that_the_workflow_names_is_there():
    assert missing(WORKFLOW, (ROOT / "Makefile").read_text(encoding="utf-8")) == []
    assert {"lint", "test", "commands", "install", "book", "publish"} <= {*jobs(WORKFLOW)}


@pytest.mark.parametrize(("old", "new"), [
    ("make book", "make brook"), ("test_face.py", "no_face.py"), ("[lint, ", "[mint, ")])
def test_what_is_not_there_is_found(old, new):
    assert old in WORKFLOW
    assert len(missing(WORKFLOW.replace(old, new),
                       (ROOT / "Makefile").read_text(encoding="utf-8"))) == 1


def test_a_newer_push_stops_an_older_one_and_only_main_is_published():
    whole = yaml.safe_load(WORKFLOW)
    assert {"group", "cancel-in-progress"} <= {*whole["concurrency"]}
    assert "refs/heads/main" in whole["jobs"]["publish"]["if"]
    assert whole["permissions"] == {"contents": "read"}


def test_every_job_ends_by_itself():
    assert all(job["timeout-minutes"] <= 60 for job in jobs(WORKFLOW).values())


def test_every_python_that_the_package_says_is_tried():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    said = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', pyproject)
    assert said == jobs(WORKFLOW)["test"]["strategy"]["matrix"]["python"]
