"""How answers were labelled: shares over prompts, abstentions as a row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluate.graded import groups
from trueline.evaluate.labels import labels, labels_of
from trueline.records import Feedback

LABELS = st.lists(st.lists(st.sampled_from(["good", "bad", None]), min_size=1, max_size=4), min_size=1, max_size=5)


def of(rows):
    return groups([(None,) * len(row) for row in rows], labels=rows)


def test_worked():
    """q0: good, good, bad, -; q1: bad, -. good (2/4 + 0) / 2, bad (1/4 + 1/2) / 2, no label (1/4 + 1/2) / 2.

    Of those labelled: good (2/3 + 0) / 2, bad (1/3 + 1) / 2.
    """
    found = labels(of([("good", "good", "bad", None), ("bad", None)]), "grade", ("fair", "good"))
    assert [(row.label, row.count) for row in found.rows] == [("fair", 0), ("good", 2), ("bad", 2), (None, 2)]
    assert [row.share.mean for row in found.rows] == pytest.approx([0, 0.25, 0.375, 0.375])
    assert [row.of_labelled.mean for row in found.rows[:3]] == pytest.approx([0, 1 / 3, 2 / 3])
    assert found.rows[3].of_labelled is None and found.samples == 6


def test_one_answer_to_a_prompt_has_wilsons_interval():
    """8 of 10: 0.4902 to 0.9433."""
    found = labels(of([("good",)] * 8 + [("bad",)] * 2), "grade").rows[0].share
    assert (round(found.low, 4), round(found.high, 4)) == (0.4902, 0.9433)


def test_a_label_that_nobody_got_is_not_ruled_out():
    never = labels(of([("good", "bad")] * 20), "grade", ("awful",)).rows[0].share
    assert never.mean == 0 and never.high > 0.1


def test_the_last_label_of_that_critic_counts():
    (group,) = of([("good", "bad")])
    group = group.with_feedback([Feedback("other", label="x"), Feedback("grade", label="fair")])
    assert labels_of(group, "grade") == ["good", "fair"] and labels_of(group, "nobody") == [None, None]


@given(LABELS)
def test_shares_add_up_to_one(rows):
    found = labels(of(rows), "grade")
    assert sum(row.share.mean for row in found.rows) == pytest.approx(1)
    assert sum(row.count for row in found.rows) == found.samples == sum(map(len, rows))
    known = [row.of_labelled.mean for row in found.rows if row.of_labelled is not None]
    assert not known or sum(known) == pytest.approx(1)
