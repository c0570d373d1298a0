"""Comparisons by who wrote: tiers, ties, reasons; ALMoST's release end to end; and what is refused."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline import machine
from trueline.errors import UserError
from trueline.feedback.generator import ByGenerator, Generator, comparison_rows, reasons
from trueline.feedback.judge import check_appended, judge
from trueline.feedback.protocol import metering
from trueline.feedback.shape import WellFormed
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Feedback, Group, Message, Preference, Prompt, write_jsonl
from trueline.sample.pooled import gather
from trueline.sample.prompted import Prompted
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.shots import Shots
from trueline.store import Groups, Prompts, using

LARGE, SMALL = "llama-2-13b-Faithful-3shot", "llama-2-7b-Faithful-3shot"
POOR = "llama-2-7b-HHH-1shot"
SHOWN = (Message("user", "q?"), Message("assistant", "a."))
FAITHFUL, HHH = Shots("Faithful", (SHOWN,) * 3), Shots("HHH", (SHOWN,) * 5)


def group(*said, prompt="q"):
    """A group of (author, text) or (author, text, label of `WellFormed`)."""
    completions = tuple(Completion(text, author) for author, text, *_ in said)
    feedback = tuple((Feedback("shape", label=label[0] if label else "fit"),) for _, _, *label in said)
    return Group(Prompt.of(prompt), completions, feedback)


def compared(critic, *groups):
    return [[(p.left, p.right) for p in judged.preferences] for judged in critic(groups)]


def test_the_better_author_is_preferred_and_the_reason_stands_beside_it():
    """Authors named as ALMoST names its files; what differs is read off the names."""
    (judged,) = ByGenerator((LARGE, SMALL, POOR))([group((POOR, "c"), (LARGE, "a"), (SMALL, "b"))])
    size = "size: llama-2-13b (1.3e+10) > llama-2-7b (7e+09)"
    shots, style = "shots: 3 > 1", "demonstrations: Faithful > HHH"
    assert judged.preferences == (
        Preference(1, 2, 1.0, "generator", raw=(size,)),
        Preference(1, 0, 1.0, "generator", raw=(size, shots, style)),
        Preference(2, 0, 1.0, "generator", raw=(shots, style)),
    )


def test_an_order_against_a_rule_of_thumb_says_so():
    """The larger model with fewer shots in front of the smaller with more; without shots nobody sees a style."""
    large, small = Generator.of("x-13b-HHH-1shot"), Generator.of("x-7b-HHH-5shot")
    assert reasons(large, small) == ["size: x-13b (1.3e+10) > x-7b (7e+09)", "against shots: 1 < 5"]
    assert reasons(small, large)[0].startswith("against size: x-7b (7e+09) < x-13b")
    assert reasons(Generator.of("m-good-3shot"), Generator.of("m-bad-0shot")) == ["shots: 3 > 0"]
    assert reasons(Generator.of("m-good-3shot"), Generator.of("n-good-3shot")) == ["model: m > n"]
    assert reasons(Generator("teacher"), Generator("pupil")) == ["author: teacher > pupil"]


def test_engines_stand_for_themselves():
    """Size, shots and style are what the engine was given, whatever its name looks like."""
    large = Prompted(Scripted(("x",), name="large"), FAITHFUL, 3, size=2e6)
    small = Prompted(Scripted(("x",), name="my-own"), HHH, 5, size=5e5)
    critic = ByGenerator((large, small))
    assert [one.author for tier in critic.ranks for one in tier] == ["large-Faithful-3shot", "my-own-HHH-5shot"]
    assert critic.ranks[1][0] == Generator("my-own-HHH-5shot", "my-own", 5e5, 5, "HHH")


def test_a_policy_is_known_by_its_digits():
    """What a policy is called differs from recipe to recipe."""
    critic = ByGenerator(("start-0123abcd-good-3shot", "start-0123abcd-good-1shot"))
    told = group(("base-0123abcd-good-1shot", "worse"), ("base-0123abcd-good-3shot", "better"))
    critic.survey([told])
    assert compared(critic, told) == [[(1, 0)]]


def test_ties_strangers_and_what_was_set_aside_are_compared_with_nothing():
    critic = ByGenerator(((LARGE, SMALL), POOR))
    told = group((LARGE, "aa"), (SMALL, "bb"), (POOR, "cc"), ("guest", "dd"), (LARGE, "ee", "asks"), (POOR, " "))
    with metering() as counts:
        assert compared(critic, told) == [[(0, 2), (1, 2)]]
    assert counts == {"unranked": 1, "set_aside": 1, "blank": 1}
    assert critic.calls(1, 6) == 0
    check_appended([told], critic([told]), critic.name)


def test_the_released_mode_is_one_pair_per_tier_and_signs_as_such():
    """c1 = 300, c2 = set aside, c3 = 310: barred at 302.5; a belief below certainty is a soft label."""
    critic = ByGenerator((LARGE, SMALL, POOR), pairs="almost", belief=0.8)
    told = group((LARGE, "a" * 300), (SMALL, "bad", "short"), (POOR, "c" * 290), prompt="1")
    barred = group((LARGE, "a" * 300), (SMALL, "bad", "short"), (POOR, "c" * 310), prompt="2")
    with metering() as counts:
        judged = critic([told, barred])
    assert [[(p.left, p.right, p.p, p.by) for p in g.preferences] for g in judged] == [
        [(0, 2, 0.8, "generator:almost")], [],
    ]  # fmt: skip
    assert counts == {"set_aside": 2, "barred": 1}
    assert list(comparison_rows(judged[0], critic.name)) == [
        {"prompt": "1", "chosen": "a" * 300, "rejected": "c" * 290, "meta": f"{LARGE}-vs-{POOR}"}
    ]


def test_the_length_prior_is_the_modes_own_unless_said():
    """300 before 310: barred as released, at 302.5; ours has no prior, and either can be told otherwise."""
    told = group((LARGE, "a" * 300), (POOR, "c" * 310))
    for fields, pairs in (
        ({}, [(0, 1)]), ({"spread": 0.5}, []), ({"pairs": "almost"}, []),
        ({"pairs": "almost", "spread": inf}, [(0, 1)]),
    ):  # fmt: skip
        assert compared(ByGenerator((LARGE, POOR), **fields), told) == [pairs]


@given(st.permutations([(LARGE, "one"), (SMALL, "two two"), (POOR, "three three three"), (POOR, "four")]))
def test_the_order_of_a_group_means_nothing(said):
    def told(order):
        (judged,) = ByGenerator((LARGE, SMALL, POOR))([group(*order)])
        return {(judged.completions[p.left].text, judged.completions[p.right].text) for p in judged.preferences}

    assert told(said) == told(sorted(said))


def test_what_was_not_generated_is_refused_with_what_was():
    told = [group((LARGE, "a"), (SMALL, "b"))]
    with pytest.raises(UserError, match=f"no answer is by {POOR}; some of {LARGE}, {SMALL}"):
        ByGenerator((LARGE, POOR)).survey(told)
    with pytest.raises(UserError, match=r"all of its 2 answers are set aside \(asks 1, blank 1\)"):
        ByGenerator((LARGE, SMALL)).survey([group((LARGE, "a"), (SMALL, "b", "asks"), (SMALL, " "))])
    ByGenerator((LARGE, SMALL)).survey([])


@pytest.mark.parametrize(
    ("tiers", "said"),
    [
        ((LARGE,), ": 1 tier;"), (((LARGE, SMALL),), ": 1 tier;"), ((), ": 0 tiers"), ((LARGE, ()), "2 tiers"),
        ((LARGE, LARGE), "stands in them twice"), (LARGE, "a tuple of authors"), ((LARGE, 3), "engines, or names"),
    ],
)  # fmt: skip
def test_an_order_that_orders_nothing_is_refused(tiers, said):
    with pytest.raises(UserError, match=said):
        ByGenerator(tiers)


@pytest.mark.parametrize("field", [{"pairs": "next"}, {"spread": -1.0}, {"belief": 0.5}, {"belief": 1.1}])
def test_settings_without_sense_are_refused(field):
    with pytest.raises(UserError, match=next(iter(field))):
        ByGenerator((LARGE, SMALL), **field)


@stage(Prompts, name="told-prompts", estimate=lambda n, **_: {"prompts": n})
def told_prompts(work: Work, n: int) -> None:
    """`n` prompts."""
    work.count("prompts", write_jsonl(work.dir / "prompts.jsonl", [Prompt.of(f"Question {i}?") for i in range(n)]))


def fake(length, refuse=0):
    """Answers of so many characters; "I do not know" to every `refuse`-th question."""
    text = "word " * (length // 5 - 1) + "end."
    texts = [("I do not know. " + text) if refuse and i % refuse == 0 else text for i in range(6)]
    told = {Prompt.of(f"Question {i}?").id: (said,) for i, said in enumerate(texts)}
    return Scripted(told, name=f"fake-{length}m")


def chain(n=6):
    """Three configurations, their answers pooled, set aside, and compared as released."""
    tiers = (Prompted(fake(300), FAITHFUL, 3), Prompted(fake(200, 3), FAITHFUL, 3), Prompted(fake(100), HHH, 1))
    drawn = gather(tiers, told_prompts(n), Sampling(max_tokens=300))
    return judge(judge(drawn, WellFormed(published=True)), ByGenerator(tiers, pairs="almost"))


def test_from_three_configurations_to_comparisons_and_the_same_bytes_again(tmp_path):
    """Six prompts, three answers each, the middle one set aside twice: 4 x 2 + 2 x 1 pairs."""
    content = []
    for name in ("a", "b"):
        with using(tmp_path / name):
            made = make(chain())
            content.append((made.path / "groups.jsonl").read_bytes())
            counts = made.record["counts"]
            rows = [row for g in made.read() for row in comparison_rows(g, "generator:almost")]
    assert content[0] == content[1]
    assert counts == {"set_aside": 2, "abstained": 0, "compared": 10, "longer_wins": 10}
    assert len(rows) == 10
    assert rows[0]["meta"] == "fake-300m-Faithful-3shot-vs-fake-100m-HHH-1shot"
    assert set(rows[0]) == {"prompt", "chosen", "rejected", "meta"}


FUSE: list[str] = []


def breaking(prompt, index):
    """Answers, but for a connection that breaks once."""
    if FUSE and "4?" in prompt.text:
        FUSE.clear()
        raise ConnectionError
    return "word " * 20 + "end."


def test_a_chain_that_broke_goes_on_to_the_same_bytes(tmp_path):
    tiers = (Prompted(Scripted(breaking), FAITHFUL, 3), Prompted(Scripted(breaking), HHH, 1))
    content = []
    for name in ("whole", "broken"):
        with using(tmp_path / name), machine.using(Machine(shard=2)):
            compared_ = judge(gather(tiers, told_prompts(6), Sampling()), ByGenerator(tiers, pairs="almost"))
            FUSE.extend([name] if name == "broken" else [])
            if FUSE:
                with pytest.raises(ConnectionError):
                    make(compared_)
            content.append((make(compared_).path / "groups.jsonl").read_bytes())
    assert content[0] == content[1]


@stage(Groups, name="told-groups")
def told_groups(work: Work, author: str) -> None:
    """One group of two answers, one by `author`."""
    write_jsonl(work.dir / "groups.jsonl", [group((LARGE, "a"), (author, "b"))])
    work.count("groups", 1)


def test_judge_shows_all_groups_before_it_begins(tmp_path):
    with using(tmp_path), pytest.raises(UserError, match=f"no answer is by {SMALL}; some of {LARGE}, other"):
        make(judge(told_groups("other"), ByGenerator((LARGE, SMALL))))
