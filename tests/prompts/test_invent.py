"""Prompts that a model writes: what is kept, written aside and counted, when it ends, and what a killed run leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.prompts.inventor import Inventor
from tests.prompts.written import dropped, lines, made, record
from trueline import world
from trueline.errors import UserError
from trueline.pipeline import make, plan
from trueline.prompts import invent as module
from trueline.prompts.asked import asked
from trueline.prompts.invent import SAMPLING, FewShot, Novelty, invent, released
from trueline.prompts.novelty import RougeL, RougeSets
from trueline.prompts.queries import SEEDS, QueryFilter, sown
from trueline.sample.hf import HF
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.store import File, using

ROOT = Path(__file__).resolve().parents[2]
OURS = sown(File(SEEDS)).texts


def growing(prompt, index):
    """A new question for each attempt, of six made-up words."""
    number = int(prompt.id.removeprefix("invent-"))
    rng = random.Random(number)
    return " " + " ".join("".join(rng.choices("bdgklmnprst", k=5)) for _ in range(6)) + "?"


def repeating(prompt, index):
    """Every third attempt is new; the others say what somebody said, with one word more."""
    number = int(prompt.id.removeprefix("invent-"))
    return growing(prompt, index) if number % 3 == 0 else " How do I get candle wax out of my old wool carpet?"


def test_new_queries_become_prompts(tmp_path):
    """Of 19 attempts every third is new: 7 prompts; 12 are near to a seed, and lie aside; the batch had 13 more."""
    wanted = invent(Scripted(repeating), 7)
    prompts = made(tmp_path, wanted)
    assert [p.text for p in prompts] == [growing_text(number) for number in range(0, 21, 3)]
    assert all(len(p.messages) == 1 and p.id.startswith("p-") for p in prompts)
    assert [p.meta for p in prompts] == [{"by": "scripted", "attempt": 1 + 3 * k} for k in range(7)]
    found = record(tmp_path, wanted)
    assert found["counts"] == {"attempts": 19, "near": 12, "dropped": 12, "surplus": 13, "prompts": 7}
    assert found["notes"]["novelty"] == "below 0.5 by ROUGE-L F1" and found["notes"]["seeds"] == 100
    assert found["notes"]["compared"] < 60, "12 refusals, and hardly any pair beside"
    aside = dropped(tmp_path, wanted)
    assert aside[0] == {
        "reason": "ROUGE-L F1 0.870 to 'How do I get candle wax out of a wool carpet?', not below 0.5",
        "where": "attempt 2",
        "row": {
            "query": "How do I get candle wax out of my old wool carpet?",
            "reply": " How do I get candle wax out of my old wool carpet?",
        },
    }


def growing_text(number):
    from trueline.records import Prompt

    return growing(Prompt.of("x", id=f"invent-{number}"), 0).strip()


def test_every_reason_is_counted_and_written_aside(tmp_path):
    wanted = invent(
        Scripted(replies_in_turn), 1, sampling=dataclasses.replace(SAMPLING, max_tokens=6), batch=len(REPLIES)
    )
    made(tmp_path, wanted)
    one = dict.fromkeys(("blank", "wordless", "short", "long", "near", "prompts"), 1)
    assert record(tmp_path, wanted)["counts"] == one | {"cut": 2, "dropped": 7, "attempts": 8}
    assert [row["where"] for row in dropped(tmp_path, wanted)] == [f"attempt {k}" for k in range(1, len(REPLIES))]


REPLIES = [
    "",
    "?!",
    "Hm",
    "x" * 251,
    "Can cats and parrots live peacefully?",
    "a b c d e f g h?",
    "a b c d e f g",
    "Whose?",
]


def replies_in_turn(prompt, index):
    return REPLIES[int(prompt.id.removeprefix("invent-")) % len(REPLIES)]


def test_examples_are_drawn_anew_and_feed_back(tmp_path):
    """Ten different ones per attempt, of the seeds and of what was kept before the batch; the same in every run."""
    log = tmp_path / "asked.jsonl"
    prompts = made(tmp_path, invent(Spy(log=str(log)), 30, batch=5))
    texts = [json.loads(line) for line in log.read_text().splitlines()]
    shown = [text.split("\n\n", 1)[1].split("\n") for text in texts]
    assert all(len(lines) == 11 and lines[-1] == "Query:" and len(set(lines)) == 11 for lines in shown)
    kept = [p.text for p in prompts]
    allowed = {f"Query: {text}" for text in (*OURS, *kept)}
    assert all(set(lines[:-1]) <= allowed for lines in shown)
    fed = [sum(line.removeprefix("Query: ") in kept for line in lines) for lines in shown]
    assert sum(fed[:5]) == 0 < sum(fed[5:])
    again = [p.text for p in made(tmp_path / "again", invent(Spy(log=str(log)), 30, batch=5))]
    other = [
        p.text for p in made(tmp_path / "other", invent(Inventor(), 30, sampling=dataclasses.replace(SAMPLING, seed=1)))
    ]
    assert again == kept != other


@dataclasses.dataclass(frozen=True)
class Spy(Inventor):
    """An inventor that writes down what it is shown."""

    def generate(self, prompts, sampling):
        with open(self.log, "a") as file:
            file.write("".join(json.dumps(p.text) + "\n" for p in prompts))
        return [[said] for p in prompts for said in [self._said(p.text, sampling, 0)]]


@pytest.mark.parametrize(("shots", "most"), [(0, 0), (1, 0), (3, 1), (2, 2), (100, 3)])
def test_so_many_shots_so_many_of_them_invented(tmp_path, shots, most):
    """0 is really none; 100 are all the seeds; 101 are refused (below)."""
    few = FewShot(shots, invented=most)
    rng = random.Random(0)
    given = sown(File(SEEDS))
    for kept in ([], ["k1"], ["k1", "k2", "k3", "k4"]):
        examples = few.examples(given, kept, rng)
        fed = [text for text in examples if text in kept]
        assert len(examples) == len(set(examples)) == shots and len(fed) == min(most, len(kept))
    assert len(FewShot(shots).examples(given, ["k1"], rng)) == shots


def test_several_replies_to_one_text_are_several_attempts(tmp_path):
    wanted = invent(Inventor(), 12, sampling=dataclasses.replace(SAMPLING, n=4), batch=2)
    assert len(made(tmp_path, wanted)) == 12
    counts = record(tmp_path, wanted)["counts"]
    assert counts["attempts"] + counts.get("surplus", 0) == 4 * counts["calls"]


def test_nothing_is_near_to_what_it_is_held_against(tmp_path):
    """What an earlier stage invented, or what is tested on."""
    first = invent(Inventor(), 12)
    held = asked(lines(tmp_path, {"prompt": "Where can one sell two goats after dinner?"}))
    second = invent(Inventor(), 12, against=(first, held))
    texts, more = ([p.text for p in made(tmp_path, wanted)] for wanted in (first, second))
    every = [*texts, "Where can one sell two goats after dinner?"]
    assert max(RougeL().score(a, b) for a in more for b in every) < 0.5
    assert max(RougeL().score(a, b) for a in texts for b in texts if a != b) < 0.5
    assert [p.text for p in made(tmp_path, invent(Inventor(), 12, against=held))][:1] == texts[:1]


def test_the_released_settings_keep_the_second_query_and_may_make_more(tmp_path):
    """Batches of four, checked once per batch; replies without a second query give nothing."""
    settings = released()
    assert settings["few_shot"] == FewShot(10, None, "second") and settings["batch"] == 4
    assert settings["keep"] == QueryFilter(30, 250, compatible=True)
    assert settings["novelty"] == Novelty(0.5, RougeSets()) and settings["sampling"].stop == ()
    wanted = invent(Scripted(two_queries), 1, **settings)
    assert [p.text for p in made(tmp_path, wanted)] == [growing_text(100 + number) for number in range(4)]
    direct = invent(Scripted(two_queries), 1, sampling=Sampling(max_tokens=64))
    assert [p.text for p in made(tmp_path, direct)] == [growing_text(0)]
    none = invent(Scripted(growing), 1, **settings)
    with pytest.raises(UserError, match=r"0 of 1 prompts were kept after 20 attempts \(20 blank\)"):
        made(tmp_path, none)


def two_queries(prompt, index):
    number = int(prompt.id.removeprefix("invent-"))
    return f"{growing(prompt, index)}\nQuery: {growing_text(100 + number)}\nQuery: and so on?"


def test_the_attempts_have_an_end(tmp_path):
    """Ten attempts for five prompts, of which four are new: an error that says why, or what there is."""
    wanted = invent(Scripted(repeating), 5, attempts=2, batch=4)
    with pytest.raises(
        UserError, match=r"4 of 5 prompts were kept after 10 attempts \(6 near\).*short=\"keep\""
    ) as error:
        made(tmp_path, wanted)
    assert "dropped.jsonl" in str(error.value) and "candle wax" in str(error.value)
    fewer = invent(Scripted(repeating), 5, attempts=2, batch=4, short="keep")
    assert len(made(tmp_path, fewer)) == 4 and record(tmp_path, fewer)["counts"]["attempts"] == 10


def test_a_hopeless_engine_is_asked_two_hundred_times(tmp_path):
    log = tmp_path / "asked.log"
    wanted = invent(Blank(log=str(log)), 5000, batch=50, short="keep")
    with pytest.raises(UserError, match=r"0 of 5000 prompts were kept after 200 attempts \(200 blank\)"):
        made(tmp_path, wanted)
    assert len(log.read_text().splitlines()) == module.HOPELESS == 200


@dataclasses.dataclass(frozen=True)
class Narrow(Inventor):
    """Has no room for any text."""

    def too_long(self, prompt, sampling):
        return UserError(f"prompt {prompt.id}", "it has 99 tokens", "at most 9", "Drop it.")


@dataclasses.dataclass(frozen=True)
class Blank(Inventor):
    """Has nothing to say."""

    def _said(self, text, sampling, index):
        from trueline.records import Completion

        return Completion("", self.name)


def test_a_plan_says_how_often_at_most(tmp_path):
    with using(tmp_path / "store"):
        wanted = invent(Inventor(), 30)
        assert wanted.count == {"prompts": 30, "attempts": 600}
        assert [row.status for row in plan(wanted).rows] == ["make"]


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"101 shots from 100 different seeds; at least as many seeds"):
        made(tmp_path, invent(Inventor(), 1, few_shot=FewShot(101)))
    with pytest.raises(UserError, match=r'Write HF\(policy, chat="plain"\)'):
        made(tmp_path, invent(world.base("tiny"), 1))
    for wrong in (
        {"n": 0},
        {"n": 1, "attempts": 0},
        {"n": 1, "batch": 0},
        {"n": 1, "short": "x"},
        {"n": 1, "surplus": "x"},
    ):
        with pytest.raises(UserError, match=r"invent\("):
            made(tmp_path, invent(Inventor(), **wrong))
    crowded = invent(Narrow(), 1, few_shot=FewShot(9))
    with pytest.raises(UserError, match=r"prompt invent-0: it has 99 tokens; at most 9. Show fewer than 9 queries"):
        made(tmp_path, crowded)
    for wrong in ({"shots": -1}, {"invented": 11}, {"invented": -1}, {"reading": "third"}):
        with pytest.raises(UserError, match=r"FewShot\("):
            FewShot(**wrong)
    for wrong in ({"threshold": 0}, {"threshold": 1.1}, {"measure": "rouge"}):
        with pytest.raises(UserError, match=r"Novelty\("):
            Novelty(**wrong)


def test_a_policy_goes_on_with_the_text(tmp_path):
    """The town's tiny model writes on as if the queries were a page: two different texts, signed by it."""
    tiny = world.base("tiny")
    brief = Sampling(temperature=1.2, top_p=0.9, max_tokens=16, stop=("\n",))
    few, keep = FewShot(2), QueryFilter(shortest=0, compatible=True)
    wanted = invent(HF(tiny, chat="plain"), 2, few_shot=few, sampling=brief, keep=keep, batch=4)
    prompts = made(tmp_path, wanted)
    assert len({p.text for p in prompts}) == 2 and {p.meta["by"] for p in prompts} == {tiny.name}
    assert record(tmp_path, wanted)["counts"]["tokens"] > 0


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """Killed with -9 after some batches: the same bytes as an uninterrupted run, and no text was asked about twice."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert start(whole).wait(300) == 0
    process = start(broken)
    while len(list(broken.glob("prompts/invented-*.part/scratch/attempts/*.json"))) < 4:
        assert process.poll() is None, "the run was too quick to be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = len(list(broken.glob("prompts/invented-*.part/scratch/attempts/*.json")))
    assert start(broken).wait(300) == 0
    found = [next(root.glob("prompts/invented-*")) for root in (whole, broken)]
    for name in ("prompts.jsonl", "dropped.jsonl"):
        one, other = ((folder / name).read_bytes() for folder in found)
        assert one == other and one
    counts = [json.loads((folder / "record.json").read_bytes())["counts"] for folder in found]
    assert counts[0] == counts[1] and counts[0]["prompts"] == 40
    asked = (broken / "asked.log").read_text().splitlines()
    assert len(asked) - len(set(asked)) <= 4, "at most the batch that was being written"
    assert 4 <= kept < counts[0]["calls"] / 4


def start(store):
    """The inventing of `inventor` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.prompts.inventor", str(store)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def test_two_runs_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        with using(tmp_path / name):
            make(invent(Inventor(), 15, batch=3))
    one, other = (next((tmp_path / name).glob("prompts/*")) for name in "ab")
    for name in ("prompts.jsonl", "dropped.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
