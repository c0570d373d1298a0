"""The templates of pages: all text that is filled in is escaped, and a name that nothing fills is an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    import jinja2


def templates() -> jinja2.Environment:
    """The `.jinja` files of this folder."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def style(environment: jinja2.Environment) -> Markup:
    """The style sheet that all pages share."""
    return Markup(environment.get_template("report.css.jinja").render())
