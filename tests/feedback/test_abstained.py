"""A critic that says nothing too often stops the run, with the share and its last replies; below that it is counted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from trueline.errors import UserError
from trueline.feedback.abstained import FIRST, Abstained
from trueline.feedback.compare import Compare
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Verdict
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Feedback, Group, Prompt, write_jsonl
from trueline.store import Groups, using


@stage(Groups, name="abstained_answers")
def answers(work: Work, texts: tuple[tuple[str, ...], ...]) -> None:
    rows = [Group(Prompt.of(f"q{i}"), tuple(Completion(t) for t in of)) for i, of in enumerate(texts)]
    write_jsonl(work.dir / "groups.jsonl", rows)


@dataclass(frozen=True)
class Picky:
    """Has nothing to say of a text with a "?", and says why."""

    name: str = "picky"

    def calls(self, groups, completions):
        return completions

    def __call__(self, groups):
        def said(text):
            return Feedback(self.name, raw=f"eh, {text}") if "?" in text else Feedback(self.name, score=1.0)

        return [group.with_feedback(said(c.text) for c in group.completions) for group in groups]


BROKEN: list[str] = []


@dataclass(frozen=True)
class Breaking(Picky):
    """Breaks at a text that is in `BROKEN`."""

    def __call__(self, groups):
        if any(c.text in BROKEN for group in groups for c in group.completions):
            raise RuntimeError("broken")
        return super().__call__(groups)


@dataclass(frozen=True)
class Shy:
    """A comparer without an opinion on answers with a "?"."""

    name: str = "shy"

    def compare(self, items):
        return [Verdict(None if "?" in a + b else 0.7, "well") for _, a, b in items]


def test_a_share_of_half_passes_and_more_stops_with_the_last_replies(tmp_path):
    """2 of 4 is a half; 3 of 4 is not. What was judged stays aligned: a None in the abstention's place."""
    judged = make(judge(answers((("a", "b?"), ("c?", "d"))), Picky()), store=tmp_path)
    with using(tmp_path):
        assert [g.scores() for g in judged.read()] == [[1.0, None], [None, 1.0]]
        assert judged.record["counts"]["abstained"] == 2
    texts = (("a", "b?"), ("c?", "d?"))
    with pytest.raises(UserError) as caught:
        make(judge(answers(texts), Picky()), store=tmp_path)
    assert str(caught.value) == (
        "critic picky: it abstained on 3 of 4 (75.0%); its last replies: 'eh, b?'; 'eh, c?'; 'eh, d?'; "
        "at most 50.0% of all may be abstentions. "
        "Mend what it is asked, or whom; or allow more with judge(..., max_abstained=...)."
    )
    make(judge(answers(texts), Picky(), max_abstained=0.75), store=tmp_path)


def test_the_default_share_is_part_of_no_identity():
    given = answers((("a",),))
    assert judge(given, Picky()).fingerprint == judge(given, Picky(), max_abstained=0.5).fingerprint
    assert judge(given, Picky()).fingerprint != judge(given, Picky(), max_abstained=0.4).fingerprint
    assert "max_abstained" not in judge(given, Picky()).identity_inputs


def test_a_hopeless_run_stops_before_it_has_asked_everything(tmp_path):
    """Of 10 answers in shards of 2 at most 3 may abstain: the fourth, in the second shard, ends it."""
    texts = tuple((f"{i}?", f"{i + 1}?") for i in range(5))
    judged = judge(answers(texts), Picky(), max_abstained=0.3)
    with pytest.raises(UserError, match=r"4 of 4 \(100.0%\)"):
        make(judged, store=tmp_path, machine=Machine(shard=1))


def test_a_critic_that_never_says_anything_stops_after_the_first_hundred(tmp_path):
    """Long before half of 300 answers; with an opinion it goes on to the 151st abstention, in shard 16."""
    for first, message in (("?", rf"{FIRST} of {FIRST} "), ("a", "159 of 160 ")):
        with pytest.raises(UserError, match=message):
            judged = judge(answers(((first,), *(("?",),) * 299)), Picky())
            make(judged, store=tmp_path, machine=Machine(shard=10))


def test_the_shards_do_not_decide():
    """Counted group by group or all at once: the same share, and the same replies are shown."""
    before = [Group(Prompt.of(str(i)), (Completion("a"), Completion("b?"))) for i in range(5)]
    after = Picky()(before)
    one, many = Abstained("picky", 0.4), Abstained("picky", 0.4)
    one.add(before, after)
    for old, new in zip(before, after, strict=True):
        many.add([old], [new])
    assert vars(one) == vars(many)
    with pytest.raises(UserError, match="5 of 10"):
        one.check()


def test_an_earlier_critic_of_that_name_is_not_counted(tmp_path):
    """Judged twice by one critic: the share is that of what was added."""
    once = judge(answers((("a", "b?"),)), Picky())
    make(judge(once, Picky(), label="again"), store=tmp_path)


def test_pairs_count_too(tmp_path):
    """Pairs (a, b) and (c, d?): one abstains of two; then one of one."""
    make(judge(answers((("a", "b"), ("c", "d?"))), Compare(Shy())), store=tmp_path)
    with pytest.raises(UserError, match=r"critic compare:shy: it abstained on 1 of 1 \(100.0%\).*'well | well'"):
        make(judge(answers((("c", "d?"),)), Compare(Shy())), store=tmp_path)


def test_the_share_of_a_run_that_goes_on_is_that_of_all(tmp_path):
    """Two groups were judged when the first run broke; the third alone, 1 of 2, would pass; 4 of 6 do not."""
    judged = judge(answers((("a?", "b?"), ("c?", "d"), ("e", "f?"))), Breaking())
    BROKEN.append("e")
    with pytest.raises(RuntimeError):
        make(judged, store=tmp_path, machine=Machine(shard=1))
    BROKEN.clear()
    with pytest.raises(UserError, match=r"4 of 6 \(66.7%\)"):
        make(judged, store=tmp_path, machine=Machine(shard=1))


def test_a_share_is_a_share(tmp_path):
    with pytest.raises(UserError, match=r"judge\(max_abstained=...\)"):
        make(judge(answers((("a",),)), Picky(), max_abstained=2.0), store=tmp_path)
