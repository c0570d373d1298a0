"""Replies become verdicts or abstentions: each form strictly, with AlpacaEval's own examples."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.errors import UserError
from trueline.feedback.verdicts import (
    FirstToken,
    JsonField,
    Letters,
    Literally,
    Ranking,
    Regex,
    ScorePair,
    VerdictParser,
    as_p,
)  # fmt: skip

BASIC = Regex(((r"(?:^|\n) ?Output \(a\)", 1.0), (r"(?:^|\n) ?Output \(b\)", 0.0)))
EVERY = [Letters(), Letters(tie=""), BASIC, Ranking(), Ranking(strict=False), FirstToken(), ScorePair(), Literally(),
         JsonField("x", Ranking(("m", "M"))), JsonField("x", Literally()), Literally((("a", 1), ("b", 2)))]  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
)


@pytest.mark.parametrize(
    ("reply", "matches", "p"),
    [
        ("Output (a)", [1.0], 1.0),
        ("\nOutput (b)", [0.0], 0.0),
        ("I prefer Output (a)", [], None),
        ("Output (a)\nOutput (b)", [1.0, 0.0], None),
        ("Output (a) Output (b)", [1.0, 0.0], None),  # behind a match, the rest is read as a reply of its own
        ("Well.\n Output (b), since it is shorter.", [0.0], 0.0),
        ("Output (c)", [], None),
    ],
)
def test_the_basic_prompt_of_alpaca_eval(reply, matches, p):
    assert BASIC.matches(reply) == matches
    assert BASIC.parse(reply) == p
    assert BASIC.replies() == {"first": "Output (a)", "second": "Output (b)"}


def test_the_earliest_match_counts_and_of_several_there_the_first_listed():
    farm = Regex(((r"\n\(a\)", 1.0), (r"\n\(b\)", 0.0)))
    assert farm.matches("\n(b)\n\n### Best\n(a)\n\n### Best\n(b)") == [0.0, 1.0, 0.0]
    assert Regex((("a", 1.0), ("ab", 0.0))).parse("ab") == 1.0
    assert Regex((("ab", 0.0), ("a", 1.0))).parse("ab") == 0.0
    assert Regex(((r"(?=!)", 0.5),)).parse("so!") == 0.5, "a match of no width ends too"
    thought = Regex(((r"(?m)^Verdict: A$", 1.0), (r"(?m)^Verdict: B$", 0.0)), take="last")
    assert thought.parse("Verdict: A\nNo, wait.\nVerdict: B") == 0.0
    assert thought.parse("A is better.") is None


@pytest.mark.parametrize(
    ("reply", "strict", "loose"),
    [
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", 1.0, 1.0),
        (' [{"rank": 2, "model": "model_1"}, {"rank": 1, "model": "model_2"}]\n', 0.0, 0.0),
        ("[{'model': 'model_1', 'rank': 3}, {'model': 'model_2', 'rank': 1}]", None, None),
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 1}]", 0.5, 1.0),
        ("[{'model': 'model_1', 'rank': 1}]", None, 1.0),
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_3', 'rank': 2}]", None, 1.0),
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_1', 'rank': 2}]", None, 1.0),
        ("[{'model': 'model_1', 'rank': True}, {'model': 'model_2', 'rank': 2}]", None, None),
        ("[{'model': 'model_1', 'rank': '1'}, {'model': 'model_2', 'rank': '2'}]", None, None),
        ("Sure: [{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", None, None),
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'mo", None, None),
        ("[1, 2]", None, None),
        ("{'model': 'model_1', 'rank': 1}", None, None),
        ("__import__('os').getcwd()", None, None),
    ],
)
def test_rankings(reply, strict, loose):
    assert Ranking().parse(reply) == strict
    assert Ranking(strict=False).parse(reply) == loose


def test_first_tokens_worked():
    """e^-0.017597131 / (e^-0.017597131 + e^-4.048847) = 0.982558; as a preference 2 - p = 1.017442."""
    p = FirstToken().preferred({"m": -0.017597131, "M": -4.048847})
    assert p == pytest.approx(0.982558, abs=1e-6) and 2 - p == pytest.approx(1.017442, abs=1e-6)
    assert FirstToken().preferred({"M": -0.1}) == 0.0, "a token that is not told of counts nothing"
    assert FirstToken().preferred({"m": -9.0}) == 1.0
    assert FirstToken().preferred({}) is None and FirstToken().preferred({"x": -0.1}) is None
    assert FirstToken(binarize=True).preferred({"m": -1.0, "M": -0.9}) == 0.0
    assert FirstToken(binarize=True).preferred({"m": -1.0, "M": -1.0}) == 0.5
    assert FirstToken().parse('{"M":-4.048847,"m":-0.017597131}') == p, "what was kept can be read again"
    assert FirstToken().parse('{"m": "a"}') is None


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_first_tokens_turned_round_are_the_other_answer(one, other):
    p, q = FirstToken().preferred({"m": one, "M": other}), FirstToken("M", "m").preferred({"m": one, "M": other})
    assert p + q == pytest.approx(1.0) and p == pytest.approx(1 / (1 + math.exp(other - one)))


def test_letters_take_nothing_else():
    said = {"a": 1.0, "(B)": 0.0, "**A**": None, "tie": 0.5, "A or B": None, "C": None, "A.\n": 1.0, "AB": None}
    assert {reply: Letters().parse(reply) for reply in said} == said
    assert Letters(tie="").parse("Tie") is None
    assert Letters("Answer one", "Answer two", "").parse("answer  TWO") == 0.0


def test_scores_and_values():
    said = {"7 1\nmore": 1.0, "1 7": 0.0, "1,7": 0.0, "1 1": 0.5, "7.5 7.4": 1.0, "7/10 1": None, "7": None, "": None}
    assert {reply: ScorePair().parse(reply) for reply in said} == said
    said = {"1": 1.0, "2.0": 0.0, "[1.5]": 0.5, "0": 0.5, "1.25": 0.75, "3": None, "one": None, "True": None}
    assert {reply: Literally().parse(reply) for reply in said} == said
    named = Literally((("True", 1), ("worse", 2)))
    assert [named.parse(reply) for reply in ("True", "worse", "false")] == [1.0, 0.0, None]


def test_a_field_of_a_json_object():
    ranked = JsonField("ordered_models", Ranking(("m", "M")))
    reply = {"ordered_models": [{"model": "m", "rank": 2}, {"model": "M", "rank": 1}], "concise_explanation": "."}
    assert ranked.parse(json.dumps(reply)) == 0.0
    assert ranked.parse(f"So: ```json\n{json.dumps(reply)}\n```") == 0.0
    assert ranked.parse(json.dumps({"models": []})) is ranked.parse("[]") is ranked.parse("{") is None
    assert JsonField("rank", Literally()).parse('{"rank": 1.5}') == 0.5


@pytest.mark.parametrize("parser", EVERY, ids=repr)
def test_what_is_asked_for_can_be_read(parser):
    """Replies as they are offered mean what they say; the order of the names is that of the answers."""
    assert isinstance(parser, VerdictParser)
    assert len(parser.names) == 2
    if not isinstance(parser, FirstToken):
        wanted = {"first": 1.0, "second": 0.0, "tie": 0.5}
        assert {kind: parser.parse(text) for kind, text in parser.replies().items()} == {
            kind: wanted[kind] for kind in parser.replies()
        }


@pytest.mark.parametrize("parser", EVERY, ids=repr)
@given(said=st.text() | JSON.map(json.dumps))
def test_whatever_is_said_is_a_verdict_or_an_abstention(parser, said):
    p = parser.parse(said)
    assert p is None or 0.0 <= p <= 1.0


@pytest.mark.parametrize("parser", EVERY, ids=repr)
@pytest.mark.parametrize(
    "said", ["[" * 100_000, "9" * 5000, '{"m": -1e999}', '{"x": ' * 3000, "1 " + "9" * 400, '{"m": -' + "9" * 400 + "}"]
)
def test_hostile_replies(parser, said):
    p = parser.parse(said)
    assert p is None or 0.0 <= p <= 1.0


def test_preferences():
    assert [as_p(x) for x in (1, 2, 1.5, 0, 1.0000001827)] == [1.0, 0.0, 0.5, 0.5, pytest.approx(0.9999998173)]
    assert [as_p(x) for x in (None, -1, 2.5, "1", float("nan"), False)] == [None] * 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Letters("A", "a."), "case does not make equal"),
        (lambda: Letters("A", ""), "two or three texts"),
        (lambda: Regex(()), "got none"),
        (lambda: Regex((("(", 1.0),)), "a regular expression"),
        (lambda: Regex((("a*", 1.0),)), "matches nothing at all"),
        (lambda: Regex((("a", 2.0),)), "means 2.0"),
        (lambda: Regex((("a", 1.0),), take="first"), '"only" or "last"'),
        (lambda: Ranking(("m", "m")), "two different names"),
        (lambda: FirstToken("m", " m"), "more than spaces"),
        (lambda: Literally((("a", 3),)), "a preference"),
        (lambda: JsonField("x", "ranking"), "a parser of replies"),
        (lambda: JsonField("x", FirstToken()), "a parser of replies"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UserError, match=message):
        make()
