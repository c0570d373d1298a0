"""The decode loop: many answers written at once by one model, each prompt read once.

Prompts are read ahead in blocks, as a trie (a prompt with many answers, and what prompts share, is one prefill), and
their keys and values kept until there is room. Answers are written in slots, one token per step each; an answer that
ends makes room for the next one in the queue, and when the queue is empty the others close ranks, so that no step
computes what nobody reads.

Which token is taken is `choose`'s business, keys and values are `cache`'s, text is the engine's.

Shape suffixes: N answers waiting or slots in use, V vocabulary, P prompts of a block.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from trueline import trie as tokens
from trueline.sample import cache as caches
from trueline.sample import lean
from trueline.sample.cache import Cache, Prefilled, Segment
from trueline.sample.choose import Chooser
from trueline.sample.prefill import prefill
from trueline.sample.protocol import Sampling
from trueline.trie import attention as tries

Tensor = torch.Tensor

log = logging.getLogger("trueline")

# Slots are put in order of length, now and then, where reading them out of order takes that much longer: it costs about
# as much as reading them once.
SORT_EVERY = 16
UNSORTED = 1.15
# A stretch of prompt is held once, apart from the slots, where at least so many answers share so many tokens: each one
# costs a few small calls per layer and step. Measured on CPU.
SHARED_ROWS = 8
SHARED_TOKENS = 16
# What is known of the answer in a slot: which task, tokens in the slot, position and id of the token to be read next,
# tokens said so far (that one included).
TASK, HELD, POSITION, SAID, TOKEN = range(5)


@dataclass(eq=False)
class Task:
    """One answer to be written: to which prompt, and the key of its random numbers."""

    prompt: int
    key: int


@dataclass(eq=False)
class Written:
    """One answer: its tokens (the one that ended it included), their log-probs, how it ended, and what was read of
    it."""

    tokens: list[int]
    logps: list[float]
    stopped: Literal["stop", "length"]
    read: list[float] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Reading:
    """What is read of an answer once it is written, from the states of decoding itself.

    close: given a prompt's number and the answer's tokens, the answer as it is read: it ends with the token whose state
    counts. What of it the slot holds already is not computed again. read: numbers [X, ...] from final-norm hidden
    states [X, D].
    """

    close: Callable[[int, list[int]], list[int]]
    read: Callable[[Tensor], Tensor]


@dataclass(eq=False)
class _Waiting:
    """An answer with its first token chosen, waiting for a slot."""

    task: int
    token: int
    position: int
    cells: np.ndarray
    segments: tuple[Segment, ...]
    source: Prefilled


@dataclass(eq=False)
class Decoder:
    """Writes answers with `model`.

    prompts: token ids. tasks: the answers, those of one prompt next to each other. ends: tokens that end an answer.
    ended: given the tokens of an answer, whether the last one completes a stop text. rows: slots. ahead: trie tokens
    read per block. may_lean: whether a step may go around the model's modules (`lean`). reading: an answer that is over
    keeps its slot for the step or two that feed what closes it, and the state of the last token is read.
    """

    model: Any
    prompts: Sequence[np.ndarray]
    tasks: Sequence[Task]
    choose: Chooser
    max_tokens: int
    ended: Callable[[list[int]], bool] | None = None
    rows: int = 64
    ahead: int = 8192
    may_lean: bool = True
    reading: Reading | None = None

    def run(self) -> list[Written]:
        """All answers, in the order of the tasks."""
        self.rows = min(self.rows, len(self.tasks))
        self.keys = np.array([task.key for task in self.tasks], dtype=np.uint64)
        self.written = [Written([], [], "length") for _ in self.tasks]
        with torch.inference_mode(), decoding(self.model):
            self._begin()
            self.blocks.extend(self._blocks(range(len(self.tasks))))
            self._fill(np.zeros(0, np.int64))
            while self.chains:
                self._step()
        return self.written

    def _begin(self) -> None:
        """Empty slots, and nothing waiting for them."""
        self.device = next(self.model.parameters()).device
        self.cache = Cache(self.rows, self.device, self.max_tokens)
        self.blocks: deque[list[int]] = deque()
        self.waiting: deque[_Waiting] = deque()
        self.slots_5N = np.zeros((5, 0), np.int64)
        self.chains: list[tuple[Segment, ...]] = []
        self.closing: dict[int, deque[int]] = {}  # task -> tokens still to be fed after the next one
        self.steps = 0
        self.step = (lean.of(tries.core(self.model)) if self.may_lean else None) or _Modules(self.model)

    # --- what may differ from answer to answer (`live`) --------------------------------------------------------------

    def _draw(self, logits_NV: Tensor, tasks_N: np.ndarray, counts_N: np.ndarray) -> tuple[Tensor, Tensor]:
        """The next token of each of these answers, and its log-prob."""
        return self.choose(logits_NV, self.keys[tasks_N], counts_N)

    def _over(self, task: int, said: list[int]) -> Literal["stop", "length"] | None:
        """How an answer ends with the last token that it said; None where it goes on."""
        if said[-1] in self.choose.ends or (self.ended is not None and self.ended(said)):
            return "stop"
        return "length" if len(said) >= self.max_tokens else None

    def _reads(self, task: int) -> bool:
        """Whether an answer is read once it is over."""
        return self.reading is not None

    def _reach(self) -> int:
        """Tokens from a prompt's first to the last one fed, at most: what closes an answer may be as long again."""
        return max(len(p) for p in self.prompts) + self.max_tokens * (1 if self.reading is None else 2)

    def _finish(self, task: int) -> None:
        """Told of each answer when it is written, and read where it is to be."""

    # --- prompts -----------------------------------------------------------------------------------------------------

    def _blocks(self, tasks: Sequence[int]) -> Iterator[list[int]]:
        """Tasks whose prompts are read together: enough for all slots, and at most `ahead` trie tokens."""
        of: dict[int, list[int]] = {}
        for index in tasks:
            of.setdefault(self.tasks[index].prompt, []).append(index)
        used = list(of)
        for part in tokens.pack([[_sequence(self.prompts[p])] for p in used], self.ahead):
            block: list[int] = []
            for at in part:
                block += of[used[at]]
                if len(block) >= self.rows:
                    yield block
                    block = []
            if block:
                yield block

    def _read(self, block: list[int]) -> None:
        """Read the prompts of a block and choose the first token of its answers."""
        prompts = list(dict.fromkeys(self.tasks[i].prompt for i in block))
        batch = tokens.build([_sequence(self.prompts[p]) for p in prompts]).to(self.device)
        logits_PV, source = prefill(self.model, self.cache, batch, self.step)
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        rows = np.array([row_of[self.tasks[i].prompt] for i in block])
        logits_NV = logits_PV.index_select(0, torch.from_numpy(rows).to(self.device))
        tasks = np.array(block)
        chosen, logps = self._draw(logits_NV, tasks, np.zeros(len(block), np.int64))
        chains = self._chains(batch, rows, source)
        said = chosen.tolist()
        over = set(self._record(tasks, said, logps.tolist()).tolist())
        for at, (task, row) in enumerate(zip(block, rows.tolist(), strict=True)):
            if at in over and not self._reads(task):
                self._finish(task)
                continue
            token = self._close_answer(task)[1] if at in over else said[at]
            segments, cells = chains[row]
            self.waiting.append(_Waiting(task, token, len(self.prompts[prompts[row]]), cells, segments, source))

    def _chains(
        self, batch: tokens.Trie, rows: np.ndarray, source: Prefilled
    ) -> list[tuple[tuple[Segment, ...], np.ndarray]]:
        """Per prompt of a block: the segments it sees, and the trie indices of the rest of it.

        rows: the prompt of each answer. A layer that sees only a window of the past cannot share segments that lie
        partly out of sight, so they are made only where the window reaches over everything.
        """
        may_share = not source.windows or min(source.windows) >= self._reach()
        paths = [_path(batch.nodes, int(last)) for last in batch.last_N.tolist()]
        answers = np.zeros(len(batch.nodes), np.int64)
        for row in rows.tolist():
            answers[[node for node, _, _ in paths[row]]] += 1
        segments: dict[int, Segment] = {}
        out = []
        for path in paths:
            chain: list[Segment] = []
            cells: list[np.ndarray] = []
            for node, start, end in path:
                whole = end == batch.nodes[node, 1]
                enough = answers[node] >= SHARED_ROWS and end - start >= SHARED_TOKENS
                if may_share and not cells and whole and enough:
                    if node not in segments:
                        segments[node] = source.segment(start, end)
                    chain.append(segments[node])
                else:
                    cells.append(np.arange(start, end))
            out.append((tuple(chain), np.concatenate(cells) if cells else np.zeros(0, np.int64)))
        return out

    # --- slots -------------------------------------------------------------------------------------------------------

    def _fill(self, free: np.ndarray) -> None:
        """Give free slots (those named, and those never used) to waiting answers; close ranks over what stays free."""
        slots = np.concatenate([free, np.arange(len(self.chains), self.rows)])
        while len(self.waiting) < slots.size and self.blocks:
            self._read(self.blocks.popleft())
        new = [self.waiting.popleft() for _ in range(min(slots.size, len(self.waiting)))]
        new.sort(key=lambda waited: len(waited.cells))
        if new:
            self._admit(slots[: len(new)], new)
        left = free[len(new) :]
        if left.size:
            self._close(left)
        self._share()

    def _admit(self, slots: np.ndarray, new: list[_Waiting]) -> None:
        more = max(0, int(slots.max()) + 1 - len(self.chains))
        self.slots_5N = np.concatenate([self.slots_5N, np.zeros((5, more), np.int64)], axis=1)
        self.chains += [()] * more
        sources: dict[int, list[tuple[int, _Waiting]]] = {}
        for slot, waited in zip(slots.tolist(), new, strict=True):
            sources.setdefault(id(waited.source), []).append((slot, waited))
        for members in sources.values():
            into = np.array([slot for slot, _ in members])
            self.cache.admit(into, [waited.cells for _, waited in members], members[0][1].source)
        for slot, waited in zip(slots.tolist(), new, strict=True):
            self.slots_5N[:, slot] = (waited.task, len(waited.cells), waited.position, 1, waited.token)
            self.chains[slot] = waited.segments

    def _close(self, left: np.ndarray) -> None:
        """Move the last slots in use into the free ones before them."""
        keep = len(self.chains) - left.size
        holes = left[left < keep]
        tail = np.setdiff1d(np.arange(keep, len(self.chains)), left)
        if holes.size:
            self.cache.move(tail, holes, int(self.slots_5N[HELD, tail].max()))
            self.slots_5N[:, holes] = self.slots_5N[:, tail]
            for hole, slot in zip(holes.tolist(), tail.tolist(), strict=True):
                self.chains[hole] = self.chains[slot]
        self.slots_5N = self.slots_5N[:, :keep]
        del self.chains[keep:]

    def _share(self) -> None:
        """Tell the cache which slots see which segments."""
        seen: dict[int, tuple[Segment, list[int]]] = {}
        for slot, chain in enumerate(self.chains):
            for segment in chain:
                seen.setdefault(id(segment), (segment, []))[1].append(slot)
        for segment, rows in seen.values():
            everywhere = len(rows) == len(self.chains)
            segment.rows = None if everywhere else torch.tensor(rows, device=self.device)
        self.cache.segments = [segment for segment, _ in seen.values()]

    def _sort(self) -> None:
        """Put the slots in order of length."""
        order = np.argsort(self.slots_5N[HELD], kind="stable")
        self.cache.move(order, np.arange(order.size), int(self.slots_5N[HELD].max()))
        self.slots_5N = self.slots_5N[:, order]
        self.chains = [self.chains[slot] for slot in order.tolist()]
        self._share()

    # --- a step ------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """One token for every answer in a slot."""
        self.steps += 1
        if self.steps % SORT_EVERY == 0 and self.cache.unsorted(self.slots_5N[HELD]) > UNSORTED:
            self._sort()
        self.cache.begin_step(self.slots_5N[HELD])
        ids_N, positions_N = torch.from_numpy(self.slots_5N[[TOKEN, POSITION]]).to(self.device)
        logits_NV, hidden_ND = self.step(ids_N, positions_N, self.cache)
        tasks = self.slots_5N[TASK]
        self.slots_5N[[HELD, POSITION]] += 1
        writes, done = self._closing_rows(tasks, hidden_ND) if self.closing else (None, [])
        if writes is None or writes.size:
            done += self._choose(tasks, logits_NV, writes)
        if done:
            for task in tasks[done].tolist():
                self._finish(task)
            self._fill(np.array(sorted(done)))

    def _choose(self, tasks: np.ndarray, logits_NV: Tensor, writes: np.ndarray | None) -> list[int]:
        """The next token of the answers in slots `writes` (None: in all); the slots that are done."""
        slots = np.arange(tasks.size) if writes is None else writes
        if writes is not None:
            logits_NV = logits_NV.index_select(0, torch.from_numpy(writes).to(self.device))
        chosen, logps = self._draw(logits_NV, tasks[slots], self.slots_5N[SAID, slots])
        said = chosen.tolist()
        self.slots_5N[SAID, slots] += 1
        self.slots_5N[TOKEN, slots] = said
        done = []
        for slot in slots[self._record(tasks[slots], said, logps.tolist())].tolist():
            if self._reads(int(tasks[slot])):
                back, self.slots_5N[TOKEN, slot] = self._close_answer(int(tasks[slot]))
                self.slots_5N[[HELD, POSITION], slot] -= back
            else:
                done.append(slot)
        return done

    # --- reading -----------------------------------------------------------------------------------------------------

    def _close_answer(self, task: int) -> tuple[int, int]:
        """Plan what is fed to close an answer: how many tokens its slot gives back first, and the first one fed."""
        assert self.reading is not None
        held = self.written[task].tokens[:-1]  # the last one was never fed
        wanted = self.reading.close(self.tasks[task].prompt, self.written[task].tokens)
        differs = (at for at, (a, b) in enumerate(zip(held, wanted[:-1], strict=False)) if a != b)
        kept = next(differs, min(len(held), len(wanted) - 1))
        self.closing[task] = deque(wanted[kept + 1 :])
        return len(held) - kept, wanted[kept]

    def _closing_rows(self, tasks: np.ndarray, hidden_ND: Tensor) -> tuple[np.ndarray, list[int]]:
        """Go on closing answers, and read those that are closed: the slots that still write, and those that are
        done."""
        assert self.reading is not None
        writes, done = [], []
        for slot, task in enumerate(tasks.tolist()):
            if task not in self.closing:
                writes.append(slot)
            elif self.closing[task]:
                self.slots_5N[TOKEN, slot] = self.closing[task].popleft()
            else:
                done.append(slot)
        if done:
            read_X = self.reading.read(hidden_ND[torch.tensor(done, device=self.device)])
            for slot, numbers in zip(done, read_X.float().tolist(), strict=True):
                task = int(tasks[slot])
                self.written[task].read = numbers
                del self.closing[task]
        return np.array(writes, dtype=np.int64), done

    def _record(self, tasks: np.ndarray, chosen: list[int], logps: list[float]) -> np.ndarray:
        """Note a token of each answer; the indices of those that are finished now."""
        over = []
        for at, (task, token, logp) in enumerate(zip(tasks.tolist(), chosen, logps, strict=True)):
            answer = self.written[task]
            answer.tokens.append(token)
            answer.logps.append(logp)
            if how := self._over(task, answer.tokens):
                answer.stopped = how
                over.append(at)
        return np.array(over, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Modules:
    """A step through the model's own modules."""

    model: Any

    def __call__(self, ids_N: Tensor, positions_N: Tensor, cache: Cache) -> tuple[Tensor, Tensor]:
        inputs = {"input_ids": ids_N[:, None], "position_ids": positions_N[:, None]}
        states: list[Tensor] = []
        head = tries.core(self.model).get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, given: states.append(given[0]))
        try:
            logits_NV: Tensor = self.model(**inputs, slots=cache, use_cache=False).logits[:, -1]
        finally:
            hook.remove()
        return logits_NV, states[-1][:, -1]


