"""Self-play with scripted engines: what is kept of every turn, when a dialogue ends, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sample.given import questions
from tests.sample.playing import SAID
from trueline.errors import UserError
from trueline.feedback.rule import Rule
from trueline.feedback.shape import WellFormed
from trueline.pipeline import make, missing, plan, upstream
from trueline.recipes._self_play import self_play
from trueline.records import read_jsonl
from trueline.sample.as_user import AsUser
from trueline.sample.hf import HF
from trueline.sample.prompted import Prompted
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.self_play import highest
from trueline.store import using
from trueline.train.views import Demonstrations
from trueline.world import base

ROOT = Path(__file__).resolve().parents[2]
FOUR = Sampling(n=4, seed=3)
ANYTHING = WellFormed(least=1)
ANSWERS = ("Short.", "A good answer.", "A good answer?", "An apt answer!")


def length(text: str) -> float:
    return float(min(len(text), 14))


def nothing(text: str) -> float | None:
    return None


def asked_on(prompt, index):
    return ("Where is the mill?", "Does it rain?")[len(prompt.messages) // 2 - 1]


USER = Scripted(asked_on, name="asker")


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def known(group):
    return group.prompt.meta["self_play"]


def test_two_turns_are_two_demonstrations():
    """Of four answers the third asks and is set aside; the second and the fourth earn 14 each, and the first of equals
    is kept. The second turn's prompt is the conversation so far."""
    played = self_play(questions(2), Scripted(ANSWERS), Rule(length), USER, sampling=FOUR, fit=ANYTHING)
    groups = list(make(played).read())
    assert [known(g)["turn"] for g in groups] == [1, 2, 1, 2]
    assert [c.text for g in groups for c in g.completions] == ["A good answer."] * 4
    assert [m.content for m in groups[1].prompt.messages] == [
        groups[0].prompt.text,
        "A good answer.",
        "Where is the mill?",
    ]
    assert known(groups[1]) == {
        "dialogue": groups[0].prompt.id, "turn": 2, "n_candidates": 4, "n_fit": 3, "seed": 3, "score": 14.0
    }  # fmt: skip
    first, second = list(Demonstrations(played).examples())[:2]
    assert [m.role for m in second.messages] == ["user", "assistant", "user"]
    assert (first.answers[0].text, second.answers[0].ended) == ("A good answer.", True)
    assert played.record["counts"] == {
        "turn_1": 2,
        "turn_2": 2,
        "dialogues": 2,
        "groups": 4,
        "prompts": 4,
        "samples": 4,
    }


@pytest.mark.parametrize(("scores", "at"), [([1.0, 3.0, 3.0], 1), ([None, -2.0], 1), ([None, None], None), ([], None)])
def test_the_highest_of_equal_ones_is_the_first(scores, at):
    assert highest(scores) == at


def test_a_dialogue_ends_before_a_turn_without_a_fit_answer():
    """All four answers to the second question of one of three dialogues are bad: its first turn stays."""

    played = self_play(questions(3), Scripted(stubborn), Rule(length), USER, sampling=FOUR, fit=ANYTHING)
    groups = list(make(played).read())
    assert [known(g)["turn"] for g in groups] == [1, 1, 2, 1, 2]
    (second,) = [x for x in upstream_of(played, "candidates") if x.label == "candidates-2"]
    assert second.record["counts"]["ended"] == 1
    reasons = [row["reason"] for row in read_jsonl(second.path / "dropped.jsonl", dict)]
    assert reasons == ['asks: it ends with "?"'] * 4


def stubborn(prompt, index):
    return "Why?" if prompt.messages[0].content.startswith("0.") and len(prompt.messages) > 1 else "Ada does it."


def upstream_of(root, stage):
    return [x for x in upstream(root) if x.stage == stage]


