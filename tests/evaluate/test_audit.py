"""Assumed orders held against a judge: agreement by rule, what is warned of, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from trueline.errors import UserError
from trueline.evaluate.audit import agreement, audit, drawn, pairs_of, read, rule_of
from trueline.feedback.compare import Compare
from trueline.feedback.generator import ByGenerator
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Verdict
from trueline.feedback.rule import Rule
from trueline.feedback.shape import WellFormed
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Feedback, Group, Preference, Prompt, read_jsonl, write_jsonl
from trueline.store import Groups, using

BIG, FEW, SMALL = "m-9b-good-3shot", "m-9b-good-1shot", "m-1b-good-3shot"
TIERS = (BIG, FEW, SMALL)


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


@stage(Groups, name="audited-groups", estimate=lambda n, **_: {"groups": n, "samples": 3 * n})
def made_up(work: Work, n: int = 4) -> None:
    """`n` prompts; the big model's answer says 3 good things, the one with fewer shots 1, the small one 2."""
    texts = ("good good good.", "good.", "good and good.")
    said = [tuple(Completion(t, a) for t, a in zip(texts, TIERS, strict=True)) for _ in range(n)]
    write_jsonl(work.dir / "groups.jsonl", [Group(Prompt.of(f"{i}?"), c) for i, c in enumerate(said)])
    work.count("groups", n)
    work.count("samples", 3 * n)


def goods(text: str) -> int:
    return text.count("good")


@dataclass(frozen=True)
class Praise:
    """A comparer that counts praise."""

    name = "praise"

    def compare(self, items):
        return [Verdict(float(goods(a) > goods(b)) if goods(a) != goods(b) else 0.5) for _, a, b in items]


def compared(n=4, **fields):
    return judge(made_up(n), ByGenerator(TIERS, **fields))


def told(result):
    return {one.name: (one.pairs, one.agreement.mean) for one in (result.overall, *result.rules)}


RIGHT = {"all": (12, 2 / 3), "shots": (4, 1.0), "size": (4, 1.0), "size + against shots": (4, 0.0)}


def test_agreement_by_rule_and_beside_it_the_longer_answer():
    """Three pairs per prompt: 3 > 1 (shots) and 3 > 2 (size) hold, 1 > 2 (size against shots) does not."""
    found = read(make(audit(compared(), Rule(goods))))
    assert told(found) == RIGHT
    assert (found.assumed, found.judge, found.prompts) == ("generator", "rule:goods", 4)
    assert found.overall.agreement.n == 4
    assert [one.name for one in found.generators] == [f"{BIG} > {FEW}", f"{BIG} > {SMALL}", f"{FEW} > {SMALL}"]
    # The longer answer: good good good. (15) > good and good. (14) > good. (5): always the judge's favourite.
    assert found.longer.mean == 1.0
    assert {one.name: one.longer for one in found.rules} == {"shots": 1.0, "size": 1.0, "size + against shots": 0.0}


def test_a_comparer_is_asked_about_the_pairs_alone():
    critic = Compare(by=Praise())
    report = make(audit(compared(), critic))
    assert told(read(report)) == RIGHT
    assert report.record["counts"]["critic_calls"] == 24  # 12 pairs, both orders
    first = next(iter(read_jsonl(report.path / "pairs.jsonl", Group)))
    assert [p.by for p in first.preferences] == ["generator", "compare:praise"]
    assert audit(compared(), critic).count["critic_calls"] == 24  # the plan


def test_a_rule_that_is_wrong_is_warned_of(caplog):
    make(audit(compared(), Rule(goods)))
    assert "the rule size + against shots is wrong more often than right" in caplog.text


def test_the_table_says_rules_generators_and_what_became_of_answers():
    aside = judge(judge(made_up(), WellFormed(least=6, rules=("short",))), ByGenerator((BIG, SMALL)))
    report = make(audit(aside, Rule(goods)))
    table = (report.path / "table.txt").read_text()
    assert "size" in table
    assert "short 4" in table
    assert {a.name: (a.answers, a.compared, a.set_aside) for a in read(report).authors} == {
        BIG: (4, 4, {}), FEW: (4, 0, {"short": 4}), SMALL: (4, 4, {}),
    }  # fmt: skip
    assert max(map(len, table.splitlines())) <= 100


