"""Reports: every number traced to a record, a headline that does not claim more than the interval, a harmless page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import msgspec
import pytest

from tests.evaluate.study import Reader, marks, pretend, questions, study, written
from trueline.errors import UserError
from trueline.evaluate.duel import duel
from trueline.evaluate.report import Arm, report
from trueline.evaluate.results import Result
from trueline.feedback.compare import Compare
from trueline.feedback.judge import judge
from trueline.feedback.rule import Rule
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import Groups, Logprobs, Report, using

EVIL = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'


def result_of(made: Report) -> Result:
    return msgspec.json.decode((made.path / "report.json").read_bytes(), type=Result)


@stage(Groups, name="told")
def told(work: Work, texts: tuple[str, ...], prompt: str = "What is new?") -> None:
    """One prompt per text, and the text as its answer."""
    groups = [Group(Prompt.of(prompt, id=f"t{i}", reference=EVIL), (Completion(t),)) for i, t in enumerate(texts)]
    write_jsonl(work.dir / "groups.jsonl", groups)


@stage(Logprobs, name="logprobs-by-hand")
def by_hand(work: Work, logps: dict[str, float]) -> None:
    """Log-probs as given."""
    write_jsonl(work.dir / "logprobs.jsonl", [{"key": k, "logps": [v], "counts": [1]} for k, v in logps.items()])


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The study's report, made once, and its store in force."""
    store = tmp_path_factory.mktemp("store")
    with using(store):
        yield make(study(n=90))


def test_the_report_of_a_study(tour):
    """DPO's answers are written around 0.68, SFT's around 0.5: the gain is real, and each figure has its source."""
    result = result_of(tour)
    assert (result.baseline, result.score_by) == ("SFT", "rule:marks")
    dpo, sft = result.arm("DPO"), result.arm("SFT")
    assert result.headline[0].figure == "DPO beats SFT."
    assert dpo.gap.excludes_zero
    assert dpo.gap.mean == pytest.approx(dpo.answers.score.mean - sft.answers.score.mean)
    assert (sft.gap, sft.win, sft.colour) == (None, None, 0)
    compared = next(step for step in result.steps if step.name.startswith("compared-"))
    assert dpo.cost.feedback == compared.counts["critic_calls"] > 0
    assert dpo.cost.train_tokens == 300 * (90 + 160)
    assert sft.cost.train_tokens == 300 * 90
    assert sft.cost.feedback == 0
    assert dpo.cost.samples == 90 + 4 * 90
    names = {step.name for step in result.steps}
    assert {parent for step in result.steps for parent in step.parents} <= names, "every parent is listed"
    assert dpo.duel in names and dpo.policy in names and dpo.samples in names
    assert result.arm("base").win.rate.mean < 0.5


def test_the_table_fits_and_explains_itself(tour):
    text = (tour.path / "table.txt").read_text()
    assert max(map(len, text.splitlines())) <= 100
    for part in ("rule:marks", "win % vs SFT", "±: half the 95% interval over 90 prompts", "DPO beats SFT."):
        assert part in text
    row = next(line for line in text.splitlines() if line.strip().startswith("DPO "))
    assert re.search(r"DPO\s+0\.\d+ ±0\.\d+\s+\d\d\.\d ±\d\.\d", row)


