"""`Perspective`: how little a text is perceived as toxic, by the Perspective API (commentanalyzer v1alpha1).

    export PERSPECTIVE_API_KEY=...
    judge(samples, Perspective())                                        one request a second, the API's own default
    judge(samples, Perspective(access=Access(per_second=120, concurrency=32)))

Only the continuation is scored, as RealToxicityPrompts, Quark and ALT do. The score is 1 less the probability, so that
more is better as everywhere; the toxicity is 1 less the score.

What was scored once is never asked again: every score is kept in the store (`perspective.sqlite`) the moment it
arrives, under a hash of attribute, language and text. A reply belongs to its text by that hash, which travels with the
request, and never by its place in a list. A request that fails in passing (429, 5xx, no connection, a broken reply) is
made again after growing waits, and while a server asks for patience nobody sends; a text that the API refuses (too
long, in another language) abstains for good, one that failed `tries` times abstains and is asked again in the next run.
The key is read from the environment, sent in a header, and stands in no error, record or log.

The model behind the API changes without notice, and its end is announced for December 31, 2026: `Profanity` and
`Classifier` score offline.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trueline.errors import UserError
from trueline.feedback import kept
from trueline.feedback.protocol import meter
from trueline.feedback.rate import Bucket
from trueline.feedback.texts import TextCritic, installed
from trueline.machine import Runtime

if TYPE_CHECKING:
    import httpx

KEY = "PERSPECTIVE_API_KEY"
HEADER = "X-Goog-Api-Key"  # in the address the key would stand in every log of requests
FILE = "perspective.sqlite"
URL = "https://commentanalyzer.googleapis.com/v1alpha1/comments:analyze"
KEY_REFUSED = ("API_KEY_INVALID", "API key not valid", "SERVICE_DISABLED", "PERMISSION_DENIED")


@dataclass(frozen=True)
class Access(Runtime):
    """How the API is reached; no part of what a score is.

    per_second: requests, over all threads. concurrency: requests in flight at once. tries: attempts per text. wait,
    longest: seconds before the second attempt, doubled for each further one up to the longest. timeout: seconds until a
    request that gets no answer is given up.
    """

    url: str = URL
    per_second: float = 1.0
    concurrency: int = 8
    tries: int = 7
    wait: float = 1.0
    longest: float = 64.0
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for name in ("per_second", "concurrency", "tries", "wait", "longest", "timeout"):
            if not getattr(self, name) > 0:
                raise UserError(f"Access({name}=...)", f"got {getattr(self, name)!r}", "a number above 0")
        if not self.url.startswith(("http://", "https://")):
            raise UserError("Access(url=...)", f"got {self.url!r}", "an address that begins with https://")


class Passing(Exception):
    """A failure that may pass: why, and how many seconds the server asks to wait."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        self.why, self.seconds = why, seconds
        super().__init__(why)


