"""`invent`: prompts that a model writes, from a few that people wrote.

    wanted = invent(HF(base, chat="plain"), 1000)
    more = invent(engine, 500, seeds=File("seeds.txt"), against=(wanted, held_out))

The model is shown an instruction and some queries, drawn anew for every attempt from the seeds and from what was kept
so far, and goes on with one more (`queries`). What has a bad shape, or is too near to anything known (`novelty`), is
written aside with its reason. So a prompt depends on all that were kept before it: attempts are made in batches, each
batch is kept on disk as it was replied, and a run that goes on after a kill reads those again and asks for none twice.

Source: Kim et al. 2023 (arXiv 2305.13735), stage 1. The cap on attempts is ours; so is the bound on invented examples,
as in Wang et al. 2022 (arXiv 2212.10560).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

from trueline.errors import UserError
from trueline.feedback.protocol import metering
from trueline.pipeline import Work, stage
from trueline.prompts.novelty import Known, Measure, RougeL, RougeSets
from trueline.prompts.queries import SEEDS, QueryFilter, Reading, Refusal, Sown, few_shot, read, sown
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.sample.protocol import Engine, Sampling
from trueline.store import File, Groups, Policy, Prompts
from trueline.work import write_atomic

HOPELESS = 200
"""Attempts of which none was kept, after which the run stops."""


@dataclass(frozen=True)
class Novelty:
    """A query is new where its score against every seed, every query kept, and every text of `against` stays below
    `threshold`. measure: `RougeL()`, or another `novelty.Measure`.
    """

    threshold: float = 0.5
    measure: Any = RougeL()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        if not isinstance(self.measure, Measure):
            raise UserError("Novelty(measure=...)", f"got {self.measure!r}", "a measure, such as RougeL()")
        if not 0 < self.threshold <= 1:
            raise UserError("Novelty(threshold=...)", f"got {self.threshold!r}", "a score above 0 and at most 1")


@dataclass(frozen=True)
class FewShot:
    """What every attempt is shown.

    shots: how many examples; 0 shows the instruction alone. invented: at most so many of them are invented ones, the
    others seeds; None draws from all alike, so that invented ones soon prevail. reading: what of the reply is the query
    (`queries.read`).
    """

    shots: int = 10
    invented: int | None = None
    reading: Reading = "direct"

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise UserError("FewShot(shots=...)", f"got {self.shots}", "a number of examples, or 0 for none")
        if self.invented is not None and not 0 <= self.invented <= self.shots:
            raise UserError("FewShot(invented=...)", f"got {self.invented}", f"0 to {self.shots}, the shots, or None")
        if self.reading not in get_args(Reading):
            raise UserError("FewShot(reading=...)", f"got {self.reading!r}", '"direct" or "second"')

    def check(self, given: Sown) -> None:
        """Refuse more shots than there are seeds."""
        if self.shots > len(given.texts):
            got = f"{self.shots} shots from {len(given.texts)} different seeds"
            raise UserError("invent(few_shot=...)", got, "at least as many seeds", "Write more, or lower shots.")

    def examples(self, given: Sown, kept: list[str], rng: random.Random) -> list[str]:
        """The examples of one attempt, drawn without replacement."""
        if self.invented is None:
            return rng.sample([*given.texts, *kept], self.shots)
        fed = min(self.invented, len(kept))
        drawn = rng.sample(kept, fed) + rng.sample(given.texts, self.shots - fed)
        rng.shuffle(drawn)
        return drawn


SAMPLING = Sampling(temperature=1.2, top_p=0.9, max_tokens=64, stop=("\n",))


def released(vocab: File | None = None) -> dict[str, Any]:
    """The arguments with which `invent` does what ALMoST's released code did, defects included.

    vocab: bert-base-uncased's vocab.txt, whose pieces were compared.

    >>> sorted(released())
    ['batch', 'few_shot', 'keep', 'novelty', 'sampling', 'surplus']
    """
    return {
        "few_shot": FewShot(reading="second"), "keep": QueryFilter(compatible=True),
        "novelty": Novelty(measure=RougeSets(vocab)), "sampling": Sampling(temperature=1.2, top_p=0.9, max_tokens=64),
        "batch": 4, "surplus": "keep",
    }  # fmt: skip


def _estimate(engine: Engine, n: int, attempts: int, **_: Any) -> dict[str, int]:
    calls = getattr(engine, "calls", None)
    most = {"prompts": n, "attempts": n * attempts}  # at most: how many will be kept is the model's doing
    return most | {"calls": calls(n * attempts, n * attempts)} if calls else most


@stage(Prompts, rev=1, label="invented", estimate=_estimate)
def invent(
    work: Work,
    engine: Engine,
    n: int,
    seeds: File | Prompts | Groups = File(SEEDS),  # noqa: B008  (frozen)
    instruction: str = "",
    few_shot: FewShot = FewShot(),
    sampling: Sampling = SAMPLING,
    keep: QueryFilter = QueryFilter(),  # noqa: B008  (frozen)
    novelty: Novelty = Novelty(),
    against: Prompts | Groups | tuple[Prompts | Groups, ...] = (),
    attempts: int = 20,
    batch: int = 32,
    short: Literal["error", "keep"] = "error",
    surplus: Literal["drop", "keep"] = "drop",
) -> None:
    """`n` new prompts of one message.

    engine: who writes; `HF(policy, chat="plain")` goes on with the text as it stands. seeds, instruction: see
    `queries.sown`; ours by default. sampling: of the replies; its seed draws the examples too, and each of `n` replies
    to one text is an attempt. keep, novelty: the filters. against: prompts that none may be near to (held-out ones, or
    those of an earlier stage). attempts: at most n times so many are made; with fewer than n prompts then, `short` says
    "error", or "keep" what there is. batch: attempts whose examples are drawn from the same queries, put to the engine
    together. surplus: what becomes of queries beyond n in the last batch.

    Counted: prompts, attempts, near, short, long, cut, wordless and blank (by reason, each in `dropped.jsonl`), dropped
    (all of them), surplus, tokens where the engine knows them, and what the engine meters. Noted: seeds, the novelty
    rule, and compared: how many pairs of texts the measure was asked about.

    Raises `UserError` for more shots than seeds, and with all reasons where nothing of 200 attempts was kept.
    """
    _check(engine, n, attempts, batch, short, surplus)
    given = sown(seeds, instruction)
    few_shot.check(given)
    run = _Run(work, engine, given, few_shot, sampling, keep, novelty)
    run.know(against)
    with contextlib.ExitStack() as stack, work.progress(n, "prompts") as meter:
        for start in range(0, n * attempts, batch):
            if len(run.kept) >= n:
                break
            size = min(batch, n * attempts - start)
            room = None if surplus == "keep" else n - len(run.kept)
            meter.advance(run.batch(stack, start, size, room))
            if not run.kept and run.tried >= HOPELESS:
                break
    if len(run.kept) < n and (short == "error" or not run.kept):
        raise run.refusal(n)
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", run.prompts))
    work.note("seeds", len(given.texts))
    work.note("novelty", f"below {novelty.threshold} by {novelty.measure.name}")
    work.note("compared", run.known.compared)


def _check(engine: Engine, n: int, attempts: int, batch: int, short: str, surplus: str) -> None:
    if not isinstance(engine, Engine):
        cure = 'Write HF(policy, chat="plain").' if isinstance(engine, Policy) else ""
        raise UserError("invent(engine)", f"got {engine!r}", "an engine: something that writes", cure)
    for name, number in (("n", n), ("attempts", attempts), ("batch", batch)):
        if number < 1:
            raise UserError(f"invent({name}=...)", f"got {number}", "at least 1")
    for name, value, known in (("short", short, ("error", "keep")), ("surplus", surplus, ("drop", "keep"))):
        if value not in known:
            raise UserError(f"invent({name}=...)", f"got {value!r}", " or ".join(known))


@dataclass
class _Run:
    """One run: what is kept so far, and all that a new query is compared with."""

    work: Work
    engine: Engine
    given: Sown
    few_shot: FewShot
    sampling: Sampling
    keep: QueryFilter
    novelty: Novelty
    kept: list[str] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    tried: int = 0
    last: str = ""

    def __post_init__(self) -> None:
        self.known = Known(self.novelty.measure, self.novelty.threshold)
        for text in self.given.texts:
            self.known.add(text)
        self.folder = self.work.scratch / "attempts"
        self.folder.mkdir(exist_ok=True)
        self.opened = False

    def know(self, others: Prompts | Groups | tuple[Prompts | Groups, ...]) -> None:
        """What else no query may be near to."""
        for source in others if isinstance(others, tuple) else (others,):
            for item in source.read():
                self.known.add((item.prompt if isinstance(item, Group) else item).text)

    def batch(self, stack: contextlib.ExitStack, start: int, size: int, room: int | None) -> int:
        """Make the attempts from number `start` on; how many queries were kept, `room` at most."""
        made = 0
        for completion in self._replies(stack, start, size):
            if room is not None and made == room:
                self.work.count("surplus")
                continue
            self.tried += 1
            self.work.count("attempts")
            made += self._settle(completion)
        return made

    def _replies(self, stack: contextlib.ExitStack, start: int, size: int) -> Iterator[Completion]:
        """The replies to `size` texts, from disk where an earlier run had them."""
        path = self.folder / f"{start:09d}.json"
        if not path.exists():
            if not self.opened:  # a run with nothing left to ask loads no model
                stack.enter_context(self.engine)
                self.opened = True
            asked = [self._asking(number) for number in range(start, start + size)]
            self._require_room(asked)
            with metering() as metered:
                said = self.engine.generate(asked, self.sampling)
            if [len(one) for one in said] != [self.sampling.n] * size:
                raise ValueError(f"the engine gave {sum(map(len, said))} replies to {size} texts")
            flat = list(itertools.chain.from_iterable(said))
            tokens = sum(len(c.tokens or ()) for c in flat)
            counts = dict(metered) | ({"tokens": tokens} if tokens else {})
            replies = [(c.text, c.stopped) for c in flat]
            write_atomic(path, msgspec.json.encode({"counts": counts, "replies": replies}))
        found = json.loads(path.read_bytes())
        for name, count in found["counts"].items():
            self.work.count(name, count)
        return (Completion(text, self.engine.name, stopped=stopped) for text, stopped in found["replies"])

    def _require_room(self, asked: list[Prompt]) -> None:
        """Refuse texts that the engine cannot look at together with a reply."""
        too_long = getattr(self.engine, "too_long", lambda prompt, sampling: None)
        for prompt in asked:
            if (error := too_long(prompt, self.sampling)) is not None:
                cure = f"Show fewer than {self.few_shot.shots} queries: FewShot(shots=...). Or lower max_tokens."
                raise UserError("invent(few_shot=...)", f"{error.where}: {error.got}", error.wanted, cure)

    def _asking(self, number: int) -> Prompt:
        # Drawn by the attempt's own number: not by how many were drawn before it, in this run or in one killed.
        rng = random.Random(f"invent\0{self.sampling.seed}\0{number}")
        text = few_shot(self.given.instruction, self.few_shot.examples(self.given, self.kept, rng))
        return Prompt.of(text, id=f"invent-{number}", meta={"kind": "invent"})

    def _settle(self, completion: Completion) -> bool:
        """Keep the query of a reply, or write it aside."""
        query = read(completion.text, self.few_shot.reading)
        whole = completion.stopped == "stop" or "\n" in completion.text.strip()
        refusal = self.keep.refuse(query, cut=not whole) or self._near(query)
        if refusal is None:
            self.known.add(query)
            self.kept.append(query)
            self.prompts.append(Prompt.of(query, meta={"by": self.engine.name, "attempt": self.tried}))
            return True
        self.last = query
        self.refused[refusal.kind] += 1
        self.work.count(refusal.kind)
        self.work.drop(refusal.reason, {"query": query, "reply": completion.text}, f"attempt {self.tried}")
        return False

    def _near(self, query: str) -> Refusal | None:
        near = self.known.nearest(query)
        if near is None:
            return None
        said = f"{self.novelty.measure.name} {near.score:.3f} to {self.known.texts[near.at]!r}"
        return Refusal("near", f"{said}, not below {self.novelty.threshold}")

    def refusal(self, n: int) -> UserError:
        """Too few were kept."""
        reasons = ", ".join(f"{count} {name}" for name, count in self.refused.most_common())
        got = f"{len(self.kept)} of {n} prompts were kept after {self.tried} attempts ({reasons})"
        cure = (
            f"The last that was not: {self.last[:60]!r}; all of them are in {self.work.dir / 'dropped.jsonl'}. "
            "Give it other or more seeds, a higher temperature, a larger model, or more attempts"
        )
        cure += '; or take what there is: short="keep".' if self.kept else "."
        return UserError(self.work.artifact.name, got, "replies that hold a new query", cure)