def test_a_sample_is_drawn_by_the_prompts_and_the_seed():
    groups = [Group(Prompt.of(f"{i}?"), (Completion("a"),)) for i in range(20)]
    few = {g.prompt.id for g in drawn(groups, 5, 0)}
    assert len(few) == 5
    assert few == {g.prompt.id for g in drawn(groups[::-1], 5, 0)} != {g.prompt.id for g in drawn(groups, 5, 1)}
    assert read(make(audit(compared(), Rule(goods), sample=2))).overall.pairs == 6
    with pytest.raises(UserError, match="a number of prompts"):
        drawn(groups, -1, 0)


@stage(Groups, name="labelled-groups")
def people(work: Work, n: int = 2, scored: bool = False) -> None:
    """People's labels of the first prompts, in another order: the small model's answer beats the one with few shots."""
    prompt = [Prompt.of(f"{i}?") for i in range(n)]
    answers = (Completion("good."), Completion("good and good."))
    rows = [Group(p, answers) for p in prompt]
    if scored:
        rows = [g.with_feedback([Feedback("people", score=1.0), Feedback("people", score=2.0)]) for g in rows]
    else:
        rows = [g.with_preferences([Preference(0, 1, 0.0, "people")]) for g in rows]
    write_jsonl(work.dir / "groups.jsonl", rows)
    work.count("groups", n)


@pytest.mark.parametrize("scored", [True, False])
def test_labels_that_are_there_are_read_by_prompt_and_texts(scored):
    """Of 12 pairs people labelled two, both against the assumed order; the others count as abstentions."""
    found = read(make(audit(compared(), people(scored=scored))))
    assert (found.overall.pairs, found.overall.abstained, found.overall.agreement.mean) == (2, 10, 0.0)


def test_a_kill_between_shards_changes_nothing(store):
    """A comparer that breaks once: the run goes on where it stood, and the report is the same."""
    whole = make(audit(compared(6), Rule(goods)))
    BROKEN.append(True)
    with pytest.raises(ConnectionError):
        make(audit(compared(6), Rule(breaking), machine=Machine(shard=4)))
    again = make(audit(compared(6), Rule(breaking), machine=Machine(shard=4)))
    assert told(read(again)) == told(read(whole))


BROKEN: list[bool] = []


def breaking(text: str) -> int:
    if BROKEN and "and" in text:
        BROKEN.clear()
        raise ConnectionError
    return goods(text)


def test_soft_and_reversed_preferences_are_read_as_what_they_say():
    group = Group(Prompt.of("q"), (Completion("a"), Completion("b")), preferences=(
        Preference(0, 1, 0.2, "c", raw=("size: x > y",)), Preference(0, 1, 0.5, "c"), Preference(0, 1, 1.0, "d"),
    ))  # fmt: skip
    (pair,) = pairs_of(group, "c")
    assert [c.text for c in pair.completions] == ["b", "a"]
    assert pair.preferences[0].p == 0.8
    assert rule_of(pair.preferences[0]) == "size"
    assert rule_of(Preference(0, 1, 1.0)) == "not said"
    judged = pair.with_preferences([Preference(1, 0, 0.25, "judge")])
    assert agreement("x", [judged]).agreement.mean == 0.75


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(UserError, match="nothing was compared; groups with preferences"):
        make(audit(made_up(), Rule(goods)))
    with pytest.raises(UserError, match=r'nothing was compared by "generatr".*Did you mean "generator"'):
        make(audit(compared(), Rule(goods), assumed="generatr"))
    with pytest.raises(UserError, match="generator, generator:almost all compared"):
        make(audit(judge(compared(), ByGenerator(TIERS, pairs="almost")), Rule(goods)))
    with pytest.raises(UserError, match="it says nothing of the 12 pairs"):
        make(audit(compared(), people(n=0)))
    with pytest.raises(UserError, match=r"audit\(by\)"):
        make(audit(compared(), Praise()))
