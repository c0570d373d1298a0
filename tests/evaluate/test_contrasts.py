"""`contrasts` and `select`: worked by hand, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from trueline.errors import UserError
from trueline.evaluate.contrasts import Contrast, Contrasted, contrasts
from trueline.evaluate.select import select
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Feedback, Group, Prompt, write_jsonl
from trueline.store import Groups, Policy, Store, using


@stage(Groups, rev=1)
def scored(work: Work, scores: tuple[float | None, ...], name: str = "") -> None:
    groups = (
        Group(
            Prompt.of(f"q{i}"),
            (Completion(f"{name}{i}"),),
            ((Feedback("gold", score=s, raw=None if s is not None else "?"),),),
        )
        for i, s in enumerate(scores)
    )
    work.count("groups", write_jsonl(work.dir / "groups.jsonl", groups))


@stage(Policy, rev=1)
def policy(work: Work, name: str) -> None:
    (work.dir / "config.json").write_text(f'{{"name": "{name}"}}')


ARMS = {"B": (0.5, 0.4), "C": (1.0, 0.6), "E": (0.9, 0.7), "F": (1.0, 0.7)}


def test_gains_and_gains_over_gains_are_paired_by_prompt(tmp_path):
    """C - B: (0.5 + 0.2) / 2 = 0.35. (C - B) - (F - E): C + E - B - F is 0.4 and 0.2, 0.3 in the mean."""
    with using(Store(tmp_path)):
        wanted = (
            Contrast("C - B", ("C",), ("B",), "the critic is stronger"),
            Contrast("difference", ("C", "E"), ("B", "F")),
        )
        report = contrasts(tuple((name, scored(s, name)) for name, s in ARMS.items()), wanted)
        make(report)
        found = msgspec.json.decode((report.path / "report.json").read_bytes(), type=Contrasted).found
        table = (report.path / "table.txt").read_text()
    assert [one.gain.mean for one in found] == pytest.approx([0.35, 0.3])
    assert "the critic is stronger" in table and "paired over 2 prompts" in table


def test_a_prompt_without_a_score_in_one_arm_is_in_no_gain(tmp_path):
    """C - B where B has no score on the second prompt: 0.5 from the first alone."""
    with using(Store(tmp_path)):
        arms = (("B", scored((0.5, None), "B")), ("C", scored((1.0, 0.6), "C")))
        report = contrasts(arms, (Contrast("C - B", ("C",), ("B",)),))
        make(report)
        (one,) = msgspec.json.decode((report.path / "report.json").read_bytes(), type=Contrasted).found
    assert one.gain.mean == pytest.approx(0.5) and one.gain.n == 1


def test_an_arm_that_is_not_there_is_refused(tmp_path):
    with using(Store(tmp_path)), pytest.raises(UserError, match='no arm is named "D"'):
        make(contrasts((("B", scored((1.0,), "B")),), (Contrast("D - B", ("D",), ("B",)),)))
    with pytest.raises(UserError, match="2 arms less 1"):
        Contrast("uneven", ("A", "B"), ("C",))


def test_the_candidate_with_the_best_answers_is_taken_and_the_first_of_equals(tmp_path):
    with using(Store(tmp_path)):
        candidates = tuple(policy(name) for name in "abc")
        graded = (scored((0.2, 0.4), "a"), scored((0.6, 0.4), "b"), scored((0.4, 0.6), "c"))
        chosen = select(candidates, graded)
        make(chosen)
        assert (chosen.path / "config.json").read_text() == '{"name": "b"}'
        said = msgspec.json.decode((chosen.path / "selection.json").read_bytes())
        assert said["chosen"] == candidates[1].name
        assert list(said["means"].values()) == pytest.approx([0.3, 0.5, 0.5])
        with pytest.raises(UserError, match="3 candidates and 2 sets of answers"):
            make(select(candidates, graded[:2]))
