"""What every round bought: curves of several methods, their gains, and how a report shows them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from tests import folders
from tests.evaluate.graded import graded
from trueline import models
from trueline.errors import UserError
from trueline.evaluate.control import Controlled, control
from trueline.evaluate.fluency import fluency
from trueline.evaluate.qualities import Written, qualities
from trueline.evaluate.report import Arm, report
from trueline.evaluate.rounds import RoundByRound, Rounds, read_rounds, rounds
from trueline.evaluate.sections import painted, section
from trueline.pipeline import Work, make, stage
from trueline.records import write_jsonl
from trueline.store import Logprobs, using


@stage(Logprobs, name="logprobs-of-a-round")
def by_hand(work: Work, logps: dict[str, float]) -> None:
    """Log-probs as given."""
    write_jsonl(work.dir / "logprobs.jsonl", [{"key": k, "logps": [v], "counts": [1]} for k, v in logps.items()])


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def answers(level, n=30, labels=False, **more):
    """n prompts of two answers, scored around `level`."""
    rows = tuple((level + 0.01 * (i % 5), level - 0.01 * (i % 3)) for i in range(n))
    said = tuple(("kind", "rude" if i % 4 else None) for i in range(n)) if labels else ()
    return graded(rows, labels=said, **more)


def methods():
    start = answers(0.3)
    return (
        Rounds("Quark", (start, answers(0.5), answers(0.7))),
        Rounds("ALT-RM", (start, answers(0.4), answers(0.302))),
    )


def test_the_course_of_two_methods():
    """Quark rises by 0.4 in two rounds, ALT-RM by 0.002: apart, and not."""
    made = make(rounds(methods()))
    found = read_rounds(made)
    assert isinstance(found, RoundByRound) and (found.prompts, found.unmatched) == (30, 0)
    quark, alt = found.methods
    assert [one.round for one in quark.rounds] == [0, 1, 2] and quark.by == "gold"
    assert quark.gain.mean == pytest.approx(0.4) and quark.gain.n == 30 and quark.apart
    assert alt.gain.mean == pytest.approx(0.002) and not alt.apart
    assert quark.rounds[0].answers == alt.rounds[0].answers
    lines = (made.path / "table.txt").read_text().splitlines()
    assert lines[0].split() == ["method", "round", "score", "chars", "distinct-2", "cut", "%"]
    assert any(line.startswith("Quark: round 2 less round 0 +0.400") and "do not touch" in line for line in lines)
    assert any(line.startswith("ALT-RM: round 2 less round 0 +0.00") and line.endswith("touch.") for line in lines)
    assert json.loads((made.path / "report.json").read_text())["prompts"] == 30


def test_toxicity_fluency_and_kl_where_they_were_measured(tmp_path):
    """KL: own less reference log-probs, (-1 + 1.5 + -2 + 3.5) / 2 = 1."""
    reference = models.pretrained(folders.folder(tmp_path / "reference"))
    start, after = answers(0.3, n=4), answers(0.7, n=4)
    logps = by_hand({"a": -1.0, "b": -2.0}), by_hand({"a": -1.5, "b": -3.5})
    method = Rounds("Quark", (start, after), (fluency(start, reference), fluency(after, reference)), (logps, logps))
    made = make(rounds((method,), toxicity="gold"))
    first, last = read_rounds(made).methods[0].rounds
    assert first.kl.mean == 1.0 and first.fluency.answers == 8
    assert last.toxicity.maximum.mean < first.toxicity.maximum.mean
    head = (made.path / "table.txt").read_text().splitlines()[0]
    assert all(word in head for word in ("toxicity", "perplexity", "of tokens", "KL"))
    assert len(section(made).charts) == 6


def test_only_common_prompts_count():
    method = Rounds("Quark", (answers(0.3), answers(0.5, n=29)))
    found = read_rounds(make(rounds((method,))))
    assert (found.prompts, found.unmatched) == (29, 1)
    assert all(one.answers.score.n == 29 for one in found.methods[0].rounds)
    with pytest.raises(UserError, match=r"20 of 30 prompts are in every arm \(Quark, round 0 30, Quark, round 1 20\)"):
        make(rounds((Rounds("Quark", (answers(0.3), answers(0.5, n=20))),)))


def test_one_round_has_no_gain():
    found = read_rounds(make(rounds((Rounds("Quark", (answers(0.3),)),)))).methods[0]
    assert found.gain is None and not found.apart


def test_refusals(tmp_path):
    start, policy = answers(0.3), models.pretrained(folders.folder(tmp_path / "reference"))
    with pytest.raises(UserError, match="it has no round"):
        Rounds("Quark", ())
    with pytest.raises(UserError, match="fluency has 1 entries for 2 rounds"):
        Rounds("Quark", (start, answers(0.4)), (fluency(start, policy),))
    with pytest.raises(UserError, match=r"fluency of round 1: fluency-\w+ is of graded"):
        Rounds("Quark", (start, answers(0.4)), (fluency(start, policy),) * 2)
    with pytest.raises(UserError, match="each with a name of its own"):
        make(rounds((methods()[0], methods()[0])))
    with pytest.raises(UserError, match=r"on Quark, round 1: no answer has a score by gold.*silver"):
        make(rounds((Rounds("Quark", (start, answers(0.4, by="silver"))),), by="gold"))
    with pytest.raises(UserError, match="no critic scored every arm"):
        make(rounds((Rounds("Quark", (start, answers(0.4, by="silver"))),)))
    with pytest.raises(UserError, match="it is no course of rounds"):
        read_rounds(make(start))


# --- in a report -----------------------------------------------------------------------------------------------------


def test_a_report_draws_rounds_control_and_qualities():
    course = methods()
    asked = tuple(answers(level, ask=f"{name}. ") for name, level in (("Excellent", 0.8), ("Good", 0.6), ("Bad", 0.2)))
    sft, quark = answers(0.3, labels=True), answers(0.7, labels=True)
    told = (
        rounds(course),
        control((Controlled("Quark", asked, ("Excellent", "Good", "Harmless and not helpful")),), label="classes"),
        qualities((Written("SFT", sft), Written("Quark", quark)), toxicity="gold", labels="grade"),
    )
    made = make(report("Quark in the town", (Arm("SFT", sft), Arm("Quark", quark)), also=told))
    page = (made.path / "report.html").read_text()
    for title in ("Round by round", "Asked for each class: classes", "What the answers are like"):
        assert f"<h2>{title}</h2>" in page
    assert "Quark, how it was labelled" in page and "<figcaption>Quark</figcaption>" in page
    text = (made.path / "table.txt").read_text()
    assert "come out in the order asked for" in text and "distinct-2 / words" in text
    drawn = [chart for one in told for chart in section(one, {"SFT": 0, "Quark": 1}).charts]
    assert len(drawn) == 3 + 1 + 5
    for chart in drawn:
        frame = ET.fromstring(str(chart)).find("svg")
        _, _, width, height = map(float, frame.get("viewBox").split())
        for mark in frame.iter():
            for name, most in (("cx", width), ("x1", width), ("x2", width), ("cy", height), ("y1", height)):
                assert mark.get(name) is None or -0.01 <= float(mark.get(name)) <= most + 0.01


def test_an_arm_keeps_its_colour_below_the_table():
    named = section(make(rounds(methods())), {"SFT": 0, "ALT-RM": 1}).names
    assert named == ((2, "Quark"), (1, "ALT-RM"))
    assert painted([str(i) for i in range(9)], {}) == {str(i): 1 + i % 7 for i in range(9)}


def test_a_report_without_a_table_is_refused(tmp_path):
    made = make(qualities((Written("a", answers(0.5)),)))
    (made.path / "table.txt").unlink()
    with pytest.raises(UserError, match="it has no table; a climb, rounds, control"):
        section(made)
