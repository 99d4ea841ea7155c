"""The README's promises: two commands that do everything, links that lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])


def first_block() -> list[str]:
    match = re.search(r"^```[^\n]*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert match, "README.md has no code block"
    return match.group(1).splitlines()


def test_first_block_is_two_self_contained_commands():
    block = first_block()
    assert len(block) == 2
    for command in block:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install"), "must work on a fresh machine"
        assert not command.endswith("\\"), "each is one line"
    assert "infer.py" in block[0]
    assert "pytest" in block[1]


def test_first_command_predicts_a_bundled_example():
    words = shlex.split(first_block()[0])
    example = REPOSITORY / words[words.index(".venv/bin/python") + 2]
    assert example.exists(), f"{example} does not ship with the project"


def test_ci_takes_the_test_command_from_the_readme():
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in script
    assert "pip install" not in script, "what tests need is installed by the README's command alone"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document):
    text = without_code(document)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?[^)]*\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path = document.parent / target if target else document
        assert path.exists(), f"{document.name} links to {target}, which does not exist"
        if anchor:
            found = anchors(path)
            assert anchor in found, f"{document.name} links to {target}#{anchor}, but its headings are {found}"


def without_code(document: Path) -> str:
    return re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> list[str]:
    """What GitHub calls a document's headings."""
    headings = re.findall(r"^#+ +(.*?) *#*$", without_code(document), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]
