"""A page of figures for a study that compares numbers instead of answers: headline, facts, charts and tables.

`page` lays out a report of arms, prompts and samples; a study in closed form has none of these, but the same style
sheet. One self-contained file without script; all text passes jinja2's escaping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trueline.evaluate.templates import style, templates


@dataclass(frozen=True)
class Fact:
    """One answer at the top: what it is of, its figure, a sentence."""

    title: str
    figure: str
    text: str


@dataclass(frozen=True)
class Part:
    """One section: heading, what to see, charts with (colour number, name) of their lines, a table as text.

    wide: its charts stand one below the other, each as wide as the page lets it.
    """

    title: str
    lead: str
    charts: tuple[Markup, ...] = ()
    names: tuple[tuple[int, str], ...] = ()
    text: str = ""
    wide: bool = False


def render(title: str, headline: str, lead: str, facts: Sequence[Fact], parts: Sequence[Part]) -> str:
    """The whole page."""
    environment = templates()
    template = environment.get_template("sheet.html.jinja")
    said = {"title": title, "headline": headline, "lead": lead, "facts": facts, "parts": parts}
    return template.render(said, style=style(environment))
