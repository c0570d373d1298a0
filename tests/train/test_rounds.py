"""Two rounds of sampling, describing and training: what is whose parent, what is counted, what a plan says before."""

from __future__ import annotations

from tests import folders
from tests.sample import given
from trueline.conditions.critiques import Critiques
from trueline.conditions.phrases import QuantilePhrases
from trueline.feedback.judge import judge
from trueline.feedback.rule import Rule
from trueline.models import pretrained
from trueline.pipeline import make, stage
from trueline.records import Feedback, read_jsonl, write_jsonl
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.store import Groups, using
from trueline.train.conditioned import Conditioned, PerClass
from trueline.train.objectives.sft import SFT
from trueline.train.stage import train

REPLIES = ("Ada does.", "Go away.", "I do not know.", "Bert, every morning at the mill.", "Clara.")


def brief(text: str) -> float | None:
    """The shorter the better; nothing to say of ignorance."""
    return None if "not know" in text else -float(len(text))


@stage(Groups, name="criticised", estimate=lambda groups, **_: dict(groups.count))
def criticised(work, groups: Groups) -> None:
    """A critique and a score per answer."""
    said = {"Clara.": ("Short.", 3.0), "Ada does.": ("Short. ", 3.0), "Go away.": ("Rude.", 0.0)}
    rows = [
        g.with_feedback(Feedback("critic", said.get(c.text, (None, None))[1], text=said.get(c.text, (None, None))[0])
                        for c in g.completions)
        for g in groups.read()
    ]  # fmt: skip
    write_jsonl(work.dir / "groups.jsonl", rows)


def test_two_rounds(tmp_path):
    """Per prompt four of five answers have a score: halves of two, one of each is trained; the fifth is left out."""
    folders.folder(tmp_path / "model")
    condition = QuantilePhrases(("Short.", "Long."))
    sampling = Sampling(n=5, max_tokens=20)
    with using(tmp_path / "store"):
        start = pretrained(tmp_path / "model")
        first = judge(draw(Scripted(REPLIES), given.questions(), sampling), Rule(brief))
        view = Conditioned((first,), condition, PerClass(1))
        one = train(start, view, SFT(), batch_size=5, label="one")
        assert one.count["steps"] == 2  # planned: 5 prompts x 2 classes by 5
        make(one)
        assert first in one.parents
        assert one.record["counts"]["examples"] == 10 and one.record["counts"]["left_out"] == 5
        assert one.record["notes"]["left_out"] == {"the critic abstained": 5}
        assert "dropped" not in one.record["counts"]
        second = judge(draw(one, given.questions(), Sampling(n=2, max_tokens=20), condition=condition), Rule(brief))
        asked = list(make(second).read())
        assert {c.ask for g in asked for c in g.completions} == {"Short. input: "}
        assert [g.prompt for g in asked] == [g.prompt for g in first.read()]
        both = make(train(one, Conditioned((first, second), condition, PerClass(1)), SFT(), label="two"))
        assert {first, second} <= set(both.parents)
        texts = [
            e.answers[0].text for e in Conditioned((first, second), condition, PerClass(9)).examples() if e.rank >= 0
        ]
        assert len(texts) == 5 * (4 + 2)


def test_the_critiques_that_ask_are_parents(tmp_path):
    """The exemplar is chosen from the first round once it is there; the plan needs nothing of it."""
    with using(tmp_path / "store"):
        first = criticised(draw(Scripted(REPLIES), given.questions(), Sampling(n=5)))
        condition = Critiques().after((first,))
        samples = draw(Scripted(("Fine.",)), given.questions(), condition=condition)
        assert first in samples.parents
        assert samples.count == {"prompts": 5, "groups": 5, "samples": 5}
        assert make(samples).record["notes"]["asked"] == {"feedback: Short. input: ": 5}
        lines = read_jsonl(samples.path / "groups.jsonl", dict)
        assert {row["completions"][0]["ask"] for row in lines} == {"feedback: Short. input: "}