def test_what_the_human_says_again_ends_the_dialogue():
    """The same message in the second and the third turn: two turns are played, and the refusal says what it is near."""
    user = Scripted(("Where is the mill?",), name="asker")
    played = self_play(
        questions(2), Scripted(ANSWERS), Rule(length), user, turns=3, sampling=FOUR, fit=ANYTHING, max_ended=1.0
    )
    assert make(played).record["counts"] == {
        "turn_1": 2, "turn_2": 2, "dialogues": 2, "groups": 4, "prompts": 4, "samples": 4
    }  # fmt: skip
    again = next(x for x in upstream_of(played, "follow_up") if x.label == "asked-3")
    (row, _) = read_jsonl(again.path / "dropped.jsonl", dict)
    assert row["reason"] == "ROUGE-L F1 1.000 to 'Where is the mill?', not below 0.5"


def test_turns_below_a_quantile_are_left_out():
    """Scores 4, 6, 8 and 12 in four dialogues; their quantile 0.5 is 7, and two stay."""
    said = {f"{i}. {text}": (answer,) for i, (text, answer) in enumerate(zip(FIRST, WORDS, strict=True))}
    played = self_play(
        questions(4), Scripted(said), Rule(length), turns=1, sampling=Sampling(), fit=ANYTHING, min_quantile=0.5
    )
    assert [c.text for g in make(played).read() for c in g.completions] == ["Eight ch", "Twelve chars"]
    counts = played.record["counts"]
    assert (counts["below"], counts["dropped"], played.record["notes"]["least"]) == (2, 2, 7.0)


FIRST = (
    "Who bakes the bread?", "Where does the miller live, and who sells the bread at the market every morning?", "Why?",
    "Who keeps the keys of the tower?",
)  # fmt: skip
WORDS = ("Four", "Sixsix", "Eight ch", "Twelve chars")


def test_another_turn_asks_nothing_of_the_first_ones_again():
    """The third turn is three steps more, and the collection of all."""
    two = self_play(questions(2), Scripted(ANSWERS), Rule(length), USER, sampling=FOUR, fit=ANYTHING)
    make(two)
    three = self_play(questions(2), Scripted(ANSWERS), Rule(length), USER, turns=3, sampling=FOUR, fit=ANYTHING)
    assert [x.label for x in missing(three)] == ["asked-3", "candidates-3", "rewarded-3", "winners-3", "played"]
    assert plan(three).rows[-1].artifact.count["samples"] == 6


def test_an_engine_whose_answers_are_all_bad_stops_the_run():
    played = self_play(questions(3), Scripted(("Why?", "Hm:")), Rule(length), turns=1, sampling=FOUR, fit=ANYTHING)
    with pytest.raises(UserError, match=r"3 of 3 dialogues end here.*\(answers set aside: 12 asks\).*max_ended"):
        make(played)


def test_a_reward_that_says_nothing_stops_the_run():
    played = self_play(questions(3), Scripted(ANSWERS), Rule(nothing), turns=1, sampling=FOUR, fit=ANYTHING)
    with pytest.raises(UserError, match="it abstained on 9 of 9"):
        make(played)


def test_a_dialogue_that_the_reward_says_nothing_of_ends_aside():
    """One of three prompts' answers gets no score: the others' turns stay."""
    played = self_play(questions(3), Scripted(odd), Rule(unless_odd), turns=1, sampling=Sampling(), fit=ANYTHING)
    assert make(played).record["counts"]["groups"] == 2
    (won,) = upstream_of(played, "winners")
    (row,) = read_jsonl(won.path / "dropped.jsonl", dict)
    assert row["reason"] == "rule:unless_odd scored none of its 1 answers"


def odd(prompt, index):
    return "odd" if prompt.text.startswith("1.") else "even"


def unless_odd(text: str) -> float | None:
    return None if text == "odd" else 1.0


def test_a_human_with_nothing_to_say_stops_the_run():
    user = Scripted(("", "x"), name="asker")
    played = self_play(questions(3), Scripted(ANSWERS), Rule(length), user, sampling=FOUR, fit=ANYTHING)
    with pytest.raises(UserError, match=r"3 of 3 dialogues end, as no next message .* is kept \(3 empty\)"):
        make(played)


