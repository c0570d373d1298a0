"""The tour: small from end to end, and at its own size what it claims."""

from __future__ import annotations

import msgspec
import pytest

from trueline.evaluate.results import Result
from trueline.pipeline import make, missing
from trueline.recipes.tour import tour
from trueline.store import Store, using


def result_of(report) -> Result:
    return msgspec.json.decode((report.path / "report.json").read_bytes(), type=Result)


def test_a_small_tour_ends_in_a_table_and_a_page_and_is_never_made_twice(tmp_path):
    with using(Store(tmp_path)):
        report = tour(demonstrations=8, prompts=8, samples=2, held_out=12)
        make(report)
        assert {p.name for p in report.path.iterdir()} >= {"report.json", "report.html", "table.txt", "record.json"}
        found = result_of(report)
        assert [arm.name for arm in found.arms] == [
            "base", "SFT", "DPO", "DPH", "best of 4", "Quark", "ALT-RM", "ALT-LMC", "ALT-LMU", "self-play", "ALMoST",
        ]  # fmt: skip
        assert all(arm.answers.score.n == 12 for arm in found.arms)
        assert found.arm("SFT").kl.mean == 0  # a policy's drift from itself, over 12 prompts
        assert missing(tour(demonstrations=8, prompts=8, samples=2, held_out=12)) == []
        # Another beta keeps everything that does not depend on it: both policies, their answers and accounts go.
        again = {a.label for a in missing(tour(demonstrations=8, prompts=8, samples=2, held_out=12, beta=0.2))}
        assert again == {
            "dpo", "answers-DPO", "graded-DPO", "logps-DPO-by-dpo", "logps-DPO-by-sft", "graded-DPO-vs-SFT",
            "dpo-dph", "answers-DPH", "graded-DPH", "logps-DPH-by-dpo-dph", "logps-DPH-by-sft", "graded-DPH-vs-SFT",
            "candidates", "best", "graded-best", "graded-best-vs-SFT", "report",
        }  # fmt: skip


@pytest.mark.slow
def test_sft_beats_base_and_dpo_beats_sft_by_more_than_chance(tmp_path):
    """Gold reward on 400 held-out questions: each step's 95 % interval lies above that of the step before."""
    with using(Store(tmp_path)):
        report = tour()
        make(report)
        found = result_of(report)
    base, sft, dpo = (found.arm(name) for name in ("base", "SFT", "DPO"))
    assert base.answers.score.high + 0.02 < sft.answers.score.low
    assert sft.answers.score.high + 0.02 < dpo.answers.score.low
    assert dpo.win.rate.low > 0.55
    assert dpo.answers.cut < 0.02
    # Two rounds of learning from the same prompts, and as many questions to a judge as the comparisons took.
    for name in ("Quark", "ALT-RM", "ALT-LMC", "ALT-LMU"):
        assert found.arm(name).answers.score.low > sft.answers.score.high
    # The best of 4 by a head that saw the same pairs is no worse than one answer, and much better than SFT's.
    assert found.arm("best of 4").answers.score.low > sft.answers.score.high + 0.02
