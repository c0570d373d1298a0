"""Answers written as they are asked for: orders join and leave the running batch between two steps of the decode loop.

    live = Live.of(loaded)
    live.add(Order(prompt, Sampling(n=8, seed=1), reads=True, finished=print))
    while live.advance():
        ...

The same loop, the same tokens: an answer's random numbers depend on its order's seed, its prompt's id, its place among
the order's answers and the token's (`choose.stream`), so who else is in the batch changes nothing but rounding. A model
that the loop is not proved for is answered order by order, through transformers' `generate`.

Nothing here waits or locks: whoever owns it calls it from one thread. What is asked over a wire is `serve`'s business.

Shape suffixes: N answers, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from trueline.errors import UserError
from trueline.machine import Machine
from trueline.machine import current as current_machine
from trueline.records import Completion, Prompt
from trueline.sample import decode
from trueline.sample.cache import AHEAD
from trueline.sample.choose import Chooser, stream
from trueline.sample.decode import Reading, Task, Written
from trueline.sample.hf import Writer
from trueline.sample.protocol import Sampling

if TYPE_CHECKING:
    from trueline.models import Loaded

Tensor = torch.Tensor

PREFILL = 0.25  # steps that a row in use may lose to the reading of others' prompts


def _ignore(*_: Any) -> None:
    """Nobody wants to know."""


@dataclass(eq=False)
class Order:
    """`sampling.n` answers to a prompt, and who is told.

    reads: whether the policy's heads read each answer while it is written. finished: called once, with the answers in
    order and what the heads said of each (one number per head). failed: called instead where the model broke. grown:
    called with each new piece of the text of an order of one answer; the pieces are the answer's text, in order.
    """

    prompt: Prompt
    sampling: Sampling
    reads: bool = False
    finished: Callable[[list[Completion], list[list[float]]], None] = _ignore
    failed: Callable[[Exception], None] = _ignore
    grown: Callable[[str], None] | None = None
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sent: int = 0

    @property
    def keys(self) -> list[int]:
        """The keys of the answers' random numbers."""
        return [stream(self.sampling.seed, self.prompt.id, index) for index in range(self.sampling.n)]


class Live:
    """An open model that answers orders. Use it from one thread."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        proof = decode.proved(writer.loaded.model)
        self.batch = Batch(writer, proof.lean) if proof.holds else None
        self.alone: deque[Order] = deque()

    @classmethod
    def of(cls, loaded: Loaded, name: str = "", machine: Machine | None = None) -> Live:
        """For an opened model. name: of the policy, in errors and as the answers' author."""
        reads = loaded.heads is not None and loaded.heads.want == {"last_hidden"}
        return cls(Writer(loaded, name or loaded.folder.name, machine or current_machine(), reads))

    @property
    def rows(self) -> int:
        """Answers that are being written."""
        return len(self.batch.chains) if self.batch is not None else 0

    @property
    def context(self) -> int | None:
        """Tokens that the model can look at; None where it does not say."""
        return self.writer.context

    def room(self, order: Order) -> int | None:
        """Tokens that an answer may have within the model's context; None where there is no bound."""
        self._render(order)
        closing = self.writer.ending if order.reads else 0
        return None if self.context is None else self.context - order.ids.size - closing

    def text_ids(self, prompt: Prompt) -> np.ndarray:
        """The tokens of a prompt that is a text to go on from, without a template: an order's `ids`.

        Raises `UserError` for a text without tokens.
        """
        tokenizer = self.writer.loaded.tokenizer
        ids = list(tokenizer(prompt.text)["input_ids"])
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids.pop()
        if not ids:
            raise UserError(f"prompt {prompt.id}", "it has no token", "something to continue")
        return np.array(ids, dtype=np.int64)

    def add(self, order: Order) -> None:
        """Take an order in. Raises `UserError` for a prompt that cannot be rendered or leaves no room, for heads that
        decoding cannot read, and for banned texts that are not one token."""
        self._render(order)
        writer = self.writer if order.reads else replace(self.writer, reads=False)
        if error := writer.too_long(order.prompt, order.ids.size, order.sampling):
            raise error
        if self.batch is None:
            self.alone.append(order)
        else:
            self.batch.add(order)

    def drop(self, order: Order) -> None:
        """Stop writing an order, whose rows go to others; nobody is told."""
        if order in self.alone:
            self.alone.remove(order)
        elif self.batch is not None:
            self.batch.drop(order)

    def advance(self) -> bool:
        """Write on: one token of each answer in a row. False where there is nothing to write.

        Where the model breaks, all orders in hand fail, and others may follow.
        """
        try:
            if self.batch is not None:
                return self.batch.advance()
            if self.alone:
                self._alone(self.alone[0])
                self.alone.popleft()
                return True
        except Exception as error:
            orders = [*self.alone, *(self.batch.orders.values() if self.batch is not None else ())]
            self.alone.clear()
            if self.batch is not None:
                self.batch.clear()
            for order in orders:
                order.failed(error)
            return True
        return False

    def _render(self, order: Order) -> None:
        if not order.ids.size:
            order.ids = np.array(self.writer.prompt_ids(order.prompt), dtype=np.int64)

    def _alone(self, order: Order) -> None:
        (group,) = replace(self.writer, reads=order.reads).groups([order.prompt], order.sampling)
        said = list(group.completions)
        if order.grown is not None:
            order.grown(said[0].text)
        read = [[f.score for f in of if f.score is not None] for of in group.feedback]
        order.finished(said, read or [[] for _ in said])


