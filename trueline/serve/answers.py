"""From a request to its answers: an order for the worker, its candidates in the order of what they are worth.

The event loop owns everything here; what computes is handed to the worker, and what comes back is told to the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from trueline.conditions.protocol import conditioned
from trueline.errors import UserError
from trueline.records import Completion, Message, Prompt
from trueline.sample.protocol import Sampling, order
from trueline.serve import wire
from trueline.serve.limits import Limits
from trueline.serve.meters import Meters
from trueline.serve.policies import LOGPROB, House, Served, too_long
from trueline.serve.wire import By, Refused
from trueline.serve.worker import Worker

if TYPE_CHECKING:
    from trueline.sample.protocol import Order


@dataclass(frozen=True)
class Candidate:
    """One answer, its place among those drawn, and what each reader said of it."""

    index: int
    said: Completion
    scores: dict[str, float | None]
    logprobs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Answered:
    """All candidates of a request, the best first. by: whose scores decided. seed: draws the same ones again."""

    by: str
    seed: int
    prompt_tokens: int
    candidates: tuple[Candidate, ...]
    condition: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens written, of all candidates."""
        return sum(len(c.said.tokens or ()) for c in self.candidates)


@dataclass(eq=False)
class Asked:
    """A request that was found to be in order. prompt: as it was sent; posed: with what asks in front. raw: it is a
    text to go on from, not a conversation."""

    body: wire.Body
    served: Served
    prompt: Prompt
    posed: Prompt
    sampling: Sampling
    by: By
    signed: str
    raw: bool
    most: int | None
    condition: str | None = None

    @property
    def param(self) -> str:
        """The field that holds what is asked."""
        return _field(self.body)

    @property
    def ranks(self) -> bool:
        """Whether anybody's word is wanted but that of the log-probs."""
        return self.body.drawn > 1 or self.body.candidates or self.body.rank_by is not None

    def wants(self, reader: By) -> bool:
        """Whether this reader has a word: the one who ranks, and all there are where candidates are shown."""
        return self.ranks and not self.raw and (self.by == reader or self.body.candidates)


class Desk:
    """Takes requests for the models of a house."""

    def __init__(self, house: House, worker: Worker, limits: Limits, meters: Meters) -> None:
        self.house, self.worker, self.limits, self.meters = house, worker, limits, meters
        self.in_flight = 0
        self.pace = 1.0  # seconds that a request takes, of late

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue. Raises `Refused` where there is none."""
        if self.in_flight >= self.limits.queue:
            raise Refused(
                429, f"{self.in_flight} requests are in hand, as many as this server takes. Try again soon.",
                code="queue_full", wait=min(60, max(1, round(self.pace))),
            )  # fmt: skip
        loop = asyncio.get_running_loop()
        self.in_flight += 1
        began = loop.time()
        try:
            yield
        finally:
            self.in_flight -= 1
            self.pace += 0.1 * (loop.time() - began - self.pace)

    def asked(self, body: wire.Body) -> Asked:
        """Check a request against the models and limits. Raises `Refused`."""
        body.check(self.limits.candidates, self.limits.max_tokens)
        served = self.house.writer(body.model)
        prompt = body.prompt()
        raw = isinstance(body, wire.Completion) and served.loaded.renderer.style != "plain"
        served.check_size(sum(len(m.content.strip()) for m in prompt.messages), _field(body))
        by, signed = self.house.ranking(served, body.rank_by, body.head, raw)
        condition = None if body.condition is None else served.asking.rendered(body.condition, prompt)
        banned = served.asking.banned if condition else ()
        stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
        given: dict[str, Any] = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
        try:
            sampling = Sampling(
                body.drawn, max_tokens=body.most or self.limits.max_tokens, min_tokens=body.min_tokens or 0, stop=stop,
                seed=secrets.randbits(62) if body.seed is None else body.seed, ban=banned,
                **{name: value for name, value in given.items() if value is not None},
            )  # fmt: skip
        except UserError as error:
            param = error.where.removeprefix("Sampling(").partition("=")[0]
            raise Refused(400, f"{param}: {error.got}; {error.wanted}.", param=param) from None
        posed = (
            prompt
            if not condition
            else msgspec.structs.replace(prompt, messages=conditioned(prompt.messages, condition))
        )
        return Asked(body, served, prompt, posed, sampling, by, signed, raw, body.most, condition)

    async def answered(self, asked: Asked) -> Answered:
        """The candidates. Raises `Refused`; a caller that is cancelled gives its rows back."""
        with Ticket(self, asked) as ticket:
            return await self.ranked(asked, ticket, *await ticket.done)

    async def ranked(self, asked: Asked, ticket: Ticket, said: list[Completion], read: list[list[float]]) -> Answered:
        """Candidates with their scores, the best first, equals as they were drawn."""
        scores: list[dict[str, float | None]] = [{LOGPROB: _mean(c.logprobs)} for c in said]
        served, conversations = asked.served, [(*asked.prompt.messages, Message("assistant", c.text)) for c in said]
        if ticket.reads and served.reads_along:
            _add(scores, [f"{served.name}/{head}" for head in served.heads], read)
        elif ticket.reads:
            posed = [(*asked.posed.messages, Message("assistant", c.text)) for c in said]
            _add(scores, [f"{served.name}/{head}" for head in served.heads], await self.did(lambda: served.read(posed)))
        model = self.house.reward_model
        if (
            model is not None
            and asked.ranks
            and not asked.raw
            and (asked.by == "reward-model" or asked.body.candidates)
        ):
            _add(scores, self.house.reward_names, await self.did(lambda: model.read(conversations)))
        texts: list[tuple[tuple[str, float], ...]] = [()] * len(said)
        if asked.body.tells_tokens:
            texts = await self.did(lambda: [_tokens(served, c) for c in said])
        found = [Candidate(i, c, of, t) for i, (c, of, t) in enumerate(zip(said, scores, texts, strict=True))]
        if asked.ranks:
            found.sort(key=lambda c: -_known(c.scores.get(asked.signed)))
        answered = Answered(asked.signed, asked.sampling.seed, ticket.prompt_tokens, tuple(found), asked.condition)
        self.meters.tokens.labels("read").inc(answered.prompt_tokens)
        self.meters.tokens.labels("written").inc(answered.tokens)
        self.meters.candidates.inc(len(found))
        return answered

    async def did(self, call: Callable[[], Any]) -> Any:
        """What the worker makes of a call. Raises `Refused` for a mistake of the user's."""
        try:
            return await asyncio.wrap_future(self.worker.do(call))
        except UserError as error:
            raise wire.mistake(error) from None

    async def pieces(self, asked: Asked) -> AsyncIterator[str | Answered]:
        """Pieces of text as they come, "" first once the request is taken in; then the whole. An answer that is chosen
        of several comes in one piece, as nobody knows it before."""
        with Ticket(self, asked, grows=asked.sampling.n == 1) as ticket:
            while True:
                piece = await ticket.pieces.get()
                if piece is None:
                    break
                yield piece
            answered = await self.ranked(asked, ticket, *ticket.done.result())
        if asked.sampling.n > 1:
            yield answered.candidates[0].said.text
        yield answered


