"""What critics that read a policy share: the model is opened once, answers become sequences, too long ones abstain.

`judge` keeps a critic that can be opened open over all its shards; a critic called outside of `with` opens the model
for that call. One prompt's answers run through the model together, the prompt once.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from trueline.errors import UserError
from trueline.feedback.protocol import meter
from trueline.records import Completion, Feedback, Group
from trueline.store import Policy

if TYPE_CHECKING:
    from trueline import trie
    from trueline.models import Loaded

C = TypeVar("C", bound="PolicyCritic")

NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class PolicyCritic(abc.ABC):
    """A critic that gives every completion a number read off `policy`. chat: how conversations are rendered.

    tokens: of a longer conversation only the last so many are read, and none is too long (0: all are).
    """

    policy: Policy
    chat: str = field(default="auto", kw_only=True)
    tokens = 0

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What the feedback is signed with."""

    @abc.abstractmethod
    def read(self, loaded: Loaded, sequences: Sequence[trie.Sequence]) -> Sequence[float]:
        """The number of each sequence."""

    def calls(self, groups: int, completions: int) -> int:
        """One reading per completion."""
        return completions

    def __enter__(self: C) -> C:
        from trueline import models

        loaded = models.load(self.policy, chat=self.chat)
        self.check(loaded)
        vars(self)["_loaded"] = loaded
        return self

    def __exit__(self, *error: Any) -> None:
        vars(self).pop("_loaded", None)

    def check(self, loaded: Loaded) -> None:  # noqa: B027
        """Refuse, once it is open, a policy that cannot be read so; by default any can."""

    def answer(self, completion: Completion) -> bool:
        """Whether the completion's end-of-turn token is part of what is read."""
        return completion.stopped != "length"

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, each completion with a score; one that the policy cannot read abstains and says why."""
        loaded: Loaded | None = vars(self).get("_loaded")
        if loaded is None:
            with self:
                return self(groups)
        found = [self.sequences(loaded, group) for group in groups]
        readable = [s for group in found for s in group if not isinstance(s, str)]
        values = iter(self.read(loaded, readable) if readable else ())
        meter("critic_calls", len(readable))
        return [
            group.with_feedback(
                Feedback(self.name, raw=s) if isinstance(s, str) else Feedback(self.name, score=float(next(values)))
                for s in sequences
            )
            for group, sequences in zip(groups, found, strict=True)
        ]

    def sequences(self, loaded: Loaded, group: Group) -> list[trie.Sequence | str]:
        """Each completion after its prompt, scored on its own tokens; or why it cannot be read."""
        from trueline import models, trie

        try:
            prompt = loaded.renderer.prompt_ids(group.prompt.messages)
        except UserError as error:
            raise UserError(f"critic {self.name} on prompt {group.prompt.id}", str(error).rstrip(".")) from error
        room = models.fitting(loaded.model, NO_LIMIT)
        out: list[trie.Sequence | str] = []
        for completion in group.completions:
            ids = loaded.renderer.answer_ids(completion.text, self.answer(completion))
            if self.tokens and ids:
                out.append(trie.Sequence.of(*loaded.renderer.last(prompt, ids, min(self.tokens, room))))
            elif len(prompt) + len(ids) > room:
                out.append(f"prompt and answer of {len(prompt) + len(ids)} tokens, the model's longest is {room}")
            else:
                out.append(trie.Sequence.of(prompt, ids) if ids else "no token to read")
        return out
