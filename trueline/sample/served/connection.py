"""`Connection`: where a server is, how it is spoken to, and what may be spent. It says nothing of what the answer is.

A key is named by its environment variable and read when a question has to be asked. It is sent to the server it was
named for and to no other: a server of one's own gets none unless `key_env` says which.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trueline.errors import UserError
from trueline.machine import Runtime

HIDDEN = "[key]"
_KEYLIKE = re.compile(r"\b(?:sk|pk|hf|key)[-_][\w*.-]{6,}")


@dataclass(frozen=True)
class Connection(Runtime):
    """How to reach a server. Recorded, never part of an identity.

    base_url: the protocol's root ("http://localhost:8000/v1"); "" is the provider's own API.
    concurrency: requests in flight at once, at most.
    timeout_s: seconds without a sign of life after which a request is given up and sent again.
    retries: how often a request is sent again after an error that may pass.
    backoff_s: the wait before the first of these; it doubles each time, with jitter of as much on top.
    longest_s: the longest such wait.
    patience_s: the longest wait that a server may ask for (Retry-After); a longer one stops the run.
    key_env: the environment variable that holds the key; "": OPENAI_API_KEY or ANTHROPIC_API_KEY for the provider's
        own API, and no key for a server of one's own.
    max_calls, max_cost: a hard budget for this engine in this store: requests answered, and US dollars. None: no limit.
    prices: a price table of one's own (see `prices.toml`); "": the one that $TRUELINE_PRICES names, if any.
    """

    base_url: str = ""
    concurrency: int = 8
    timeout_s: float = 60.0
    retries: int = 6
    backoff_s: float = 1.0
    longest_s: float = 60.0
    patience_s: float = 300.0
    key_env: str = ""
    max_calls: int | None = None
    max_cost: float | None = None
    prices: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        if self.base_url:
            _check_url(self.base_url)
        if not isinstance(self.concurrency, int) or self.concurrency < 1:
            raise _refusal("concurrency", self.concurrency, "a whole number of at least 1")
        if not isinstance(self.retries, int) or self.retries < 0:
            raise _refusal("retries", self.retries, "a whole number of at least 0")
        for name in ("timeout_s", "backoff_s", "longest_s", "patience_s"):
            if not isinstance(getattr(self, name), int | float) or not getattr(self, name) > 0:
                raise _refusal(name, getattr(self, name), "a number of seconds above 0")
        for name in ("max_calls", "max_cost"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise _refusal(name, getattr(self, name), "at least 0, or None for no limit")
        if self.key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):
            # What was given may be the key itself: it is not repeated.
            raise UserError(
                "Connection(key_env=...)", "what was given is no name of an environment variable",
                "the variable's name, never the key", 'Export the key and name its variable: key_env="MY_KEY".',
            )  # fmt: skip

    def key(self, own: str) -> str | None:
        """The key to send, or None; `own` is the provider's usual variable, which only the provider's API is sent.

        Raises `UserError` naming the variable where one is needed and not set.
        """
        name = self.key_env or ("" if self.base_url else own)
        if not name:
            return None
        found = os.environ.get(name, "").strip()
        if not found:
            raise UserError(
                "the key of " + (self.base_url or "the provider's API"), f"${name} is not set",
                "a key in the environment", f"Export it: export {name}=...",
            )  # fmt: skip
        return found


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        held = parts.username or parts.password or parts.query
    except ValueError:
        raise _refusal("base_url", url, "an address such as http://localhost:8000/v1") from None
    if held:  # may be a secret: not repeated
        raise UserError(
            "Connection(base_url=...)", "the address holds a user, a password or a query",
            "a bare address: it is recorded", "Put the key into the environment and name it with key_env.",
        )  # fmt: skip
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise _refusal("base_url", url, "an address such as http://localhost:8000/v1")


def _refusal(name: str, got: Any, wanted: str) -> UserError:
    return UserError(f"Connection({name}=...)", f"got {got!r}", wanted)


def redacted(text: str, key: str | None, length: int = 300) -> str:
    """What a server said, on one line, without the key or anything that looks like one, cut to `length` characters."""
    if key:
        text = text.replace(key, HIDDEN)
    text = _KEYLIKE.sub(HIDDEN, " ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"