@dataclass(eq=False)
class Ticket:
    """One order in the worker's hands, seen from the event loop. Left early, the order is dropped."""

    desk: Desk
    asked: Asked
    grows: bool = False
    prompt_tokens: int = 0
    done: asyncio.Future[tuple[list[Completion], list[list[float]]]] = field(init=False)
    pieces: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)

    @property
    def reads(self) -> bool:
        """Whether the policy's heads have a word."""
        return bool(self.asked.served.heads) and self.asked.wants("head")

    def __enter__(self) -> Ticket:
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.order = order(
            self.asked.posed, self.asked.sampling, reads=self.reads and self.asked.served.reads_along,
            finished=lambda *found: self._tell(self._settle, found, None),
            failed=lambda error: self._tell(self._settle, None, broke(error)),
            grown=(lambda piece: self._tell(self.pieces.put_nowait, piece)) if self.grows else None,
        )  # fmt: skip
        placed = self.order
        self.desk.worker.do(lambda: self._add(placed))
        return self

    def __exit__(self, *error: Any) -> None:
        # An order and its ticket know each other: parted here, they need not wait for a collection of garbage.
        order, live = self.order, self.asked.served.live
        del self.order
        # Whoever waits for `done` and is cancelled takes it along.
        if self.done.cancelled() or not self.done.done():
            self.done.cancel()
            assert live is not None
            self.desk.worker.do(lambda: live.drop(order))
        else:
            self.done.exception()  # seen, whoever waits for it

    def _tell(self, call: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self.loop.call_soon_threadsafe(call, *args)

    def _settle(self, found: Any, error: Exception | None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(found)
            else:
                self.done.set_exception(error)
        self.pieces.put_nowait(None)

    def _add(self, order: Order) -> None:
        """In the worker: render the prompt, see what room it leaves, and let it wait for rows."""
        asked, live = self.asked, self.asked.served.live
        assert live is not None
        try:
            if asked.raw:
                order.ids = live.text_ids(asked.posed)
            room, context = live.room(order), live.context
            self.prompt_tokens = order.ids.size
            if room is not None and context is not None:
                if room < (asked.most or 1):
                    raise too_long(order.ids.size, context, asked.param, asked.most or 1)
                if asked.most is None and room < asked.sampling.max_tokens:
                    order.sampling = dataclasses.replace(asked.sampling, max_tokens=room)
            live.add(order)
        except UserError as error:
            self._tell(self._settle, None, wire.mistake(error, param=asked.param))
        except Exception as error:
            self._tell(self._settle, None, error if isinstance(error, Refused) else broke(error))
        else:
            self._tell(self.pieces.put_nowait, "")


def broke(error: Exception) -> Exception:
    """What a client is told of a model that broke: what a user may know, and no more."""
    if isinstance(error, UserError):
        return Refused(500, str(error), code="model_broke")
    failure = Refused(500, "The model broke while it wrote this answer.", code="model_broke")
    failure.__cause__ = error
    return failure


def _add(scores: list[dict[str, float | None]], names: list[str], rows: Any) -> None:
    """Note what readers of these names said."""
    for into, row in zip(scores, rows, strict=True):
        into.update(dict.fromkeys(names) if row is None else zip(names, row, strict=True))


def _field(body: wire.Body) -> str:
    return "prompt" if isinstance(body, wire.Completion) else "messages"


def _known(score: float | None) -> float:
    return float("-inf") if score is None else score


def _mean(logps: tuple[float, ...] | None) -> float | None:
    return sum(logps) / len(logps) if logps else None


def _tokens(served: Served, said: Completion) -> tuple[tuple[str, float], ...]:
    text_of = served.loaded.renderer.text_of
    return tuple((text_of([token]), logp) for token, logp in zip(said.tokens or (), said.logprobs or (), strict=True))