def test_what_cannot_be_played_is_refused_before_anything_is_drawn():
    tiny, asked, reward = base("tiny"), questions(2), Rule(length)
    for turns in (0, -1, 1.5, True):
        with pytest.raises(UserError, match="turns"):
            self_play(asked, tiny, reward, USER, turns=turns)
    for user in (tiny, HF(tiny, chat="plain"), Prompted(tiny, "answering", 1)):
        with pytest.raises(UserError, match=r"speaks as the assistant; .*AsUser"):
            self_play(asked, tiny, reward, user)
    with pytest.raises(UserError, match="there is none, and 2 turns"):
        self_play(asked, tiny, reward)
    with pytest.raises(UserError, match="never asked"):
        self_play(asked, tiny, reward, USER, turns=1)
    with pytest.raises(UserError, match="answers"):
        self_play(asked, AsUser(tiny, "answering", 1), reward, turns=1)
    with pytest.raises(UserError, match="min_quantile"):
        make(self_play(asked, Scripted(ANSWERS), reward, turns=1, sampling=FOUR, fit=ANYTHING, min_quantile=1.0))


def test_a_human_is_asked_where_the_human_speaks():
    """A base model is shown dialogues and the conversation, up to "Human:"; a chat model the same below an
    instruction. What it writes beyond its message is cut."""
    from trueline.records import Message, Prompt

    said = (Message("user", "Who bakes?"), Message("assistant", "Ada does."))
    engine = AsUser(Scripted(("Human: And who\nsells it?\n\nAssistant: Ben.",)), "answering", 1)
    seen = engine.asking(Prompt(said))
    assert seen.text.endswith("\n\nHuman: Who bakes?\n\nAssistant: Ada does.\n\nHuman:")
    assert engine.name == "scripted-answering-1shot-user"
    with engine:
        ((reply,),) = engine.generate([Prompt(said)], Sampling())
    assert (reply.text, reply.stopped) == ("And who\nsells it?", "stop")
    told = AsUser(Scripted(("x",)), "answering", 0, form="chat").asking(Prompt(said))
    assert [m.role for m in told.messages] == ["system", "user"] and "play the human" in told.messages[0].content
    with pytest.raises(UserError, match="ends with the user's turn"):
        engine.asking(Prompt.of("Who bakes?"))
    with pytest.raises(UserError, match="almost"):
        AsUser(Scripted(("x",)), "answering", 1, form="almost")


def test_played_by_killed_and_whole_runs_is_the_same(tmp_path):
    """Killed with -9 in its second turn: the same bytes in every step, and nothing asked again but what was asked when
    it was killed. Three turns, of which some dialogues play one; the best answers are the longest."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assert start(whole).wait(300) == 0
    process = start(broken)
    while len(list(broken.glob("groups/candidates-2-*/shards/groups/*.jsonl"))) < 3:
        assert process.poll() is None, "the run was too quick to be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert start(broken).wait(300) == 0
    names = {path.parent.name.rpartition("-")[0] + "/" + path.name for path in whole.glob("*/*/*.jsonl")}
    assert {"played/groups.jsonl", "asked-2/prompts.jsonl", "asked-2/dropped.jsonl", "winners-3/groups.jsonl"} <= names
    for name in names:
        label, file = name.split("/")
        one, other = (next(root.glob(f"*/{label}-????????/{file}")).read_bytes() for root in (whole, broken))
        assert one == other, name
    assert SAID[2].encode() in next(whole.glob("groups/played-*/groups.jsonl")).read_bytes()
    asked = (broken / "asked.log").read_text().splitlines()
    assert len(asked) - len(set(asked)) <= 3, "at most the shard that was being written"
    records = [json.loads(next(root.glob("groups/played-*/record.json")).read_bytes()) for root in (whole, broken)]
    assert records[0]["counts"] == records[1]["counts"] and records[0]["counts"]["turn_3"] > 5


def start(store):
    """The dialogues of `playing` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.sample.playing", str(store)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
