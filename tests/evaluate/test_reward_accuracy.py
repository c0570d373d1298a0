"""A reward beside the longer answer: worked numbers, the shorter-chosen subset, the warning, and held-out prompts."""

from __future__ import annotations

import pytest

from trueline.errors import UserError
from trueline.evaluate.reward_accuracy import correlation, decided, find, read, reward_accuracy
from trueline.feedback.judge import judge
from trueline.feedback.rule import Rule
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Feedback, Group, Preference, Prompt, write_jsonl
from trueline.store import Groups, using


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def pair(prompt, chosen, rejected, rewards=(None, None), p=1.0):
    """A group of a chosen and a rejected answer of these lengths, scored."""
    said = tuple((Feedback("rm", score=score),) for score in rewards)
    completions = (Completion("c" * chosen), Completion("r" * rejected))
    return Group(Prompt.of(prompt), completions, said, (Preference(0, 1, p, "people"),))


def found(*groups):
    pairs, skipped = decided(groups, "rm", "people")
    return find(pairs, groups, "rm", "people", skipped)


def test_worked_numbers():
    """(2, 1) at (10, 20) characters: a hit, shorter; (1, 3) at (30, 5): a miss, longer; (1, 1) at (7, 7): half both."""
    result = found(pair("a", 10, 20, (2, 1)), pair("b", 30, 5, (1, 3)), pair("c", 7, 7, (1, 1)))
    assert result.accuracy.mean == pytest.approx(0.5)
    assert result.longer.mean == pytest.approx(0.5)
    assert (result.shorter.mean, result.shorter_pairs) == (1.0, 1)
    assert result.gain.mean == 0.0
    assert result.follows == 0.0
    assert result.pairs == 3


def test_a_reversed_or_soft_preference_is_read_and_what_is_undecided_is_skipped():
    result = found(
        pair("a", 10, 20, (1, 2), p=0.2), pair("b", 1, 2, (1, 2), p=0.5), pair("c", 1, 2, (1, 2), p=None),
        pair("d", 1, 2, (None, 2)),
    )  # fmt: skip
    assert (result.pairs, result.skipped, result.accuracy.mean, result.longer.mean) == (1, 3, 1.0, 1.0)


def test_prompts_weigh_the_same_however_many_pairs_they_have():
    three = Group(
        Prompt.of("q"), tuple(Completion("x" * n) for n in (1, 2, 3)),
        tuple((Feedback("rm", score=float(n)),) for n in (3, 2, 1)),
        (Preference(0, 1, 1.0, "people"), Preference(0, 2, 1.0, "people"), Preference(1, 2, 1.0, "people")),
    )  # fmt: skip
    assert found(three, pair("b", 1, 2, (1, 2))).accuracy.mean == 0.5


def test_correlation_is_within_prompts():
    """Lengths and scores rise together in each prompt, though the longer prompt's scores are the lower ones."""
    groups = [pair("a", 1, 3, (11, 13)), pair("b", 101, 103, (1, 3))]
    assert correlation(groups, "rm") == pytest.approx(1.0)
    assert correlation([pair("a", 1, 3, (3, 1))], "rm") == pytest.approx(-1.0)
    assert correlation([pair("a", 1, 3, (2, 2))], "rm") is None
    assert correlation([pair("a", 1, 3)], "rm") is None


def long(text: str) -> int:
    return len(text)


def chosen(text: str) -> bool:
    return text.startswith("c")


@stage(Groups, name="weighed-groups")
def weighed(work: Work, n: int = 30, first: int = 0) -> None:
    """Pairs of which two in three have the longer answer chosen."""
    rows = [pair(f"{i}?", 10 + i if i % 3 else 5, 9) for i in range(first, first + n)]
    work.count(
        "groups",
        write_jsonl(work.dir / "groups.jsonl", [Group(g.prompt, g.completions, (), g.preferences) for g in rows]),
    )


def test_a_reward_that_measures_length_is_warned_of(caplog):
    """It scores what the longer answer scores, 20 of 30, and nothing where the shorter one is chosen."""
    report = make(reward_accuracy(judge(weighed(), Rule(long))))
    result = read(report)
    assert result.accuracy.mean == result.longer.mean == pytest.approx(2 / 3)
    assert (result.shorter.mean, result.shorter_pairs, result.follows) == (0.0, 10, 1.0)
    assert result.correlation == pytest.approx(1.0)
    told = "it prefers the longer answer in 100% of 30 pairs, and within prompts their correlation is 1.00"
    warning = f"measures little but length: {told}"
    assert warning in caplog.text
    assert warning in report.record["notes"]["warning"]
    assert "Warning" in (report.path / "table.txt").read_text()


def test_a_reward_that_knows_more_is_not(caplog):
    report = make(reward_accuracy(judge(weighed(), Rule(chosen)), trained_on=weighed(first=100)))
    result = read(report)
    assert (result.accuracy.mean, result.shorter.mean, result.warning) == (1.0, 1.0, "")
    assert result.gain.excludes_zero
    assert "little but length" not in caplog.text
    table = (report.path / "table.txt").read_text()
    assert "apart from it" in table
    assert report.record["counts"] == {"pairs": 30, "skipped": 0}


def test_held_out_means_by_prompt():
    with pytest.raises(UserError, match="10 of its 30 prompts are in"):
        make(reward_accuracy(judge(weighed(), Rule(long)), trained_on=weighed(n=10)))


def test_what_cannot_be_weighed_is_refused():
    both = judge(judge(weighed(), Rule(long)), Rule(chosen))
    with pytest.raises(UserError, match="nothing was scored"):
        make(reward_accuracy(weighed()))
    with pytest.raises(UserError, match="rule:long, rule:chosen all scored; the one that is meant"):
        make(reward_accuracy(both))
    assert read(make(reward_accuracy(both, by="rule:chosen"))).reward == "rule:chosen"
    with pytest.raises(UserError, match='nothing was compared by "peeple"'):
        make(reward_accuracy(both, by="rule:long", preferred_by="peeple"))
