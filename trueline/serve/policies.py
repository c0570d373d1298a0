"""The models that are served: what each is called, how it is asked, and who says what an answer is worth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.errors import UserError, closest
from trueline.machine import Machine
from trueline.records import Message
from trueline.serve import conditions
from trueline.serve.conditions import WaysToAsk
from trueline.serve.wire import By, Refused

if TYPE_CHECKING:
    from trueline.models import Loaded
    from trueline.sample.protocol import Live

LOGPROB = "logprob:token"


@dataclass(eq=False)
class Served:
    """One open model. live: what writes its answers; None for a reward model, which only reads."""

    name: str
    loaded: Loaded
    machine: Machine
    live: Live | None = None
    asking: WaysToAsk = field(default_factory=WaysToAsk)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of its heads."""
        return self.loaded.heads.names if self.loaded.heads is not None else ()

    @property
    def reads_along(self) -> bool:
        """Whether its heads read answers while they are written; others read them afterwards, by a pass."""
        return self.loaded.heads is not None and self.loaded.heads.want == {"last_hidden"}

    @cached_property
    def context(self) -> int | None:
        """Tokens that it can look at."""
        from trueline import models

        size = models.fitting(self.loaded.model, 1 << 60)
        return size if size < 1 << 60 else None

    @cached_property
    def longest(self) -> int:
        """Characters at most in one token: a longer text has more tokens than a number of characters says."""
        return max(map(len, self.loaded.tokenizer.get_vocab()), default=1)

    def check_size(self, characters: int, param: str) -> None:
        """Refuse a text that cannot fit into the context, without the work of tokenising it."""
        if self.context is not None and characters > self.context * self.longest:
            raise too_long(f"at least {characters // self.longest}", self.context, param)

    def column(self, head: str) -> int:
        """Which of its heads is called `head` ("": the first). Raises `Refused` where there is none."""
        if not self.heads:
            raise Refused(
                400, f'The policy "{self.name}" has no preference head to rank by: rank by logprob, by a reward model, '
                "or serve a policy trained with one.", param="rank_by", code="no_head",
            )  # fmt: skip
        if head and head not in self.heads:
            cure = closest(head, list(self.heads))
            raise Refused(400, f'"{self.name}" has no head "{head}". {cure}', param="head", code="no_head")
        return self.heads.index(head) if head else 0

    def read(self, conversations: Sequence[tuple[Message, ...]]) -> list[list[float] | None]:
        """What its heads say of each conversation, at the end-of-turn that closes its last answer; None for one that
        is longer than the model can look at. Call it in the worker."""
        from trueline import heads, trie

        renderer, sequences = self.loaded.renderer, []
        for messages in conversations:
            ids = (renderer.prompt_ids(messages[:-1]), renderer.answer_ids(messages[-1].content))
            fits = self.context is None or sum(map(len, ids)) <= self.context
            sequences.append(trie.Sequence.of(*ids) if fits else None)
        rows = iter(heads.rewards(self.loaded, [s for s in sequences if s is not None], self.machine).tolist())
        return [None if sequence is None else next(rows) for sequence in sequences]

    def card(self) -> dict[str, Any]:
        """What /v1/models says of it."""
        known = self.asking.condition
        return {
            "id": self.name, "object": "model", "created": self.created, "owned_by": "trueline",
            "heads": list(self.heads), "answers": self.live is not None, "context": self.context,
            "condition": known.name if known is not None else ("told" if self.asking.said else None),
        }  # fmt: skip


def too_long(tokens: str | int, context: int, param: str, answer: int = 0) -> Refused:
    """The refusal of what does not fit into a model's context."""
    room = f", and {answer} are asked for beside them" if answer else ""
    message = f"The prompt has {tokens} tokens{room}; the model can look at {context}."
    return Refused(400, message, param=param, code="context_length_exceeded")