class Page(HTMLParser):
    """Collects what a browser would load, run or follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts = 0
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.scripts += tag == "script"
        self.loads += [values[name] for name in ("src", "srcset", "data", "poster") if values.get(name)]
        if tag in ("link", "iframe", "object", "embed", "img", "base"):
            self.loads.append(tag)
        self.handlers += [name for name in values if name.startswith("on")]
        self.ids += [values["id"]] if "id" in values else []
        self.anchors += [values["href"]] if "href" in values else []


def test_the_page_is_whole_in_itself(tour):
    """Nothing is loaded from anywhere, every link leads to a row of the page, no id stands twice."""
    text = (tour.path / "report.html").read_text()
    page = Page(text)
    assert page.loads == []
    assert "url(" not in text and "@import" not in text
    assert page.scripts == 1
    assert set(page.anchors) <= {"#" + id for id in page.ids}
    assert len(page.ids) == len(set(page.ids))
    assert text.count('class="sample"') == 60
    assert "The first 60 of 90 prompts" in text
    for title in ("Loss", "Preferred scored higher", "Length of the answers", "Wins of DPO, by length"):
        assert title in text
    assert len(text) < 400_000


def test_what_a_model_wrote_cannot_run(tmp_path):
    """Prompt, reference, answer, arm and title hold a script: none of it becomes a tag, the policy bars the rest."""
    arm = Arm(EVIL, judge(told((EVIL, EVIL), prompt=EVIL), Rule(marks), max_abstained=1.0))
    made = make(report(EVIL, (arm,)), store=tmp_path)
    with using(tmp_path):
        text = (made.path / "report.html").read_text()
    page = Page(text)
    assert page.scripts == 1
    assert page.loads == page.handlers == []
    assert "&lt;/script&gt;&lt;script&gt;" in text
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", text)
    assert "default-src 'none'" in text


def test_a_difference_that_may_be_chance_is_called_that(tmp_path):
    """DPO's answers are written around 0.51 and SFT's around 0.5: 30 prompts cannot tell, and the headline says so."""
    made = make(study(n=30, dpo=0.51), store=tmp_path)
    with using(tmp_path):
        result = result_of(made)
    gap = result.arm("DPO").gap
    assert not gap.excludes_zero
    assert re.fullmatch(
        r"DPO and SFT cannot be told apart\.|Nothing beats SFT; DPO cannot be told apart from it\.",
        result.headline[0].figure,
    )


def test_a_win_that_is_all_length_is_called_that(tmp_path):
    """DPO is no better but three times as long, and the judge likes length: it wins raw, and not at equal length."""
    asked, policy = questions(150), pretend()
    sides = [written(policy, asked, 0.5, wordy=wordy, label=label) for wordy, label in ((3, "wordy"), (1, "plain"))]
    fight = duel(*sides, Compare(Reader(position=0.0, length=3.0)))
    made = make(report("length", (Arm("plain", sides[1]), Arm("wordy", sides[0])), (fight,)), store=tmp_path)
    with using(tmp_path):
        result = result_of(made)
    wordy = result.arm("wordy")
    assert wordy.win.rate.shifted(-0.5).excludes_zero
    assert wordy.length.length_effect > 1
    assert wordy.length.adjusted.mean < wordy.win.rate.mean - 0.1
    answer = next(a for a in result.headline if a.question == "Is it just longer?")
    assert answer.text.endswith(("length may explain the win.", "length carried it."))


def test_kl_is_the_mean_log_ratio_of_an_arms_own_answers(tmp_path):
    """Answers with log-probs -1 and -2 under the arm, -1.5 and -3.5 under the reference: (0.5 + 1.5) / 2 = 1 nat."""
    own, reference = by_hand({"a": -1.0, "b": -2.0}), by_hand({"a": -1.5, "b": -3.5})
    arm = Arm("DPO", told(("x", "y")), logps=own, reference_logps=reference)
    made = make(report("kl", (arm,)), store=tmp_path)
    with using(tmp_path):
        assert result_of(made).arm("DPO").kl.mean == pytest.approx(1.0)
        assert "KL" in (made.path / "table.txt").read_text()


def test_without_scores_or_duels_nothing_is_claimed(tmp_path):
    made = make(report("bare", (Arm("a", told(("x",))), Arm("b", told(("y",))))), store=tmp_path)
    with using(tmp_path):
        assert result_of(made).headline[0].figure == "Nothing was compared."


def test_a_duel_counts_for_an_arm_from_either_side(tmp_path):
    """duel(SFT, DPO) says of DPO what duel(DPO, SFT) says: the report looks at it from the arm's side."""
    asked, policy = questions(20), pretend()
    one, other = written(policy, asked, 0.8, label="one"), written(policy, asked, 0.4, label="other")
    critic = Compare(Reader())
    arms = (Arm("other", other), Arm("one", one))
    there = report("there", arms, (duel(one, other, critic),), baseline="other")
    back = report("back", arms, (duel(other, one, critic),), baseline="other")
    make(there, back, store=tmp_path)
    with using(tmp_path):
        a, b = result_of(there).arm("one"), result_of(back).arm("one")
        assert a.win.rate.mean > 0.6
        for field in ("mean", "se", "low", "high"):
            assert getattr(a.win.rate, field) == pytest.approx(getattr(b.win.rate, field))
            assert getattr(a.length.not_longer, field) == pytest.approx(getattr(b.length.not_longer, field))
        assert (a.win.wins, a.win.flips) == (b.win.wins, b.win.flips)


