"""`Rule`: a plain Python function as a critic.

    def brief(text: str) -> float:
        return -len(text) / 100

    judge(groups, Rule(brief))

The function takes the answer's text, or the `Prompt` and the text; which, its signature tells. It returns a number,
True or False (1 and 0), or None to abstain. It must stand at the top level of a module: its name and its source are
its identity, so that an edited rule judges anew. Code that it calls is not looked into; a Rule whose helpers changed
says so by another `rev`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

from trueline.errors import UserError
from trueline.records import Feedback, Group, Prompt


@dataclass(frozen=True)
class Rule:
    """The critic that scores every completion with `function`; it asks nobody, so it makes no critic calls."""

    function: Callable[..., float | bool | None]
    rev: int = 1

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UserError("Rule(...)", f"got {self.function!r}", "a function of the answer's text")
        self._takes_prompt()

    @property
    def name(self) -> str:
        return f"rule:{self._called}"

    @property
    def _called(self) -> str:
        function = self.function
        while isinstance(function, functools.partial):
            function = function.func
        return function.__name__

    def calls(self, groups: int, completions: int) -> int:
        return 0

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        wants_prompt = self._takes_prompt()
        return [
            group.with_feedback(
                Feedback(self.name, score=self._score(group.prompt, answer.text, wants_prompt))
                for answer in group.completions
            )
            for group in groups
        ]

    def _takes_prompt(self) -> bool:
        """Whether the function takes (prompt, text) rather than (text)."""
        kinds = inspect.Parameter
        parameters = inspect.signature(self.function).parameters.values()
        positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        needed = [p for p in positional if p.default is kinds.empty]
        keyword_only = [p.name for p in parameters if p.kind == kinds.KEYWORD_ONLY and p.default is kinds.empty]
        if len(needed) not in (1, 2) or keyword_only:
            raise UserError(
                f"Rule({self._called})",
                f"the function needs {len(needed) + len(keyword_only)} arguments",
                "one (the text) or two (the prompt, the text); others need defaults",
            )
        return len(needed) == 2

    def _score(self, prompt: Prompt, text: str, wants_prompt: bool) -> float | None:
        said = self.function(prompt, text) if wants_prompt else self.function(text)
        if said is None:
            return None
        if not isinstance(said, Real):
            raise UserError(
                f"rule {self._called} on prompt {prompt.id}",
                f"it returned {type(said).__name__} {said!r:.80}",
                "a number, True or False, or None to abstain",
            )
        score = float(said)
        if not math.isfinite(score):
            raise UserError(
                f"rule {self._called} on prompt {prompt.id}", f"it returned {score}", "a finite number",
                "Return None where the rule has nothing to say.",
            )  # fmt: skip
        return score
