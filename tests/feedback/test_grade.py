"""`Grade`: one category per answer or none, asked again by another question, in as few calls as there are rounds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueline.errors import UserError
from trueline.feedback.grade import HH, Grade
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Critic, metering
from trueline.feedback.wording import Shot
from trueline.fingerprint import fingerprint
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Message, Prompt, write_jsonl
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.store import Groups, using


@dataclass(frozen=True)
class Logged:
    """An engine that says what `replies` say of an answer, the last of them from then on; it notes what happens."""

    replies: dict[str, tuple[str, ...]]
    name: str = "logged"
    cut: bool = False
    log: list[object] = field(default_factory=list, compare=False)

    def __enter__(self):
        self.log.append("open")
        return self

    def __exit__(self, *error):
        self.log.append("close")

    def generate(self, prompts, sampling):
        self.log.append(([p.messages[-1].content for p in prompts], sampling))
        told = [(self.replies[p.meta["answer"]], p.meta["try"]) for p in prompts]
        stopped = "length" if self.cut else "stop"
        return [[Completion(said[min(at, len(said)) - 1], author=self.name, stopped=stopped)] for said, at in told]

    def logprobs(self, prompts, completions):
        return [[() for _ in said] for said in completions]

    def too_long(self, prompt, sampling):
        return UserError("engine", "no room") if "LONG" in prompt.meta["answer"] else None


def groups(*texts, prompt="Who bakes?"):
    return [Group(Prompt.of(prompt), tuple(Completion(text) for text in texts))]


def labels(critic, given):
    return [[said[-1].label for said in group.feedback] for group in critic(given)]


def test_case_space_and_a_full_stop_are_forgiven_and_nothing_else():
    said = {"a": "harmless  and HELPFUL.\n", "b": "Harmful", "c": "Harmful!", "d": "Feedback: Harmful", "e": "Helpful",
            "f": "Harmful. Harmless and helpful.", "g": "", "h": "Harmless and not helpful ."}  # fmt: skip
    critic = Grade(Logged({answer: (reply,) for answer, reply in said.items()}), tries=1)
    (group,) = critic(groups(*said))
    found = [feedback[0] for feedback in group.feedback]
    assert [f.label for f in found] == [HH[1], HH[3], None, None, None, None, None, HH[2]]
    assert [f.raw for f in found] == list(said.values()), "replies stay with their answers, abstentions too"
    assert {f.by for f in found} == {"grade:logged"}
    assert all(f.abstained == (f.label is None) and f.score is None for f in found)


@given(st.sampled_from(HH), st.data())
def test_a_category_in_any_case_and_spacing_is_itself(category, data):
    words = [data.draw(st.sampled_from([w, w.upper(), w.title()])) for w in category.split()]
    spaced = data.draw(st.sampled_from([" ", "\n", "  "])).join(words) + data.draw(st.sampled_from(["", ".", " .\n"]))
    assert Grade(Scripted((spaced,))).parse(spaced).label == category


def test_what_cannot_be_read_is_asked_again_by_a_question_that_differs():
    """a is read at once, b at the second try, c never: 3 + 2 + 1 questions in 3 calls, no two alike (trap 39)."""
    engine = Logged({"a": ("Harmful",), "b": ("Er.", "harmful"), "c": ("Er.", "Hm.", "Well.")})
    critic = Grade(engine, tries=3)
    with metering() as counted:
        (group,) = critic(groups("a", "b", "c"))
    assert [said[0].label for said in group.feedback] == ["Harmful", "Harmful", None]
    assert group.feedback[2][0].raw == "Well."
    calls = [entry for entry in engine.log if isinstance(entry, tuple)]
    assert [len(asked) for asked, _ in calls] == [3, 2, 1]
    of_c = [asked[-1] for asked, _ in calls]
    assert len(set(of_c)) == 3 and all(later.startswith(of_c[0]) for later in of_c)
    assert [sampling.seed for _, sampling in calls] == [0, 1, 2]
    assert counted == {"critic_calls": 6, "asked_again": 3, "cached": 0}
    assert (engine.log[0], engine.log[-1]) == ("open", "close")


def test_no_two_tries_are_alike_whatever_the_wording_says(tmp_path):
    """A reminder of one's own without {try} is numbered all the same."""
    path = tmp_path / "mine.txt"
    path.write_text("=== user\n{asked} {answer} {categories}\n=== again\nOne line, please.\n")
    critic, prompt = Grade(Scripted(("Harmful",)), wording=path), Prompt.of("Who?")
    asked = [critic.question(prompt, "Ada.", attempt).messages[-1].content for attempt in (1, 2, 3)]
    assert [text.rpartition("\n\n")[2] for text in asked[1:]] == [
        "One line, please. (2 of 3)",
        "One line, please. (3 of 3)",
    ]
    assert len(set(asked)) == 3


def test_equal_answers_to_one_prompt_are_one_question():
    engine = Logged({"a": ("Harmful",)})
    with metering() as counted:
        (group,) = Grade(engine)(groups("a", "a", "a"))
    assert [said[0].label for said in group.feedback] == ["Harmful"] * 3
    assert len(engine.log[1][0]) == 1 and counted == {"critic_calls": 3, "cached": 2}


def test_a_reply_that_was_cut_is_not_read():
    """ "Harmful" may be the beginning of anything."""
    (group,) = Grade(Logged({"a": ("Harmful",)}, cut=True), tries=2)(groups("a"))
    assert group.feedback[0][0].abstained and group.feedback[0][0].raw == "Harmful"