@dataclass(frozen=True)
class Perspective(TextCritic):
    """Scores every completion with 1 less the probability of `attribute`, for texts in `language`."""

    attribute: str = "TOXICITY"
    language: str = "en"
    access: Access = Access()

    def __post_init__(self) -> None:
        if not (self.attribute.isascii() and self.attribute.replace("_", "").isupper()):
            raise UserError("Perspective(attribute=...)", f"got {self.attribute!r}", "a name such as SEVERE_TOXICITY")

    @property
    def name(self) -> str:
        return f"perspective:{self.attribute.lower()}"

    def scores(self, texts: Sequence[str]) -> list[float | str]:
        """The score of each text, or why it has none; each different text that was never scored is asked about once.

        Raises `UserError` where the key is missing or refused.
        """
        keys = [self.key(text) for text in texts]
        with kept.opened(FILE, "scores", ("score REAL", "why TEXT")) as table:
            found = {key: score if score is not None else why for key, (score, why) in table.known(keys).items()}
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
            found.update(self._asked(missing, table))
        meter("cached", len(texts) - len(missing))
        return [found[key] for key in keys]  # type: ignore[misc]

    def key(self, text: str) -> str:
        """What a text's score is kept under."""
        content = json.dumps([self.attribute, self.language, text])
        return hashlib.sha256(content.encode()).hexdigest()[:40]

    def _asked(self, texts: dict[str, str], table: kept.Kept) -> Iterator[tuple[str, float | str]]:
        """(key, score or why not) of each text, as they arrive; what will not change is in the table by then."""
        if not texts:
            return
        for package in ("httpx", "tenacity"):
            installed(package, "Perspective()")
        import httpx

        bucket = _bucket(self.access.url, self.access.per_second)
        headers = {HEADER: api_key()}
        threads = min(self.access.concurrency, len(texts))
        with (
            httpx.Client(timeout=self.access.timeout, headers=headers, follow_redirects=False) as client,
            concurrent.futures.ThreadPoolExecutor(threads) as pool,
        ):
            waiting = [pool.submit(self._ask, client, bucket, table, *item) for item in texts.items()]
            try:
                for done in concurrent.futures.as_completed(waiting):
                    yield done.result()
            except BaseException:  # what is in flight is waited for, the rest is never sent
                bucket.close()
                _bucket.cache_clear()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(
        self, client: httpx.Client, bucket: Bucket, table: kept.Kept, key: str, text: str
    ) -> tuple[str, float | str]:
        """One text, until it has its score; kept before the thread asks for anything else."""
        import tenacity

        def seconds(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.seconds if isinstance(error, Passing) else 0.0
            if asked:
                bucket.pause(asked)
            return max(asked, growing(state))

        growing = tenacity.wait_exponential_jitter(self.access.wait, self.access.longest, jitter=self.access.wait / 4)
        patiently = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.access.tries), wait=seconds, sleep=bucket.wait,
            retry=tenacity.retry_if_exception_type(Passing),
        )  # fmt: skip
        try:
            said = patiently(self._once, client, bucket, key, text)
        except tenacity.RetryError as error:
            why = error.last_attempt.exception()
            return key, f"{why} ({self.access.tries} attempts)"
        if isinstance(said, str):
            said = said.replace(client.headers[HEADER], "[key]")
        table.keep([(key, None, said) if isinstance(said, str) else (key, said, None)])
        return key, said

    def _once(self, client: httpx.Client, bucket: Bucket, key: str, text: str) -> float | str:
        """One request: the score, or why this text never gets one. Raises `Passing` for what may pass."""
        import httpx

        question = {
            "comment": {"text": text}, "languages": [self.language], "requestedAttributes": {self.attribute: {}},
            "doNotStore": True, "clientToken": key,
        }  # fmt: skip
        bucket.take()
        try:
            response = client.post(self.access.url, json=question)
        except httpx.TransportError as error:
            raise Passing(type(error).__name__) from None
        return self.read(response.status_code, response.content, response.headers.get("retry-after", ""), key)

    def read(self, status: int, content: bytes, retry_after: str, key: str) -> float | str:
        """What a response says: the score, or why there is none for good.

        Raises `Passing` for what may pass, and `UserError` where the key is refused.
        """
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        if status in (408, 429) or status >= 500:
            raise Passing(f"HTTP {status}", _seconds(retry_after))
        if status != 200:
            refused = status in (401, 403) or any(sign in content.decode(errors="replace") for sign in KEY_REFUSED)
            if status in (400, 413) and not refused:
                return f"HTTP {status}: {_message(body)}"
            got = "it refuses the key" if refused else "there is no Perspective API"
            raise UserError(self.access.url, f"{got} (HTTP {status})", "", f"Check ${KEY} and the address.")
        if not isinstance(body, dict):
            raise Passing("a reply that is no whole JSON")
        if body.get("clientToken", key) != key:
            raise Passing("a reply to another text")
        try:
            summary = body["attributeScores"][self.attribute]["summaryScore"]
            value, kind = summary["value"], summary["type"]
        except (KeyError, TypeError):
            raise Passing(f"a reply without {self.attribute}") from None
        if kind != "PROBABILITY" or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise Passing(f"a reply whose {self.attribute} is no probability")
        return 1.0 - float(value)


@functools.lru_cache
def _bucket(url: str, per_second: float) -> Bucket:
    """The turns at one address: shards, and critics, of one process share them."""
    return Bucket(per_second)


def api_key() -> str:
    """The key in the environment. Raises `UserError`, without it, where it is missing or cannot be sent."""
    key = os.environ.get(KEY, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        got = "it has characters that no key has" if key else "it is not set"
        raise UserError(f"${KEY}", got, "a key for the Perspective API", "Export it, or use Profanity().")
    return key


def _message(body: Any) -> str:
    try:
        return str(body["error"]["message"])[:200]
    except (KeyError, TypeError):
        return "no reason given"


def _seconds(retry_after: str) -> float:
    """The header's seconds; 0 where it has none (a date is not waited for)."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), 600.0) if math.isfinite(seconds) else 0.0
