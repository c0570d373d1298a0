"""Rules: plain functions as critics, and what they may not return."""

from __future__ import annotations

import functools

import pytest

from trueline.errors import UserError
from trueline.feedback.rule import Rule
from trueline.fingerprint import fingerprint
from trueline.records import Completion, Feedback, Group, Prompt


def words(text: str) -> int:
    return len(text.split())


def echoes(prompt: Prompt, text: str) -> bool:
    return prompt.text in text


def unsure(text: str) -> float | None:
    return None if "maybe" in text else 1.0


def shorter_than(text: str, limit: int = 3) -> bool:
    return len(text) < limit


def shouts(text: str) -> str:
    return text.upper()


def divides(text: str) -> float:
    return float("inf") if not text else 1 / len(text)


def three(a: str, b: str, c: str) -> float:
    return 0.0


GROUPS = [Group(Prompt.of("who"), (Completion("who knows"), Completion("maybe")))]


@pytest.mark.parametrize(
    ("function", "scores"),
    [(words, [2.0, 1.0]), (echoes, [1.0, 0.0]), (unsure, [1.0, None]), (shorter_than, [0.0, 0.0])],
)
def test_a_function_of_the_text_or_of_prompt_and_text(function, scores):
    rule = Rule(function)
    (judged,) = rule(GROUPS)
    assert judged.scores() == scores
    assert judged.feedback[0] == (Feedback(f"rule:{function.__name__}", score=scores[0]),)
    assert rule.calls(groups=10, completions=20) == 0


def test_identity_is_the_function_and_its_revision():
    assert fingerprint(Rule(words)) == fingerprint(Rule(words))
    assert len({fingerprint(rule) for rule in (Rule(words), Rule(unsure), Rule(words, rev=2))}) == 3


def test_a_partial_carries_its_arguments():
    rule = Rule(functools.partial(shorter_than, limit=6))
    assert rule.name == "rule:shorter_than"
    assert rule(GROUPS)[0].scores() == [0.0, 1.0]
    assert fingerprint(rule) != fingerprint(Rule(functools.partial(shorter_than, limit=7)))


@pytest.mark.parametrize(
    ("function", "message"),
    [(shouts, "rule shouts on prompt p-.*it returned str 'WHO KNOWS'"), (divides, "it returned inf")],
)
def test_what_is_no_score_is_refused_with_what_it_was(function, message):
    with pytest.raises(UserError, match=message):
        Rule(function)([Group(Prompt.of("who"), (Completion("who knows" if function is shouts else ""),))])


@pytest.mark.parametrize(
    ("function", "message"), [(three, "needs 3 arguments"), ("words", "a function of the answer's text")]
)
def test_what_is_no_rule_is_refused_where_it_is_written(function, message):
    with pytest.raises(UserError, match=message):
        Rule(function)


def test_lambdas_and_local_functions_have_no_identity():
    def local(text: str) -> float:
        return 0.0

    for function in (lambda text: 0.0, local):
        with pytest.raises(UserError, match=r"a lambda|the local function local"):
            fingerprint(Rule(function))