class Batch(decode.Decoder):
    """The decode loop over orders that come and go: tasks and prompts have numbers that are used again."""

    def __init__(self, writer: Writer, may_lean: bool) -> None:
        heads = writer.loaded.heads
        reading = None
        if writer.reads and heads is not None:
            reading = Reading(lambda at, said: self._closed(at, said), heads.pool)
        self.prompt_list: list[np.ndarray] = []
        self.task_list: list[Task] = []
        super().__init__(
            writer.loaded.model, self.prompt_list, self.task_list, Chooser(Sampling(), ()), AHEAD, None,
            writer.machine.sample_rows, writer.machine.micro_tokens, may_lean, reading,
        )  # fmt: skip
        self.writer = writer
        # Equal ways to draw are one object, so that their rows are drawn together.
        self.ways: weakref.WeakValueDictionary[Chooser, Chooser] = weakref.WeakValueDictionary()
        self.clear()

    def clear(self) -> None:
        """No order, no answer."""
        self.prompt_list.clear()
        self.task_list.clear()
        self.written: list[Written] = []
        self.keys = np.zeros(0, np.uint64)
        self.orders: dict[int, Order] = {}  # by the number of the prompt
        self.numbers: dict[int, list[int]] = {}  # by the number of the prompt: the order's tasks
        self.left: dict[int, int] = {}  # by the number of the prompt: answers that are not written yet
        self.drawing: dict[int, Chooser] = {}  # by the number of the task
        self.watching: dict[int, Callable[[list[int]], bool] | None] = {}  # by the number of the prompt
        self.waited = 0  # steps that those who came since then have waited, all together
        self.arrived: list[int] = []  # tasks of orders that came since prompts were last read
        self.free_prompts: list[int] = []
        self.free_tasks: list[int] = []
        with torch.inference_mode():
            self._begin()

    # --- orders ------------------------------------------------------------------------------------------------------

    def add(self, order: Order) -> None:
        """Let an order wait for rows. Raises `UserError` for banned texts that are not one token."""
        s = order.sampling
        plain = Sampling(1, s.temperature, s.top_p, s.top_k, max(1, s.min_tokens), s.min_tokens)
        way = Chooser(plain, self.writer.loaded.renderer.stop_ids, self.writer.banned(s))
        way = self.ways.setdefault(way, way)
        at = _put(self.prompt_list, self.free_prompts, order.ids)
        tasks = []
        for key in order.keys:
            number = _put(self.task_list, self.free_tasks, Task(at, key))
            if number == len(self.written):
                self.written.append(Written([], [], "length"))
            if number >= self.keys.size:
                self.keys = np.concatenate([self.keys, np.zeros(max(64, self.keys.size), np.uint64)])
            self.written[number], self.keys[number], self.drawing[number] = Written([], [], "length"), key, way
            tasks.append(number)
        self.orders[at], self.numbers[at], self.left[at] = order, tasks, len(tasks)
        self.watching[at] = self.writer.watch(s)
        self.arrived += tasks

    def drop(self, order: Order) -> None:
        """Forget an order, whatever became of it; others get its rows."""
        at = next((at for at, known in self.orders.items() if known is order), None)
        if at is None:
            return
        gone = set(self.numbers[at])
        self.arrived = [task for task in self.arrived if task not in gone]
        self.blocks = deque(left for block in self.blocks if (left := [t for t in block if t not in gone]))
        self.waiting = deque(waited for waited in self.waiting if waited.task not in gone)
        for task in gone & self.closing.keys():
            del self.closing[task]
        slots = np.flatnonzero(np.isin(self.slots_5N[decode.TASK], list(gone)))
        self._forget(at)
        if slots.size:
            with torch.inference_mode(), decode.decoding(self.model):
                self._fill(slots)

    def advance(self) -> bool:
        """One step; False where there is nothing to write."""
        if not (self.arrived or self.blocks or self.waiting or self.chains):
            return False
        with torch.inference_mode(), decode.decoding(self.model):
            if self.arrived and len(self.chains) < self.rows and self._worth_reading():
                # All that came since prompts were last read is read in one pass.
                self.blocks.extend(self._blocks(self.arrived))
                self.arrived = []
                self._fill(np.zeros(0, np.int64))
            if self.chains:
                self._step()
        return True

    def _worth_reading(self) -> bool:
        """Whether those who came have waited together as long as reading their prompts holds up those who write."""
        self.waited += len(self.arrived)
        if self.waited < PREFILL * len(self.chains):
            return False
        self.waited = 0
        return True

    def _forget(self, at: int) -> None:
        for task in self.numbers.pop(at):
            del self.drawing[task]
            self.written[task] = Written([], [], "length")
            self.free_tasks.append(task)
        del self.orders[at], self.left[at], self.watching[at]
        self.free_prompts.append(at)

    # --- what differs from answer to answer --------------------------------------------------------------------------

    def _draw(self, logits_NV: Tensor, tasks_N: np.ndarray, counts_N: np.ndarray) -> tuple[Tensor, Tensor]:
        ways: dict[int, tuple[Chooser, list[int]]] = {}
        for row, task in enumerate(tasks_N.tolist()):
            way = self.drawing[task]
            ways.setdefault(id(way), (way, []))[1].append(row)
        keys_N = self.keys[tasks_N]
        if len(ways) == 1:
            ((way, _),) = ways.values()
            return way(logits_NV, keys_N, counts_N)
        token_N = torch.zeros(tasks_N.size, dtype=torch.int64, device=logits_NV.device)
        logp_N = torch.zeros(tasks_N.size, dtype=torch.float32, device=logits_NV.device)
        for way, rows in ways.values():
            at = torch.tensor(rows, device=logits_NV.device)
            token_N[at], logp_N[at] = (x.to(y.dtype) for x, y in zip(
                way(logits_NV.index_select(0, at), keys_N[rows], counts_N[rows]), (token_N, logp_N), strict=True
            ))  # fmt: skip
        return token_N, logp_N

    def _over(self, task: int, said: list[int]) -> Literal["stop", "length"] | None:
        at = self.task_list[task].prompt
        order, ended = self.orders[at], self.watching[at]
        how: Literal["stop", "length"] | None = None
        if said[-1] in self.drawing[task].ends or (ended is not None and ended(said)):
            how = "stop"
        elif len(said) >= order.sampling.max_tokens:
            how = "length"
        if order.grown is not None and how is None:
            self._grow(order, said)
        return how

    def _grow(self, order: Order, said: list[int]) -> None:
        """Tell of the text so far, but for what the next tokens may still take away."""
        text = self.writer.loaded.renderer.decode(said).rstrip("\ufffd").rstrip()
        text = text[: len(text) - held_back(text, order.sampling.stop)]
        if len(text) > order.sent and order.grown is not None:
            order.grown(text[order.sent :])
            order.sent = len(text)

    def _reads(self, task: int) -> bool:
        return self.orders[self.task_list[task].prompt].reads

    def _reach(self) -> int:
        return max(o.ids.size + 2 * o.sampling.max_tokens for o in self.orders.values())

    def _closed(self, at: int, said: list[int]) -> list[int]:
        return self.writer.closed(self.prompt_list[at], said, self.orders[at].sampling)

    def _finish(self, task: int) -> None:
        at = self.task_list[task].prompt
        self.left[at] -= 1
        if self.left[at]:
            return
        order, written = self.orders[at], [self.written[number] for number in self.numbers[at]]
        self._forget(at)
        try:
            self.writer.check_read(written)
            said = [self.writer.completion(answer, order.sampling) for answer in written]
        except Exception as error:
            order.failed(error)
            return
        if order.grown is not None and (rest := said[0].text[order.sent :]):
            order.grown(rest)
        order.finished(said, [answer.read for answer in written])


def _put(into: list[Any], free: list[int], value: Any) -> int:
    """Keep a value under a number that is free; the number."""
    if not free:
        into.append(value)
        return len(into) - 1
    into[free[-1]] = value
    return free.pop()


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters of a text may be the beginning of a stop text.

    >>> held_back("Ada does.\\n", ("\\n\\n", "?")), held_back("Ada", ("dance",))
    (1, 0)
    """
    most = min(max((len(stop) for stop in stops), default=1) - 1, len(text))
    return next((n for n in range(most, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)