def _sequence(ids: np.ndarray) -> tokens.Sequence:
    return tokens.Sequence(ids, np.zeros(len(ids), dtype=bool))


def _path(nodes: np.ndarray, last: int) -> list[tuple[int, int, int]]:
    """(node, start, end) of the trie tokens from the root to token `last`, in order."""
    node = int(np.searchsorted(nodes[:, 0], last, side="right")) - 1
    end = last + 1
    path = []
    while node >= 0:
        path.append((node, int(nodes[node, 0]), end))
        node = int(nodes[node, 3])
        end = int(nodes[node, 1])
    return path[::-1]


@contextlib.contextmanager
def decoding(model: Any) -> Iterator[None]:
    """For a block, the model attends through `cache.attention`."""
    from transformers import AttentionInterface

    AttentionInterface.register(caches.NAME, caches.attention)
    config = tries.core(model).config
    before = config._attn_implementation
    config._attn_implementation = caches.NAME
    try:
        yield
    finally:
        config._attn_implementation = before


MARK = "_trueline_decodes"


@dataclass(frozen=True)
class Proof:
    """What was found of a model: whether the loop writes what it says, and whether lean steps do too."""

    holds: bool
    lean: bool = False


def proved(model: Any) -> Proof:
    """Whether this loop writes what `model` says; found on the first call, with one log line where it does not."""
    inner = tries.core(model)
    known = getattr(inner, MARK, None)
    if isinstance(known, Proof):
        return known
    found, reason = Proof(False), tries.path(model).reason
    if tries.path(model).kernel:
        reason = _disagreement(model, False)
        found = Proof(not reason, not reason and lean.of(inner) is not None and not _disagreement(model, True))
    if not found.holds:
        log.warning("%s samples through transformers' generate: %s", type(inner).__name__, reason)
    setattr(inner, MARK, found)
    return found


