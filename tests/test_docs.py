"""Every command and code block of the documentation runs, and prints what the text shows.

A `console` block is commands and their output. A `text` block after a `python` block is its output;
the python blocks of a page are one session. "..." alone on a line stands for left-out lines, and
runs of blanks do not matter.
"""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import bfpsim as bs
from bfpsim.commands.app import run

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("benchmarks/*.md")])
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def assert_shown(shown: str, printed: str) -> None:
    """Every shown line was printed, in order, with nothing between but where "..." stands."""
    rest = lines(printed)
    skipping = False
    for line in lines(shown):
        if line == "...":
            skipping = True
            continue
        assert line in rest, f"{line!r} is not in {rest[:5]}"
        at = rest.index(line)
        assert skipping or at == 0, f"{line!r} is shown, {rest[0]!r} printed"
        rest, skipping = rest[at + 1 :], False
    assert skipping or not rest, f"{rest[:3]} is printed, not shown"


CONSOLE = [
    pytest.param(body, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (language, body) in enumerate(BLOCK.findall(page.read_text()))
    if language == "console" and page != TUTORIAL
]


@pytest.mark.parametrize("body", CONSOLE)
def test_console_blocks(body: str, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    type_in(body, capsys)


def test_the_tutorial_from_top_to_bottom(capsys, monkeypatch, tmp_path) -> None:
    """In the order of the page, in an empty folder: what one step writes, a later one reads."""
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(TUTORIAL.read_text())
    session: dict[str, object] = {"__name__": "__main__"}
    for number, (language, body) in enumerate(blocks):
        if language == "console":
            type_in(body, capsys)
        elif language == "python":
            run_in(session, number, TUTORIAL, blocks, capsys)


def type_in(body: str, capsys) -> None:
    """Run the commands of a block, and compare what they print."""
    for command in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        line, _, output = command.partition("\n")
        program, *arguments = line.split()
        assert program == "bfpsim", line
        run(arguments)
        captured = capsys.readouterr()
        assert_shown(output, captured.out + captured.err)


def run_in(session: dict[str, object], number: int, page: Path, blocks, capsys) -> None:
    """Run a Python block in a session, and compare what it prints with the text after it."""
    exec(compile(blocks[number][1], f"{page.name}-{number}", "exec"), session)
    captured = capsys.readouterr()
    following = blocks[number + 1 : number + 2]
    if following and following[0][0] == "text":
        assert_shown(following[0][1], captured.out + captured.err)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != TUTORIAL], ids=lambda page: page.name
)
def test_python_blocks(page: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = BLOCK.findall(page.read_text())
    session: dict[str, object] = {"__name__": "__main__"}
    for number, (language, _) in enumerate(blocks):
        if language == "python":
            run_in(session, number, page, blocks, capsys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_api_reference_has_every_public_name(tmp_path) -> None:
    """With its signature and the first line of its docstring; methods of classes too."""
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs" / "api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.reference()
    for name in bs.__all__:
        (part,) = re.findall(rf"^### {name}\n(.*?)(?=^##+ |\Z)", page, re.DOTALL | re.MULTILINE)
        first = (inspect.getdoc(getattr(bs, name)) or "").splitlines()[0]
        assert first
        assert first in part
        assert f"](#{name.lower()})" in page
    assert "#### Mapping." in page or "#### QuantizedModel." in page
    assert " at 0x" not in page, "no address: equal code makes an equal page"


def test_citation_and_changelog_know_the_version() -> None:
    citation = YAML(typ="safe", pure=True).load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == bs.__version__
    assert citation["cff-version"] == "1.2.0"
    assert all(author.get("name") for author in citation["authors"])
    assert f"\n## {bs.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_glossary_is_sorted_and_says_each_word_once() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    assert len(words) > 30
    assert words == sorted(set(words), key=str.lower)
