"""A tokenizer's ids for stretches of text: the template's own, with special tokens parsed, and contents, without.

Some tokenizers put a dummy space before a text; here a stretch in the middle of a text gets none. Which stretches a
conversation consists of is `chat`'s business.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any


class Tokens:
    """A tokenizer's ids for stretches of text, at the start of a text, after a special token, or after text.

    SentencePiece-type tokenizers put a dummy space before a text (and some after each special token); `inner` is the
    same tokenizer without it, for stretches that continue a text, and decodes them without eating a real space.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.backend = getattr(tokenizer, "backend_tokenizer", None)
        added = [t for t in getattr(tokenizer, "added_tokens_decoder", {}).values() if t.content.strip()]
        special = {*tokenizer.all_special_tokens, *(t.content for t in added if t.special)}
        self.special = one_of(special)
        self.special_ids = {int(tokenizer.convert_tokens_to_ids(token)) for token in special}
        # Any added token cuts a text in two for the tokenizer, "<think>" too, which contents may hold as a token.
        self.added = one_of(special | {t.content for t in added})
        self.inner, self.after_special = without_dummy_space(self.backend)
        self._lock = threading.Lock()

    def after(self, text: str) -> str:
        """Where a stretch that follows `text` stands."""
        ends = [m.end() for m in self.added.finditer(text)]
        return "special" if text and ends and ends[-1] == len(text) else "text"

    def control(self, text: str, at: str) -> list[int]:
        """Ids of the template's own text: special tokens are parsed."""
        found = self.added.search(text) if self.inner is not self.backend else None
        if found is None:
            return self._encode(text, at, False)
        return [*self._encode(text[: found.start()], at, False), *self._encode(text[found.start() :], "start", False)]

    def content(self, text: str, at: str) -> list[int]:
        """Ids of a content: special-token text is text."""
        return self._encode(text, at, True)

    def _encode(self, text: str, at: str, split_special: bool) -> list[int]:
        if not text:
            return []
        if self.backend is None:
            return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=split_special)["input_ids"])
        outer = at == "start" or (at == "special" and self.after_special)
        backend = self.backend if outer else self.inner
        with self._lock:
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = split_special
            return list(backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids as it continues another text."""
        if self.inner is None:
            return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return str(self.inner.decode(list(ids), skip_special_tokens=False))


def one_of(words: set[str]) -> re.Pattern[str]:
    """A pattern of any of these words, the longest first; of none, one that never matches."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)")


def without_dummy_space(backend: Any) -> tuple[Any, bool]:
    """`backend` without the space it puts before a text, and whether it puts one after each special token too.

    The same object where it puts none.
    """
    import json

    if backend is None:
        return None, False
    parts = [json.loads(p.__getstate__()) for p in (backend.normalizer, backend.pre_tokenizer) if p is not None]
    puts = [node for part in parts for node in nodes(part) if puts_space(node)]
    if not puts:
        return backend, False
    from tokenizers import Tokenizer

    whole = json.loads(backend.to_str())
    for key in ("normalizer", "pre_tokenizer", "decoder"):
        whole[key] = without_space(whole[key])
    everywhere = any(node.get("prepend_scheme") != "first" for node in puts)
    return Tokenizer.from_str(json.dumps(whole)), everywhere


def nodes(part: Any) -> list[dict[str, Any]]:
    """A normaliser or pre-tokeniser and, in a sequence, those within it."""
    inner = [n for key in ("normalizers", "pretokenizers", "decoders") for n in part.get(key, ())]
    return [part, *(deep for n in inner for deep in nodes(n))]


def puts_space(node: dict[str, Any]) -> bool:
    """Whether this step puts a space before the text."""
    kind = node.get("type")
    if kind == "Metaspace":
        return node.get("prepend_scheme", "always") != "never"
    return kind == "Prepend" or (kind == "ByteLevel" and bool(node.get("add_prefix_space")))


def without_space(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A step without its dummy space (None: without the step), as the decoder without its undoing."""
    if part is None or part.get("type") == "Prepend":
        return None
    if part.get("type") == "Strip" and part.get("content") == " ":
        return {**part, "start": 0}
    if part.get("type") == "Metaspace":
        return {**part, "prepend_scheme": "never"}
    if part.get("type") == "ByteLevel":
        return {**part, "add_prefix_space": False}
    for key in ("normalizers", "pretokenizers", "decoders"):
        if key in part:
            part = {**part, key: [n for n in map(without_space, part[key]) if n is not None]}
    return part