def _disagreement(model: Any, may_lean: bool) -> str:
    """Why our loop cannot be trusted with `model`; "" where its log-probs are those of plain passes.

    Three prompts, two of which share their beginning with each other and have enough answers to be held as segments,
    over fewer slots than answers.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = np.random.default_rng(0).integers(0, vocabulary, 40)
    prompts = [ids[:7], np.concatenate([ids[7:27], ids[:3]]), ids[7:31]]
    tasks = [Task(p, 100 * p + i) for p, n in enumerate((2, SHARED_ROWS, 3)) for i in range(n)]
    try:
        written = Decoder(model, prompts, tasks, Chooser(Sampling(), ()), 4, None, SHARED_ROWS, may_lean=may_lean).run()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, AssertionError, tries.Untrieable) as error:
        said = str(error).splitlines()[0] if str(error) else ""
        return f"our decode loop raised {type(error).__name__}: {said}"
    batch = [tokens.Sequence.of(prompts[t.prompt], w.tokens) for t, w in zip(tasks, written, strict=True)]
    with torch.inference_mode():
        wanted_E = tokens.padded_forward(model, batch, tokens.LOGPS).logps_E
    got_E = torch.tensor([logp for w in written for logp in w.logps], device=wanted_E.device)
    tolerance = tries.TOLERANCE.get(model.get_input_embeddings().weight.dtype, tries.LOW_PRECISION)
    scale = max(1.0, float(wanted_E.abs().mean()))
    if not bool((got_E - wanted_E).abs().max() <= 10 * tolerance * scale):
        return "its log-probs differ from those of plain passes"
    return ""
