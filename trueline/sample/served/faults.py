"""What can go wrong with a request, and which of it may pass: the SDKs' errors as ours.

`Passing` is asked again (429, 5xx, time-outs, connections that break, half a reply); a `UserError` ends the run and
says what to mend; `Filtered` is no error at all but an answer that the provider keeps to itself. Neither carries the
key: what a server says is shown without anything that looks like one.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trueline.errors import UserError
from trueline.sample.protocol import NoRoom
from trueline.sample.served.connection import redacted

PASSING = frozenset({408, 409, 423, 425, 429})
LASTING = frozenset({501, 505, 511})  # 5xx that will not pass
_FILTERS = ("content_filter", "content_policy_violation")
_QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_error")
_ROOM = ("context_length", "context length", "maximum context", "context window", "prompt is too long")


class Passing(Exception):
    """An error that may pass. after_s: how long the server asks to wait, None where it does not say."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.after_s = reason, after_s


class Filtered(Exception):
    """The provider's filter answered instead of the model."""


@dataclass(eq=False)
class Asked:
    """Of whom and what, for an error's text. key_name: the key's variable, "" where none is sent."""

    name: str
    address: str
    model: str
    key: str | None = field(repr=False)
    key_name: str

    @property
    def where(self) -> str:
        """engine openai:gpt-5-mini (http://...)."""
        return f"engine {self.name}" + (f" ({self.address})" if self.address else "")


def understood(error: Exception, sdk: Any, asked: Asked, prompt: str) -> Exception:
    """The error of an SDK (the module `openai` or `anthropic`) as a `Passing`, a `Filtered` or a `UserError`."""
    if isinstance(error, sdk.APITimeoutError):
        return Passing("no sign of life within the time-out")
    if isinstance(error, sdk.APIConnectionError):
        cause = error.__cause__
        return Passing(redacted(f"the connection broke ({type(cause).__name__}: {cause})", asked.key))
    if isinstance(error, sdk.APIStatusError):
        return _status(error.status_code, said(error.body), error.response.headers, asked, prompt)
    if isinstance(error, ValueError | sdk.APIResponseValidationError):  # JSON that breaks off, too
        return Passing(redacted(f"the reply cannot be read ({type(error).__name__}: {error})", asked.key))
    return error


def said(body: Any) -> tuple[str, str]:
    """(code, message) of an error's body, whoever's."""
    if not isinstance(body, Mapping):
        return "", body if isinstance(body, str) else ""
    inner = body.get("error", body)
    if not isinstance(inner, Mapping):
        return "", str(inner)
    code = inner.get("code") or inner.get("type") or ""
    return str(code), str(inner.get("message") or inner.get("detail") or inner)


def _status(status: int, spoken: tuple[str, str], headers: Mapping[str, str], asked: Asked, prompt: str) -> Exception:
    code, message = spoken[0], redacted(spoken[1], asked.key)
    if code in _FILTERS:
        return Filtered()
    got = f"status {status}" + (f": {message}" if message else "")
    if status in (401, 403):  # what a provider says of a key may hold parts of it: not shown
        cure = f"Mend ${asked.key_name}." if asked.key_name else 'Export it and name its variable: key_env="MY_KEY".'
        sent = f"the key in ${asked.key_name} is refused" if asked.key_name else "it wants a key, and none was sent"
        return UserError(asked.where, f"{sent} (status {status})", f"a key that may use {asked.model}", cure)
    if status == 402 or code in _QUOTA:
        return UserError(asked.where, got, "an account with credit", "Top it up and run again: every reply is kept.")
    if status in PASSING or (status >= 500 and status not in LASTING):
        return Passing(got, wait_asked(headers))
    if status == 404:
        wanted = f"a server that knows the model {asked.model!r} at this address"
        return UserError(asked.where, got, wanted, "Check the model's name (it may be retired) and the address.")
    if any(sign in f"{code} {message}".lower() for sign in _ROOM):
        return NoRoom(
            f"{asked.where}, {prompt}", got, "room for prompt and answer", "Shorten the prompt or lower max_tokens."
        )
    return UserError(
        f"{asked.where}, {prompt}", got, "a request that the server takes",
        'A setting that it does not know can be left out: omit=("temperature",).',
    )  # fmt: skip


def wait_asked(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, `retry-after` in seconds or as a date; None: nothing."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            seconds = _until(value)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def _until(date: str) -> float:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return math.nan
