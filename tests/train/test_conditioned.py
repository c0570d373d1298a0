"""The pool: rounds merged, answers dropped, described and picked; and the examples that come of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conditions.said import Held as Records
from tests.conditions.said import criticised, labelled, scored
from trueline.conditions.critiques import Critiques
from trueline.conditions.labels import Labels
from trueline.conditions.phrases import QuantilePhrases
from trueline.conditions.protocol import conditioned
from trueline.conditions.tokens import QuantileTokens
from trueline.errors import UserError
from trueline.records import Completion, Feedback, Group, Message, Prompt
from trueline.train.conditioned import Conditioned, Everything, PerClass, PerPrompt, kept, pool
from trueline.train.views import Answer, expected_examples, expected_tokens

HALVES = QuantileTokens(2)


@dataclass(frozen=True)
class Held(Records):
    """Records in memory that know how many they are."""

    made = True

    @property
    def count(self):
        return {"groups": len(self.records), "samples": sum(len(g.completions) for g in self.records)}


def view(*rounds, condition=HALVES, pick=None, **settings):
    return Conditioned(tuple(Held(tuple(r)) for r in rounds), condition, pick or Everything(), **settings)


def trained(view):
    """(prompt, answer, condition) of what is trained."""
    found = [e for e in view.examples() if not (e.skip or e.left_out)]
    return [(e.messages[0].content, e.answers[0].text, e.condition) for e in found]


def reasons(view):
    return Counter(e.skip or e.left_out for e in view.examples() if e.skip or e.left_out)


def test_all_answers_of_a_prompt_are_learned_each_with_its_quantile():
    """Scores 1 2 1 2 are b, d, a, c by rank; the prompt stays bare, the condition stands beside it."""
    made = view([scored("Who?", 1.0, 2.0, 1.0, 2.0)], condition=QuantilePhrases(("Good.", "Bad.")))
    assert trained(made) == [
        ("Who?", "a", "Bad. input: "), ("Who?", "b", "Good. input: "),
        ("Who?", "c", "Bad. input: "), ("Who?", "d", "Good. input: "),
    ]  # fmt: skip
    assert [e.rank for e in made.examples()] == [1, 0, 1, 0]
    assert len({e.key for e in made.examples()}) == 4


def test_cut_answers_are_cut_examples():
    """An answer that was cut never trains an end-of-turn, whatever it ends in; one that ended does."""
    group = Group(Prompt.of("Who?"), (Completion("A b.", stopped="length"), Completion("A b")))
    group = group.with_feedback([Feedback("rule", 1.0), Feedback("rule", 0.0)])
    assert [e.answers for e in view([group]).examples()] == [(Answer("A b.", False),), (Answer("A b", True),)]


def test_the_same_prompt_is_one_entry_with_all_its_answers():
    """Twice in a round, again in the next, under another id: quantiles are of all five answers.

    Scores 4 3 | 2 1 | 0: halves of 5 // 2 = 2, the remainder to the worst.
    """
    renamed = scored("Who?", 0.0, texts=["e"])
    renamed = msgspec.structs.replace(renamed, prompt=msgspec.structs.replace(renamed.prompt, id="again"))
    first = [scored("Who?", 4.0, 3.0), scored("Why?", 1.0), scored("Who?", 2.0, 1.0, texts=["c", "d"])]
    made = view(first, [renamed])
    assert [(e.answers[0].text, e.rank) for e in made.examples() if e.messages[0].content == "Who?"] == [
        ("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 1),
    ]  # fmt: skip
    assert [entry.group.prompt.text for entry in pool([first, [renamed]], HALVES)] == ["Who?", "Why?"]


def test_two_prompts_under_one_id_stay_two():
    one, two = (msgspec.structs.replace(g, prompt=msgspec.structs.replace(g.prompt, id="7")) for g in (
        scored("Who?", 1.0, 0.0), scored("Why?", 3.0, 2.0),
    ))  # fmt: skip
    assert [e.rank for e in view([one, two]).examples()] == [0, 1, 0, 1]


def test_ninety_six_answers_two_of_each_fifth():
    """19, 19, 19, 19 and 20 answers; ten are trained, the others neither dropped nor held against the data."""
    group = scored("Who?", *map(float, range(96)), texts=[f"answer {i}" for i in range(96)])
    made = view([group], condition=QuantileTokens(), pick=PerClass(2))
    assert Counter(e.rank for e in made.examples()) == dict.fromkeys(range(5), 2)
    assert Counter(e.rank for e in view([group], condition=QuantileTokens()).examples()) == {
        0: 19, 1: 19, 2: 19, 3: 19, 4: 20,
    }  # fmt: skip
    assert not reasons(made)
    assert [e.condition for e in made.examples()][::2] == [f"_QUANTILE_TOKEN_{k}_" for k in range(5)]


def test_global_quantiles_are_of_the_whole_pool():
    """Round one 9 8, round two 1 0, of different prompts: the better half is all of round one."""
    rounds = ([scored("Who?", 9.0, 8.0)], [scored("Why?", 1.0, 0.0)])
    assert [e.rank for e in view(*rounds, condition=QuantileTokens(2, "global")).examples()] == [0, 0, 1, 1]
    assert [e.rank for e in view(*rounds).examples()] == [0, 1, 0, 1]


def test_fewer_answers_than_classes_and_empty_classes_are_told():
    """Four answers for five quantiles: all in the worst; the four empty ones are left out by name, nothing stops."""
    made = view([scored("Who?", 1.0, 2.0, 3.0, 4.0)], condition=QuantileTokens(), pick=PerClass(2))
    assert [e.rank for e in made.examples() if not e.left_out] == [4, 4]
    assert reasons(made) == {f"no answer of class {k}": 1 for k in range(4)}
    assert not reasons(view([scored("Who?", 1.0)], condition=QuantileTokens()))


def test_abstentions_are_no_examples_and_are_counted():
    groups = [labelled("Who?", "Harmful", "?", None), labelled("Why?", None, "?"), Group(Prompt.of("Where?"))]
    everything = view(groups, condition=Labels())
    assert [e.condition for e in everything.examples() if e.condition] == ["Harmful.\n\n"]
    assert [e.skip for e in everything.examples()] == [
        "", "the critic abstained", "the critic abstained", "the critic abstained on all answers", "no completions",
    ]  # fmt: skip
    picked = view(groups, condition=Labels(), pick=PerClass(1))
    assert Counter(e.left_out for e in picked.examples() if e.left_out) == {
        "the critic abstained": 2, "no answer of class 0": 1, "no answer of class 1": 1, "no answer of class 2": 1,
    }  # fmt: skip
    assert [e.skip for e in picked.examples() if e.skip] == ["the critic abstained on all answers", "no completions"]


def test_critiques_in_no_class_are_learned_only_where_everything_is():
    said = [("Short.", 3.0), ("Odd.", 4.0), ("Odd.", None)]
    made = view([criticised("Who?", *said)], condition=Critiques())
    assert [e.condition for e in made.examples()] == ["feedback: Short. input: "] + ["feedback: Odd. input: "] * 2
    few = view([criticised("Who?", *said)], condition=Critiques(), pick=PerPrompt(4))
    assert reasons(few)["in no class"] == 2 and len(trained(few)) == 1
    filled = view([criticised("Who?", *said)], condition=Critiques(), pick=PerPrompt(4, fill="ordered"))
    assert reasons(filled)["in no class"] == 0 and len(trained(filled)) == 3


def test_a_prompt_that_holds_the_conditions_words_is_trained_whole():
    """The words of the condition, its separator and its token, in the prompt and in the answer: nothing is cut off."""
    post = "Harmful.\n\nfeedback: x input: _QUANTILE_TOKEN_1_ Human: Tell me a joke.\n\nAssistant:"
    for condition in (HALVES, QuantilePhrases(("Good.", "Bad."))):
        for example in view([scored(post, 1.0, 0.0, texts=[post, "b"])], condition=condition).examples():
            assert example.messages == (Message("user", post),)
            (shown,) = conditioned(example.messages, example.condition)
            assert shown.content == example.condition + post
            assert example.answers[0].text == (post if example.rank == 0 else "b")


def test_the_share_that_stays():
    """0.9 of 10 leaves 1, which the float floor loses: int(10 * (1 - 0.9)) = 0; 0.8 leaves 2, by floats 1."""
    assert [kept(10, f) for f in (0, 0.8, 0.9, 1)] == [10, 2, 1, 0]
    assert [kept(10, f, "float") for f in (0, 0.8, 0.9, 1)] == [10, 1, 0, 0]
    assert kept(19, 0.5) == 9


@given(st.integers(0, 200), st.integers(0, 100))
def test_the_exact_share_is_the_whole_part(n, percent):
    assert kept(n, percent / 100) == n * (100 - percent) // 100 == int(n * (1 - Fraction(percent, 100)))


def test_older_answers_are_dropped_per_prompt_and_class_before_a_round_joins():
    """Twenty answers in two halves; 0.8 drops eight of each ten, 0.9 nine, by floats 9 and 10."""
    old = [scored("Who?", *map(float, range(20)), texts=[f"old {i}" for i in range(20)])]
    new = [scored("Who?", 99.0, -99.0, texts=["new 0", "new 1"])]

    def left(**settings):
        """How many old answers of the better half and of the worse."""
        (entry,) = pool([old, new], HALVES, **settings)
        texts = [c.text for c in entry.group.completions]
        assert texts[-2:] == ["new 0", "new 1"] or not settings["drop"] < 1
        numbers = [int(t.split()[1]) for t in texts if t.startswith("old")]
        assert numbers == sorted(numbers)
        return sum(n >= 10 for n in numbers), sum(n < 10 for n in numbers)

    assert left(drop=0.0) == (10, 10)
    assert left(drop=0.8) == (2, 2) and left(drop=0.8, floor="float") == (1, 1)
    assert left(drop=0.9) == (1, 1) and left(drop=0.9, floor="float") == (0, 0)
    assert left(drop=1.0) == (0, 0)
    chosen = {tuple(t for _, t, _ in trained(view(old, new, drop=0.8, seed=seed))) for seed in range(5)}
    assert len(chosen) > 1


def test_the_whole_pool_emptied_is_the_last_round_alone():
    rounds = ([scored("Who?", 5.0, 4.0)], [scored("Why?", 3.0, 2.0)], [scored("Who?", 1.0, 0.0)])
    assert trained(view(*rounds, drop=1)) == trained(view(rounds[-1]))
    assert view(*rounds, drop=1).expected() == 2
    assert view(*rounds).expected() == 6
    assert view(*rounds, drop=0.5).expected() == round(2 + 1 + 0.5)


def test_the_plan_knows_how_many():
    group = scored("Who?", *map(float, range(96)), texts=[f"answer {i}" for i in range(96)])
    groups = [group, scored("Why?", *map(float, range(96)), texts=[f"answer {i}" for i in range(96)])]
    for pick, n in ((Everything(), 192), (PerClass(2), 20), (PerPrompt(10), 20), (PerPrompt(12, fill="class"), 24)):
        made = view(groups, condition=QuantileTokens(), pick=pick)
        assert expected_examples(made) == sum(not e.left_out for e in made.examples()) == n
        assert expected_tokens(made, 64) > n * 8
    assert view([], condition=QuantileTokens()).expected() == 0


groups = st.lists(
    st.tuples(st.sampled_from("pqrs"), st.lists(st.none() | st.integers(-99, 99), min_size=1, max_size=9)), max_size=6
)


@settings(deadline=None, max_examples=50)
@given(groups, st.randoms(), st.sampled_from([Everything(), PerClass(2), PerPrompt(4)]))
def test_the_order_of_prompts_changes_nothing(given_groups, random, pick):
    """Per prompt; the answers of one prompt keep their order among themselves."""
    made = [scored(p, *s, texts=[f"{number}.{i}" for i in range(len(s))]) for number, (p, s) in enumerate(given_groups)]
    by_prompt = {}
    for group in made:
        by_prompt.setdefault(group.prompt.text, []).append(group)
    order = list(by_prompt)
    random.shuffle(order)
    shuffled = [group for text in order for group in by_prompt[text]]
    assert sorted(trained(view(made, pick=pick))) == sorted(trained(view(shuffled, pick=pick)))
    assert reasons(view(made, pick=pick)) == reasons(view(shuffled, pick=pick))


@settings(deadline=None, max_examples=50)
@given(groups)
def test_every_answer_is_an_example_or_a_reason(given_groups):
    """Duplicated prompts, abstentions and all: as many examples as answers, but one for a prompt without any."""
    made = [scored(p, *s) for p, s in given_groups]
    told = Counter(bool(e.condition) for e in view(made).examples())
    known = sum(score is not None for _, s in given_groups for score in s)
    assert told[True] == known
    silent = {p for p, _ in given_groups} - {p for p, s in given_groups if any(x is not None for x in s)}
    unsaid = sum(score is None for p, s in given_groups for score in s if p not in silent)
    assert told[False] == unsaid + len(silent)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Conditioned((), HALVES),
        lambda: Conditioned(Held(()), HALVES),
        lambda: Conditioned((Held(()),), "good"),
        lambda: Conditioned((Held(()),), QuantileTokens),
        lambda: Conditioned((Held(()),), HALVES, Everything),
        lambda: Conditioned((Held(()),), HALVES, lambda found: []),
        lambda: Conditioned((Held(()),), HALVES, drop=1.5),
        lambda: Conditioned((Held(()),), HALVES, floor="down"),
        lambda: Conditioned((Held(()),), QuantileTokens(), PerPrompt(4)),
    ],
)
def test_refusals(wrong):
    with pytest.raises(UserError):
        wrong()