@dataclass(eq=False)
class House:
    """All models that are served; the first one answers where a request names none. by: who ranks where a request does
    not say: "auto" is the head of a policy that has one, else the reward model, else log-prob."""

    policies: tuple[Served, ...]
    reward_model: Served | None = None
    by: By | str = "auto"
    head: str = ""

    @property
    def everyone(self) -> tuple[Served, ...]:
        """Policies, and the reward model."""
        return (*self.policies, self.reward_model) if self.reward_model is not None else self.policies

    def named(self, name: str | None) -> Served:
        """The model that a request names. Raises `Refused` for an unknown one."""
        if name is None:
            return self.policies[0]
        for served in self.everyone:
            if served.name == name:
                return served
        cure = closest(name, [served.name for served in self.everyone])
        raise Refused(404, f'The model "{name}" is not served here. {cure}', param="model", code="model_not_found")

    def writer(self, name: str | None) -> Served:
        """The policy that a request names."""
        served = self.named(name)
        if served.live is None:
            raise Refused(400, f'"{served.name}" is a reward model: it reads answers (/v1/rewards).', param="model")
        return served

    def reader(self, name: str | None) -> Served:
        """Who reads conversations: the one that a request names, else the reward model or the first policy."""
        served = self.named(name) if name is not None else self.reward_model or self.policies[0]
        served.column("")
        return served

    def ranking(self, served: Served, by: By | None, head: str | None, raw: bool) -> tuple[By, str]:
        """Who ranks the candidates of `served`, and under which name its scores stand.

        raw: whether they go on from a text, of which neither a head nor a reward model has ever read any.
        """
        given = by or (self.by if self.by != "auto" else None)
        if raw and by not in (None, "logprob"):
            message = "Heads and reward models read conversations: ask /v1/chat/completions, or rank by logprob."
            raise Refused(400, message, param="rank_by")
        if raw or (given is None and not served.heads and self.reward_model is None):
            given = "logprob"
        elif given is None:
            given = "head" if served.heads else "reward-model"
        if given == "head":
            return "head", f"{served.name}/{served.heads[served.column(self._head(head))]}"
        if given == "reward-model":
            if self.reward_model is None:
                raise Refused(400, "No reward model is served: start with --reward-model FOLDER.", param="rank_by")
            return "reward-model", self.reward_names[self.reward_model.column(self._head(head))]
        return "logprob", LOGPROB

    def _head(self, head: str | None) -> str:
        return self.head if head is None else head

    @property
    def reward_names(self) -> list[str]:
        """What the reward model's scores are called."""
        model = self.reward_model
        return [] if model is None else [f"{model.name}/{head}" for head in model.heads]


def opened(
    policies: Sequence[tuple[str, Path]],
    reward_model: tuple[str, Path] | None,
    *,
    by: str,
    head: str,
    best: str,
    worst: str,
    chat: str,
    machine: Machine,
) -> House:
    """Open the models. Raises `UserError` for what cannot be opened, read, or told apart."""
    from trueline import models
    from trueline.sample.protocol import live

    names = [name for name, _ in (*policies, *([reward_model] if reward_model else ()))]
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        raise UserError("trueline serve", f"two models are called {twice!r}", "", "Name them: --also NAME=FOLDER.")
    served = []
    for at, (name, folder) in enumerate(policies):
        loaded = models.load(folder, machine=machine, chat=chat)
        asking = conditions.found(folder, best if at == 0 else "", worst if at == 0 else "")
        served.append(Served(name, loaded, machine, live(loaded, name, machine), asking))
    reads = None
    if reward_model is not None:
        reads = Served(reward_model[0], models.load(reward_model[1], machine=machine, chat=chat), machine)
    house = House(tuple(served), reads, by, head)
    try:
        if reads is not None:
            reads.column(head if by == "reward-model" else "")
        if by != "auto":
            house.ranking(served[0], None, None, raw=False)
    except Refused as refused:
        raise UserError("trueline serve", refused.message.rstrip(".")) from None
    return house