def test_what_the_engine_has_no_room_for_abstains_and_is_not_asked():
    engine = Logged({"a": ("Harmful",)})
    with metering() as counted:
        (group,) = Grade(engine)(groups("LONG", "a"))
    assert group.feedback[0][0].abstained and group.feedback[0][0].raw == "engine: no room."
    assert group.feedback[1][0].label == "Harmful" and counted["critic_calls"] == 1


CHAT = Prompt((Message("system", "Be kind."), Message("user", "Hi."), Message("assistant", "Yes?"),
               Message("user", "line\n\nbreak __ {answer}")))  # fmt: skip


def test_the_conversation_or_its_last_turn_is_shown_as_it_stands():
    """Nothing in a post or an answer is read: no slot, no line break, no marker (traps 17, 38)."""
    engine = Scripted(("Harmful",))
    whole = Grade(engine).question(CHAT, "yes __ {asked}").messages[-1].content
    assert "System: Be kind.\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: line\n\nbreak __ {answer}\n" in whole
    assert "\nyes __ {asked}\n" in whole
    last = Grade(engine, sees="last").question(CHAT, "yes").messages[-1].content
    assert "DIALOGUE\nline\n\nbreak __ {answer}\n\n" in last and "Be kind" not in last
    alone = Grade(engine).question(Prompt.of("line\nbreak"), "yes").messages[-1].content
    assert "DIALOGUE\nline\nbreak\n\n" in alone


def test_shots_are_turns_in_the_proportions_of_the_paper():
    asked = Grade(Scripted(("Harmful",))).question(CHAT, "yes")
    assert [m.role for m in asked.messages] == ["system", *["user", "assistant"] * 10, "user"]
    assert Counter(m.content for m in asked.messages if m.role == "assistant") == dict(
        zip(HH, (2, 3, 1, 4), strict=True)
    )
    mine = (Shot("Who?", "Ada.", "harmful"),)
    assert [m.role for m in Grade(Scripted(("",)), shots=mine).question(CHAT, "y").messages] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert len(Grade(Scripted(("",)), shots=()).question(CHAT, "yes").messages) == 2
    assert asked.meta == {
        "asked": CHAT.text, "answer": "yes", "kind": "grade", "try": 1, "categories": list(HH),
    }  # fmt: skip


def test_judging_counts_and_opens_the_engine_once(tmp_path):
    """Two shards of one group, one engine; every label is stored as it was offered (trap 13)."""
    from trueline.machine import Machine

    log = []
    critic = Grade(Logged({"a": ("HARMFUL.",), "b": ("Hm.",), "c": ("harmless and helpful",)}, log=log), tries=2)
    judged = judge(grade_answers(), critic)
    assert judged.count["critic_calls"] == 4
    made = make(judged, store=tmp_path, machine=Machine(shard=1))
    with using(tmp_path):
        assert [[f[0].label for f in g.feedback] for g in made.read()] == [["Harmful", None], ["Harmful", HH[1]]]
        counts = made.record["counts"]
    assert {name: counts[name] for name in ("critic_calls", "asked_again", "abstained")} == {
        "critic_calls": 5, "asked_again": 1, "abstained": 1,
    }  # fmt: skip
    assert log.count("open") == log.count("close") == 1


@stage(Groups, name="grade_answers", estimate=lambda: {"prompts": 2, "samples": 4})
def grade_answers(work: Work) -> None:
    texts = (("a", "b"), ("a", "c"))
    rows = [Group(Prompt.of(f"q{i}"), tuple(Completion(t) for t in of)) for i, of in enumerate(texts)]
    write_jsonl(work.dir / "groups.jsonl", rows)


def test_identity_is_engine_words_and_how_it_is_asked(tmp_path):
    engine = Scripted(("Harmful",))
    critic = Grade(engine)
    assert isinstance(critic, Critic) and critic.calls(2, 6) == 6 and critic.name == "grade:scripted"
    mine = tmp_path / "mine.txt"
    mine.write_bytes((critic.wording.path).read_bytes())
    assert fingerprint(Grade(engine, wording=mine)) == fingerprint(critic), "the content, not where it lies"
    mine.write_text(mine.read_text().replace("no harm can come", "no harm will come"))
    others = [
        Grade(engine, wording=mine), Grade(engine, HH[::-1]), Grade(engine, sees="last"), Grade(engine, shots=()),
        Grade(engine, tries=2), Grade(engine, sampling=Sampling(max_tokens=32)), Grade(Scripted(("Harmless",))),
    ]  # fmt: skip
    assert len({fingerprint(one) for one in [critic, *others]}) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "gpt"}, r"Grade\(by=...\).*an engine"),
        ({"categories": ("Good",)}, "at least two texts"),
        ({"categories": ("Good", "good.")}, "differ by more than case"),
        ({"categories": ("Good\nfine", "Bad")}, "texts of one line"),
        ({"categories": ("Good", "Bad")}, r"the reply of a shot is 'Harmful', which cannot be read"),
        ({"wording": "hhh"}, 'Did you mean "hh"'),
        ({"sees": "all"}, "conversation or last"),
        ({"tries": 0}, "at least 1"),
        ({"sampling": Sampling(n=2)}, "one reply per question"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        Grade(**({"by": Scripted(("Harmful",))} | options))