def test_the_browser_can_filter_by_what_happened(tour):
    """The tags of the samples and the choices of the filter are the same words."""
    text = (tour.path / "report.html").read_text()
    choices = set(re.findall(r'<option value="([^"]+)"', text))
    tags = {tag for of in re.findall(r'data-tags="([^"]*)"', text) for tag in of.split()}
    assert choices == tags
    assert any(choice.startswith("win-") for choice in choices)


def test_records_in_the_page_are_those_of_the_store(tour):
    result = result_of(tour)
    step = next(step for step in result.steps if step.stage == "judge")
    on_disk = json.loads((tour.path.parents[1] / "groups" / step.name / "record.json").read_bytes())
    assert step.record["fingerprint"] == on_disk["fingerprint"]
    assert step.counts == on_disk["counts"]


def test_reports_that_cannot_be_made_are_refused_by_the_plan(tmp_path):
    a, b, c = (told((text,), label=text) for text in "abc")
    arms, critic = (Arm("A", a), Arm("B", b)), Compare(Reader())
    wrong = {
        "arms named": report("t", (Arm("A", a), Arm("A", b))),
        "Known: A, B": report("t", arms, baseline="b"),
        "the samples of one of the arms": report("t", arms, (duel(c, a, critic),)),
        "it compares A and B": report("t", (*arms, Arm("C", c)), (duel(a, b, critic),), baseline="C"),
        "the duels are against A and B": report("t", arms, (duel(a, b, critic), duel(b, a, critic))),
    }
    with using(tmp_path):
        for message, made in wrong.items():
            with pytest.raises(UserError, match=message):
                _ = made.count
    with pytest.raises(UserError, match="no such score on A, B"):
        make(report("t", arms, score="gold"), store=tmp_path)
    with pytest.raises(UserError, match="a handle on Groups"):
        Arm("A", pretend(), a)


def test_arms_that_met_one_baseline_are_paired_by_prompt(tour):
    """base and DPO both met SFT on the same 90 prompts: their difference is the mean over prompts, not of two bars."""
    result = result_of(tour)
    (pair,) = result.paired
    assert (pair.first, pair.second, pair.win.n) == ("base", "DPO", 90)
    rates = [result.arm(name).win.rate.mean for name in ("base", "DPO")]
    assert pair.win.mean == pytest.approx(rates[0] - rates[1])
    assert pair.win.excludes_zero and pair.sign < 0.01
    assert pair.ahead + pair.behind <= 90
    text = (tour.path / "table.txt").read_text()
    assert "Arm against arm" in text and "base − DPO" in text
    assert "Arm against arm" in (tour.path / "report.html").read_text()


def test_with_two_others_the_difficulty_of_the_prompts_is_known(tmp_path):
    """Three arms against one: each arm's equal-length rate has the two others for others; of two arms none has any.

    Without scores the best arm's rivals are those whose paired win rate cannot be told from its own.
    """
    asked, policy = questions(40), pretend()
    sides = {
        name: written(policy, asked, q, label=name) for name, q in (("z", 0.5), ("a", 0.8), ("b", 0.79), ("c", 0.3))
    }
    duels = {name: duel(sides[name], sides["z"], Compare(Reader())) for name in "abc"}
    arms = {name: Arm(name, side) for name, side in sides.items()}
    three = report("three", tuple(arms.values()), tuple(duels.values()))
    two = report("two", (arms["z"], arms["a"], arms["b"]), (duels["a"], duels["b"]))
    make(three, two, store=tmp_path)
    with using(tmp_path):
        result = result_of(three)
        assert [result.arm(name).length.others for name in "abc"] == [2, 2, 2]
        assert [result_of(two).arm(name).length.others for name in "ab"] == [0, 0]
        assert len(result.paired) == 3
        best = "a" if result.arm("a").win.rate.mean > result.arm("b").win.rate.mean else "b"
        assert result.close == ("b" if best == "a" else "a",)
