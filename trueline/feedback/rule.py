"""`Rule`: a plain Python function as a critic.

    def brief(text: str) -> float:
        return -len(text) / 100

    judge(groups, Rule(brief))

The function takes the answer's text, or the `Prompt` and the text; which, its signature tells. It returns a number,
True or False (1 and 0), or None to abstain. It must stand at the top level of a module: its qualified name and its
code are its identity, so that an edited rule judges anew. Code that it calls is not looked into; a Rule whose helpers
changed says so by another `rev`.
"""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from trueline.errors import UserError
from trueline.records import Feedback, Group, Prompt, content_hash


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
        return f"rule:{self.function.__name__}"

    def identity(self) -> dict[str, Any]:
        """What the fields do not hold: the function's code, so that an edit is a new rule and a comment is not."""
        return {"code": code_hash(self.function)}

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
                f"Rule({self.function.__name__})",
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
                f"rule {self.function.__name__} on prompt {prompt.id}",
                f"it returned {type(said).__name__} {said!r:.80}",
                "a number, True or False, or None to abstain",
            )
        score = float(said)
        if not math.isfinite(score):
            raise UserError(
                f"rule {self.function.__name__} on prompt {prompt.id}", f"it returned {score}", "a finite number",
                "Return None where the rule has nothing to say.",
            )  # fmt: skip
        return score


def code_hash(function: Callable[..., Any]) -> str:
    """Hash of a function's code without comments, docstring and layout; of its name where it has no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return content_hash(getattr(function, "__qualname__", repr(function)))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return content_hash(ast.unparse(tree))
