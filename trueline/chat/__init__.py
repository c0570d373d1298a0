"""The only door between text and tokens: `renderer` writes conversations, `template` finds out how a tokenizer wants
them written, `tokens` turns the text into ids and back.
"""

from trueline.chat.renderer import (
    Rendered,
    Renderer,
    prepare,
)
from trueline.chat.template import (
    BOS,
    CHATML,
)

__all__ = [
    "BOS",
    "CHATML",
    "Rendered",
    "Renderer",
    "prepare",
]
