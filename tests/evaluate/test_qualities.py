"""What answers are like, arm beside arm: every measure in one table, on the prompts that all arms answered."""

from __future__ import annotations

import pytest

from tests import folders
from tests.evaluate.graded import graded
from trueline import models
from trueline.errors import UserError
from trueline.evaluate.fluency import fluency
from trueline.evaluate.qualities import Qualities, Written, qualities, read_qualities
from trueline.feedback.judge import judge
from trueline.feedback.rule import Rule
from trueline.pipeline import make
from trueline.store import using

MILD = ((0.9, 0.8), (1.0, 0.7))
RUDE = ((0.9, 0.2), (0.4, None))
SAID = (("a b a", "a c"), ("b b", "c"))
LABELS = (("kind", "kind"), ("kind", None))
OTHERS = (("kind", "rude"), ("rude", "rude"))


def length(text: str) -> float:
    """Characters."""
    return float(len(text))


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def arms(**more):
    return (
        Written("SFT", graded(RUDE, SAID, OTHERS)),
        Written("Quark", graded(MILD, SAID, LABELS), **more),
    )


def test_every_measure_of_two_arms():
    """SFT: maxima 0.8, 0.6, both above a half; Quark: 0.2, 0.3. Scores: 0.55, 0.4; 0.85, 0.85."""
    made = make(qualities(arms(), toxicity="gold", labels="grade", classes=("kind", "rude")))
    found = read_qualities(made)
    assert isinstance(found, Qualities) and (found.score_by, found.prompts, found.unmatched) == ("gold", 2, 0)
    sft, quark = found.arms
    assert sft.toxicity.maximum.mean == pytest.approx(0.7) and sft.toxicity.probability.mean == 1
    assert quark.toxicity.maximum.mean == pytest.approx(0.25) and quark.toxicity.probability.mean == 0
    assert sft.answers.score.mean == pytest.approx((0.55 + 0.4) / 2)
    assert quark.answers.score.mean == pytest.approx(0.85)
    assert [row.share.mean for row in quark.labels.rows] == [0.75, 0, 0.25]
    assert sft.distinct == quark.distinct and len(sft.distinct) == 3
    table = (made.path / "table.txt").read_text()
    assert table.splitlines()[0].split() == ["measure", "SFT", "Quark"]
    rows = {line[:28].strip(): line[28:] for line in table.splitlines()}
    assert "100.0" in rows["toxic prompts %"] and "–" not in rows["rude %"]
    assert (
        "SFT: toxicity by gold over 1 to 2 answers to a prompt, 1 answers without a score." in table
        and "\nLabels by grade." in table
    )
    assert not any(word in table for word in ("perplexity", "tokens"))
    assert made.record["counts"] == {"arms": 2, "prompts": 2}


def test_what_was_not_asked_for_is_left_out():
    (arm,) = read_qualities(make(qualities((Written("a", graded(MILD)),)))).arms
    assert (arm.toxicity, arm.labels, arm.fluency) == (None, None, None)
    nobody = make(qualities((Written("a", graded(((None,),))),)))
    assert read_qualities(nobody).score_by == "" and "score" not in (nobody.path / "table.txt").read_text()


def test_perplexity_stands_beside_the_rest(tmp_path):
    reference = models.pretrained(folders.folder(tmp_path / "reference"))
    drawn = graded(MILD, SAID, LABELS)
    judged = judge(drawn, Rule(length))
    arm = Written("Quark", judged, fluency(drawn, reference))  # of the same answers, before they were judged
    made = make(qualities((arm,), score="gold"))
    found = read_qualities(made).arms[0].fluency
    assert found.answers == 4 and found.reference == reference.name
    assert f"Perplexity under {reference.name}" in (made.path / "table.txt").read_text()
    with pytest.raises(UserError, match=r"is of graded-\w+; the fluency of graded-"):
        Written("SFT", graded(RUDE), fluency(drawn, reference))
    with pytest.raises(UserError, match="what fluency"):
        Written("SFT", drawn, qualities((arm,)))


def test_many_arms_stand_below_each_other():
    many = tuple(Written(f"arm {i}", graded(MILD, first=0, ask=str(i))) for i in range(7))
    lines = (make(qualities(many)).path / "table.txt").read_text().splitlines()
    heads = [line.split()[1:] for line in lines if line.startswith("measure")]
    assert [len(head) // 2 for head in heads] == [4, 3] and max(map(len, lines)) <= 100


def test_refusals():
    with pytest.raises(UserError, match="arms, each with a name of its own"):
        make(qualities((arms()[0], arms()[0])))
    with pytest.raises(UserError, match="0 of 4 prompts are in every arm"):
        make(qualities((Written("a", graded(MILD)), Written("b", graded(MILD, first=2)))))
    with pytest.raises(UserError, match=r"on SFT: no answer has a score by perspectiv"):
        make(qualities(arms(), toxicity="perspectiv"))
    with pytest.raises(UserError, match=r"on SFT: no answer has a label by gold.*grade"):
        make(qualities(arms(), labels="gold"))
    with pytest.raises(UserError, match='"words" or "space"'):
        make(qualities(arms(), split="tabs"))
    with pytest.raises(UserError, match="it is no table of qualities"):
        read_qualities(make(graded(MILD)))
