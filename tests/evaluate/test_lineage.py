"""What arms took, by their records: oracle calls, what was remembered, tokens and money, and the table of it."""

from __future__ import annotations

import msgspec
import pytest

from tests.evaluate.study import marks, questions, study, written
from trueline.errors import UserError
from trueline.evaluate.lineage import cost, spent, step
from trueline.evaluate.report import Arm, report
from trueline.evaluate.results import Cost, Result
from trueline.evaluate.statistics import Interval
from trueline.evaluate.table import draw
from trueline.feedback.judge import judge
from trueline.feedback.reward import Reward
from trueline.feedback.rule import Rule
from trueline.pipeline import Work, make, stage
from trueline.store import Policy, using


@stage(Policy, name="paid-for")
def paid_for(work: Work, counts: dict[str, int], start: Policy | None = None) -> None:
    """A policy whose making counted what it is told to."""
    (work.dir / "config.json").write_text("{}")
    for name, n in counts.items():
        work.count(name, n)


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


TAUGHT = {
    "teacher_calls": 10, "calls": 10, "prompt_tokens": 700, "completion_tokens": 900, "cost_microusd": 40_000,
    "paid_microusd": 40_000, "train_tokens": 500,
}  # fmt: skip
JUDGED = {
    "critic_calls": 90, "cached": 20, "calls": 70, "cached_calls": 30, "prompt_tokens": 9_000, "completion_tokens": 70,
    "cost_microusd": 2_000_000, "paid_microusd": 1_500_000,
}  # fmt: skip


def test_what_arms_took():
    """B is 10 teacher's answers; C is B and 90 labels: 100 oracle calls. B's steps count for both, together once."""
    b = paid_for(TAUGHT, label="B")
    c = paid_for(JUDGED, b, label="C")
    with pytest.raises(UserError, match="it is not made yet"):
        spent({"B": b})
    make(c)
    told = spent({"B": b, "C": c, "both": (b, c)})
    assert (told["B"].oracle, told["B"].teacher, told["B"].feedback, told["B"].money) == (10, 10, 0, "$0.0400")
    assert told["both"] == told["C"] == cost(b, c)
    expected = {
        "teacher": 10, "feedback": 90, "cached": 20, "calls": 80, "cached_calls": 30, "prompt_tokens": 9_700,
        "completion_tokens": 970, "microusd": 2_040_000, "paid_microusd": 1_540_000, "train_tokens": 500, "steps": 2,
    }  # fmt: skip
    assert msgspec.structs.replace(told["C"], seconds=0.0) == Cost(**expected)
    assert told["C"].oracle == 100 and told["C"].money == "$2.0400"
    assert cost(None) == Cost()


@stage(Policy, name="read-by")
def read_by(work: Work, critic: object) -> None:
    """A policy that learned from 7 scores."""
    (work.dir / "config.json").write_text("{}")
    work.count("critic_calls", 7)


def test_what_a_reward_model_read_is_no_question_to_anybody():
    rater = paid_for(JUDGED, label="rater")
    learned, graded = read_by(Reward(rater), label="learned"), read_by(Rule(marks), label="graded")
    make(learned)
    make(graded)
    assert cost(learned).feedback == 90  # the rater's labels; its seven readings are beside the questions
    assert step(learned).counts == {"readings": 7} and cost(graded).feedback == 7


def test_money_that_nobody_knows_stays_unknown():
    known, unknown = {"calls": 3, "cost_microusd": 9_000}, {"calls": 4, "unpriced_calls": 4}
    first = paid_for(known)
    both = make(paid_for(unknown, first))
    only = make(paid_for(unknown))
    assert [cost(x).money for x in (first, both, only)] == ["$0.0090", "at least $0.0090", "unknown"]
    assert make(paid_for({"train_tokens": 4})).record and cost(paid_for({"train_tokens": 4})).money == "$0"


def test_the_report_says_what_each_arm_cost():
    """One arm is free, one is priced, one partly: the table has a column, the headline a sentence, the page a cell."""
    asked = questions(12)
    policies = {
        "free": paid_for({"train_tokens": 5}), "taught": paid_for(TAUGHT),
        "judged": paid_for(JUDGED | {"unpriced_calls": 5}, paid_for(TAUGHT)),
    }  # fmt: skip
    qualities = {"free": 0.2, "taught": 0.4, "judged": 0.9}
    arms = tuple(
        Arm(name, judge(written(policy, asked, qualities[name], label=name), Rule(marks)), policy)
        for name, policy in policies.items()
    )
    made = make(report("What was paid", arms))
    table = (made.path / "table.txt").read_text()
    rows = {line.split()[0]: line for line in table.splitlines() if line.strip().startswith(tuple(policies))}
    assert "$0.04" in rows["taught"] and "≥$2.04" in rows["judged"] and "$" not in rows["free"]
    assert max(map(len, table.splitlines())) <= 100
    # Both arms rest on the same taught policy: it stands once in what all steps took.
    assert "at least $2.0400 for 80 requests, of which $1.54 was paid in these runs" in " ".join(table.split())
    result = msgspec.json.decode((made.path / "report.json").read_bytes(), type=Result)
    assert result.arm("judged").cost.oracle == 100 and result.arm("free").cost.calls == 0
    (answer,) = [answer for answer in result.headline if answer.question == "What did it cost?"]
    assert answer.figure == "≥$2.04" and "10 teacher calls, 90 feedback calls, at least $2.0400 for 80" in answer.text
    page = (made.path / "report.html").read_text()
    assert "≥$2.04" in page and "80 calls, 9.7k + 970 tokens" in page


def test_a_table_with_every_column_cuts_no_figure():
    """Costs beside duels, divergence and length: closer columns, all of them whole."""
    result = msgspec.json.decode((make(study(n=30)).path / "report.json").read_bytes(), type=Result)
    half, paid = Interval(30, 0.5, None, 0.42, 0.58), Cost(5_800, 0, 9, 1_100_000, 321.0, 9, calls=70, microusd=9**9)
    arms = tuple(msgspec.structs.replace(arm, cost=paid, kl=half) for arm in result.arms)
    table = draw(msgspec.structs.replace(result, arms=arms))
    row = next(line for line in table.splitlines() if line.strip().startswith("DPO "))
    assert " ".join(row.split()).endswith("0.5 5.8k $387.42 1.1M 5 min 21 s")
    assert "…" not in table and max(map(len, table.splitlines())) <= 100
