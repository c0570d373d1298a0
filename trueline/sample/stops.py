"""Where an answer ends: stop texts, found in text that is still being written.

A stop text may be spread over tokens, and several may begin before one is complete. What ends the answer is the
occurrence that is *complete* first; of two that the same token completes, the one that begins first.
"""

from __future__ import annotations

from collections.abc import Sequence


def cut(text: str, stops: Sequence[str], before: int = 0) -> str | None:
    """`text` up to the first stop text in it, or None where it holds none.

    before: how many characters of `text` are known to hold no complete stop text; only what the later ones can complete
    is searched.

    >>> cut("Ada does.\\nWho else?", ["\\n", "?"])
    'Ada does.'
    """
    found = [text.find(stop, max(0, before - len(stop) + 1)) for stop in stops]
    ends = [at for at in found if at >= 0]
    return text[: min(ends)] if ends else None
