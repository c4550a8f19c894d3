from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd

from lop_ray.analysis import page

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects what a test asks for."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    parsed.close()
    assert parsed.open == []
    return parsed


def test_text_is_shown_as_it_is() -> None:
    evil = '<script>alert("x")</script> & "quotes"'
    body = [
        page.heading(evil, 1, 'a"b'),
        page.paragraph(evil),
        page.note(evil),
        page.items([evil]),
        page.picture(b"png", 4.0, evil, evil),
        page.html_table(pd.DataFrame({evil: [evil]})),
        page.settings_table({evil: evil}),
        page.folded(evil, [page.paragraph(evil)]),
        page.contents({'a"b': evil}),
    ]
    parsed = outline(page.page(evil, body))
    assert "script" not in [tag for tag, _ in parsed.tags]
    assert "".join(parsed.text).count(evil) == 13
    assert [attributes["alt"] for tag, attributes in parsed.tags if tag == "img"] == [evil]


def test_nothing_outside_is_needed() -> None:
    html = page.page("title", [page.picture(b"\x89PNG", 6.0, "a figure", "caption"), page.contents({"x": "y"})])
    for tag, attributes in outline(html).tags:
        for name in ("src", "href", "action", "data"):
            target = attributes.get(name) or "#"
            assert target.startswith(("data:image/png;base64,", "#")), (tag, target)
    assert "@import" not in html
    assert "url(" not in html


def test_light_and_dark_are_offered() -> None:
    html = page.page("title", [])
    assert "color-scheme: light dark" in html
    assert "prefers-color-scheme: dark" in html


def test_numbers_stand_to_the_right() -> None:
    html = page.html_table(pd.DataFrame({"name": ["std"], "value": ["1 [0, 2]"]}))
    assert '<td class="text">std</td><td class="number">1 [0, 2]</td>' in html


def test_lists_in_settings_are_readable() -> None:
    assert ">256, 256</td>" in page.settings_table({"network.hidden": [256, 256]})
