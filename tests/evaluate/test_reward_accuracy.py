"""A reward beside the longer answer: worked numbers, the shorter-chosen subset, the warning, and held-out prompts."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.errors import UserError
from trueline.evaluate.calibration import calibration, loss
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


def test_how_sure_and_how_often_right():
    """Four pairs log 3 apart, three of them right: sure of 0.75, right in 0.75. Twice as far apart: sure of 0.9."""
    gaps = [math.log(3)] * 3 + [-math.log(3)]
    one, two = calibration(gaps), calibration([2 * gap for gap in gaps])
    assert (one.error, one.scale) == (pytest.approx(0.0, abs=1e-12), pytest.approx(1.0, abs=1e-6))
    assert one.loss == pytest.approx((3 * math.log(4 / 3) + math.log(4)) / 4)
    assert [(b.low, b.high, b.pairs, b.right) for b in one.bins] == [(0.7, 0.8, 4, 0.75)]
    assert (two.error, two.scale) == (pytest.approx(0.15), pytest.approx(0.5, abs=1e-6))
    assert calibration([1.0, 2.0]).scale is None and calibration([-1.0]).scale is None and calibration([]) is None
    assert calibration([0.0]).bins[0].right == 0.5 and calibration([1e3, -1e3]).loss == pytest.approx(500)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_no_other_factor_costs_less(gaps):
    found = calibration(gaps)
    assert sum(one.pairs for one in found.bins) == len(gaps) and 0 <= found.error <= 1
    if found.scale is not None:
        best = loss([found.scale * gap for gap in gaps])
        assert all(best <= loss([found.scale * near * gap for gap in gaps]) + 1e-9 for near in (0.9, 1.0, 1.1))


def test_accuracy_by_group_and_calibration_stand_in_the_table():
    """Of ten prompts five are about numbers; there the reward is right, elsewhere wrong."""
    report = make(reward_accuracy(parted(), group="kind"))
    result, table = read(report), (report.path / "table.txt").read_text()
    assert {name: of.mean for name, of in result.by_group.items()} == {"names": 0.0, "numbers": 1.0}
    assert result.by_group["names"].high > 0.3  # Wilson's: of five
    assert result.calibration.loss == pytest.approx((loss([1.0]) + loss([-1.0])) / 2)
    assert "the reward, numbers" in table and "sure, %" in table and "no factor on the rewards" in table
    with pytest.raises(UserError, match=r'no prompt has a field "kinds".*Did you mean "kind"'):
        make(reward_accuracy(parted(), group="kinds"))


@stage(Groups, name="parted-groups")
def parted(work: Work) -> None:
    rows = [pair(f"{i}?", 5, 9, (2, 1) if i % 2 else (1, 2)) for i in range(10)]
    meta = ["numbers" if i % 2 else "names" for i in range(10)]
    prompts = [Prompt.of(g.prompt.text, meta={"kind": kind}) for g, kind in zip(rows, meta, strict=True)]
    groups = [msgspec.structs.replace(g, prompt=prompt) for g, prompt in zip(rows, prompts, strict=True)]
    write_jsonl(work.dir / "groups.jsonl", groups)
