import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from bfpsim.reports.store.page import Column, PageFigure, PageTable, Section, render

EVIL = '</script><script>alert(1)</script> & "quotes" \'n <!-- $title ${style}'


class Elements(HTMLParser):
    """Every element's name and attributes, and the text inside scripts and headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        self.text.setdefault(self._open, []).append(data)


def page(frame: pd.DataFrame, *columns: Column, words: str = "words") -> str:
    table = PageTable("numbers", words, words, frame, columns)
    section = Section("pictures", words, (PageFigure(words, b"\x89PNG"),))
    return render(words, [words], [words], [section, table])


def data(html: str) -> dict:
    (script,) = (
        text
        for (tag, attributes), text in zip(
            [e for e in Elements(html).found if e[0] == "script"],
            Elements(html).text["script"],
            strict=True,
        )
        if attributes.get("type") == "application/json"
    )
    return json.loads(script)["numbers"]


FRAME = pd.DataFrame(
    {
        "name": ["b", None, EVIL, "b"],
        "bits": pd.array([1_234_567, None, 0, -5], dtype="Int64"),
        "count": [3, 2, 1, 0],
    }
)


@pytest.mark.parametrize(
    ("words", "ranks"),
    [
        (["1 MiB", "64 KiB", "512 KiB", "64 KiB"], [2, 0, 1]),
        (["1.6 GB/s", "800 MB/s", "1.25 GB/s", None], [3, 1, 2, 0]),
        (["8192 bit", "1 KiB"], [0, 0]),
        (["64 KiB", "none"], None),
        (["3", "20"], None),
    ],
)
def test_quantities_are_ranked_by_what_they_are(words, ranks):
    (column,) = data(page(pd.DataFrame({"name": words}), Column("name", "size")))["columns"]
    assert column.get("ranks") == ranks


def test_words_are_told_once_and_numbers_are_scaled():
    html = page(
        FRAME,
        Column("name", "who"),
        Column("bits", "[Mbit]", 1e6, 3),
        Column("count", "#", digits=0),
    )
    assert data(html) == {
        "title": "words",
        "length": 4,
        "columns": [
            {"label": "who", "words": ["b", "", EVIL], "at": [0, 1, 2, 0]},
            {"label": "[Mbit]", "values": [1.234567, None, 0.0, -5e-06], "digits": 3},
            {"label": "#", "values": [3, 2, 1, 0], "digits": 0},
        ],
    }


def test_no_word_becomes_markup():
    plain = Elements(page(FRAME, Column("name", "who"), words="words"))
    evil = Elements(page(FRAME, Column("name", EVIL), words=EVIL))
    assert [tag for tag, _ in evil.found] == [tag for tag, _ in plain.found]
    assert "".join(evil.text["h1"]) == EVIL
    (image,) = (attributes for tag, attributes in evil.found if tag == "img")
    assert image["alt"] == EVIL


def test_the_page_allows_itself_nothing_from_outside():
    html = page(FRAME, Column("name", "who"))
    elements = Elements(html)
    policy = next(a["content"] for t, a in elements.found if a.get("http-equiv"))
    style, script = elements.text["style"][0], elements.text["script"][-1]
    hashed = [
        base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (style, script)
    ]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashed[0]}'; "
        f"script-src 'sha256-{hashed[1]}'"
    )
    assert not re.search(r"https?://|@import|url\(", html)
    for tag, attributes in elements.found:
        for name in ("src", "href"):
            if attributes.get(name):
                assert attributes[name].startswith(("data:", "#")), (tag, attributes)


def test_contents_lead_to_every_part():
    elements = Elements(page(FRAME, Column("name", "who")))
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    links = [a["href"] for tag, a in elements.found if tag == "a"]
    assert links == ["#section-pictures", "#section-numbers"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} < set(ids)


def test_equal_content_makes_equal_text():
    assert page(FRAME, Column("name", "who")) == page(FRAME.copy(), Column("name", "who"))
