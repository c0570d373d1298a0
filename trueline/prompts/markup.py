"""HTML of posts as plain text: paragraphs, lists and code keep their shape, everything else its words.

Paragraphs, headings, quotes and list items are set apart by a blank line or a line, code blocks stand between fences,
inline code between backticks. Links and emphasis are their text; pictures are left out. Nothing is guessed of what a
page would look like.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

BLOCKS = frozenset(
    ("p", "div", "ul", "ol", "blockquote", "table", "hr", "dl", "section", "h1", "h2", "h3", "h4", "h5", "h6")
)
LINES = frozenset(("li", "tr", "dt", "dd"))
UNSEEN = frozenset(("script", "style"))


def text_of(html: str) -> str:
    """The text of a piece of HTML.

    >>> text_of("<p>Call <code>bake()</code> &amp; <em>wait</em>.</p>\\n<ul><li>one</li><li>two</li></ul>")
    'Call `bake()` & wait.\\n\\n- one\\n- two'
    >>> print(text_of("<p>So:</p><pre><code>if hot:\\n    eat()\\n</code></pre>"))
    So:
    <BLANKLINE>
    ```
    if hot:
        eat()
    ```
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", "".join(reader.parts))).strip()


class _Reader(HTMLParser):
    """Collects the text, with line breaks where blocks begin and end."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.fenced = self.unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self.parts.append("\n\n```\n")
            self.fenced += 1
        elif tag in BLOCKS:
            self.parts.append("\n\n")
        elif tag in LINES:
            self.parts.append("\n- " if tag == "li" else "\n")
        elif tag == "br":
            self.parts.append("\n")
        elif tag == "code" and not self.fenced:
            self.parts.append("`")
        self.unseen += tag in UNSEEN

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre" and self.fenced:
            self.fenced -= 1
            ends = self.parts and self.parts[-1].endswith("\n")
            self.parts.append("```\n\n" if ends else "\n```\n\n")
        elif tag in BLOCKS:
            self.parts.append("\n\n")
        elif tag == "code" and not self.fenced:
            self.parts.append("`")
        self.unseen -= tag in UNSEEN and self.unseen > 0

    def handle_data(self, data: str) -> None:
        if self.unseen:
            return
        if not self.fenced:
            data = re.sub(r"\s+", " ", data)
            if not self.parts or self.parts[-1].endswith("\n"):
                data = data.lstrip()
        self.parts.append(data)
