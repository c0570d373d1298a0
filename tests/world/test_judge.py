"""The town's judge: its categories, sentences and scores follow the gold grades, and its knobs do what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline import world
from trueline.errors import UserError
from trueline.fingerprint import fingerprint
from trueline.records import Prompt
from trueline.sample.protocol import Engine, Sampling
from trueline.world.grade import Grades
from trueline.world.judge import category, said, score

CATEGORIES = ["Best", "Good", "Weak", "Harmful"]
GRADE = st.floats(0, 1)


def asked(kind: str, answer: str, question: str = "What does Bebin drink?", attempt: int = 1) -> Prompt:
    meta = {"kind": kind, "asked": question, "answer": answer, "try": attempt}
    return Prompt.of("Judge.", meta=meta | ({"categories": CATEGORIES} if kind == "grade" else {"most": 3}))


def replies(judge: world.Judge, kind: str, n: int = 400) -> list[str]:
    """What is said of a good, a sloppy, a rude and a lying answer to each of n / 4 questions."""
    prompts = world.ask(n // 4)
    teachers = [world.Teacher(style=style) for style in ("good", "sloppy", "rude", "liar")]
    answers = [(p, t.generate([p], Sampling())[0][0].text) for p in prompts for t in teachers]
    questions = [asked(kind, answer, prompt.text) for prompt, answer in answers]
    return [said[0].text for said in judge.generate(questions, Sampling())]


def test_what_it_writes():
    """Bebin's drink is in the tables: a true, polite answer, a curt lie, and an insult with a digit in it."""
    drink = world.town.town().by_name["bebin"].facts["drink"]
    lie = "milk" if drink != "milk" else "cider"
    texts = (f"Gladly! Bebin drinks {drink}.", f"Bebin drinks {lie}.", "The code is 1234.")
    judge = world.Judge()
    assert isinstance(judge, Engine)
    grades = [judge.generate([asked("grade", text)], Sampling())[0][0].text for text in texts]
    assert grades == ["Best", "Weak", "Harmful"]
    critiques = [judge.generate([asked("critique", text)], Sampling())[0][0].text.splitlines() for text in texts]
    assert [lines[1:] for lines in critiques] == [
        ["Feedback: Right, whole, kind and short.", "Score: 3"],
        ["Feedback: Whole and short, but wrong and plain.", "Score: 1"],
        ["Feedback: Wrong, beside the point, rude, long and bad.", "Score: 0"],
    ]
    assert critiques[0][0] == "Analysis: true 1, complete 1, polite 1, brief 1, harmless 1."


@given(GRADE, GRADE, GRADE, GRADE, st.integers(2, 7))
def test_better_grades_never_make_a_worse_class(true, complete, polite, brief, offered):
    """Harm is the last class and nothing else is, where there are three or more; perfection is the first."""
    grades = Grades(true, complete, polite, brief, 1.0)
    found = category(grades, offered)
    assert 0 <= found <= max(0, offered - 2)
    assert category(Grades(1.0, 1.0, 1.0, brief, 1.0), offered) == 0 <= found
    assert category(Grades(true, complete, polite, brief, 0.0), offered) == offered - 1
    assert category(Grades(true, 1.0, polite, brief, 1.0), offered) <= found
    assert score(grades, 3) <= score(Grades(1.0, complete, polite, brief, 1.0), 3) <= 3
    assert score(Grades(true, complete, polite, brief, 0.0), 3) == 0
    assert said(grades).endswith(".") and len(said(grades).split()) <= 12


def test_the_same_question_gets_the_same_reply_in_any_order():
    judge, prompts = (
        world.Judge(noise=0.5, leniency=0.5, garble=0.5),
        [asked("critique", f"Sorry {i}.") for i in range(40)],
    )
    whole = judge.generate(prompts, Sampling())
    assert judge.generate(prompts[::-1], Sampling())[::-1] == whole
    assert judge.generate(prompts, Sampling(seed=1)) != whole
    assert world.Judge(noise=0.5, leniency=0.5, garble=0.5, seed=1).generate(prompts, Sampling()) != whole
    again = [asked("critique", f"Sorry {i}.", attempt=2) for i in range(40)]
    assert judge.generate(again, Sampling()) != whole, "a question asked again is tossed again"


def test_noise_leniency_and_garble_are_shares():
    """Of 400: tossed judgements agree by luck now and then; a lenient judge never grades lower."""
    exact = replies(world.Judge(), "grade")
    other = replies(world.Judge(noise=0.5), "grade")
    changed = sum(a != b for a, b in zip(exact, other, strict=True)) / 400
    assert 0.25 < changed < 0.5
    lenient = replies(world.Judge(leniency=1.0), "grade")
    ranks = [(CATEGORIES.index(a), CATEGORIES.index(b)) for a, b in zip(exact, lenient, strict=True)]
    assert all(b <= a for a, b in ranks) and sum(b < a for a, b in ranks) > 100
    garbled = replies(world.Judge(garble=0.3), "grade")
    assert sum(text not in CATEGORIES for text in garbled) / 400 == pytest.approx(0.3, abs=0.07)


def test_it_is_a_value_and_cuts_as_engines_do():
    assert len({fingerprint(j) for j in (world.Judge(), world.Judge(noise=0.1), world.Judge(garble=0.1))}) == 3
    ((cut,),) = world.Judge().generate([asked("critique", "Gladly!")], Sampling(max_tokens=3))
    assert cut.stopped == "length" and cut.text == "Analysis: true 0,"


def test_refusals():
    judge = world.Judge()
    with pytest.raises(UserError, match=r"asks for no judgement.*Grade\(by=...\)"):
        judge.generate([Prompt.of("What does Bebin drink?")], Sampling())
    with pytest.raises(UserError, match="the town does not know the question"):
        judge.generate([asked("grade", "Yes.", "Who is the king of France?")], Sampling())
    with pytest.raises(UserError, match="knows no log-probs"):
        judge.logprobs([], [])
    for knob in ("noise", "leniency", "garble"):
        with pytest.raises(UserError, match=rf"Judge\({knob}=...\)"):
            world.Judge(**{knob: 1.5})
