"""`Perspective` against a real server on loopback: limits, failures, a kill; nothing lost, nothing asked twice."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.feedback import analyzer
from tests.feedback.analyzer import KEY, error, serving, toxicity
from tests.feedback.scoring import TEXTS, judged
from trueline.errors import UserError
from trueline.feedback.judge import judge
from trueline.feedback.perspective import Access, Perspective
from trueline.feedback.protocol import metering
from trueline.fingerprint import fingerprint
from trueline.machine import Machine
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import Groups, using

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"per_second": 500.0, "wait": 0.02, "longest": 0.1, "tries": 4, "timeout": 5.0}


@pytest.fixture(autouse=True)
def key(monkeypatch, tmp_path):
    monkeypatch.setenv("PERSPECTIVE_API_KEY", KEY)
    with using(tmp_path / "store"):
        yield


def group(*texts):
    return Group(Prompt.of("WHO?"), tuple(Completion(text) for text in texts))


def scored(address, *texts, **changes):
    """What is said of each text, and what was metered."""
    with metering() as counted:
        (said,) = Perspective(access=Access(address, **(QUICK | changes)))([group(*texts)])
    return [feedback[0] for feedback in said.feedback], counted


def test_the_continuation_alone_is_scored_1_less_its_toxicity():
    with serving() as (address, server):
        said, counted = scored(address, "Ab", "", "abcD", "Ab")
    assert [f.score for f in said] == pytest.approx([0.5, None, 0.75, 0.5])
    assert {f.by for f in said} == {"perspective:toxicity"} and said[1].raw == "nothing to score"
    assert sorted(server.asked) == ["Ab", "abcD"], "an equal text is asked about once, the prompt never"
    assert counted == {"critic_calls": 3, "cached": 1}
    assert set(server.paths) == {"/v1alpha1/comments:analyze"}
    assert {headers["X-Goog-Api-Key"] for headers in server.headers} == {KEY}


def test_a_score_belongs_to_its_text_in_whatever_order_replies_come():
    """Forty texts, eight at once, the first ones answered last (trap 34); no more than eight are in flight."""
    texts = ["A" * i + "b" * (40 - i) for i in range(40)]

    def slow(text, n):
        time.sleep(0.002 * text.count("b"))

    with serving(slow) as (address, server):
        said, _ = scored(address, *texts, concurrency=8)
    assert [f.score for f in said] == pytest.approx([1 - toxicity(text) for text in texts])
    assert 1 < server.most <= 8


def test_what_was_scored_once_is_never_asked_again():
    """By another critic, in another run, at another place; another attribute or language is another score."""
    with serving() as (address, server):
        scored(address, "Ab", "Cd")
        said, counted = scored(address, "Cd", "ef", "Ab", concurrency=1)
        assert [f.score for f in said] == pytest.approx([0.5, 1.0, 0.5])
        assert counted == {"critic_calls": 3, "cached": 2} and Counter(server.asked) == {"Ab": 1, "Cd": 1, "ef": 1}
        Perspective("INSULT", access=Access(address, **QUICK))([group("Ab")])
        Perspective(language="de", access=Access(address, **QUICK))([group("Ab")])
        assert server.asked.count("Ab") == 3


def test_no_more_requests_a_second_than_allowed():
    """Twenty-five texts at 50 a second take half a second, and no window of 0.2 s holds more than 10 + 1."""
    with serving() as (address, server):
        start = time.monotonic()
        scored(address, *(f"text {i}" for i in range(25)), per_second=50, concurrency=8)
        assert time.monotonic() - start >= 24 / 50
    times = sorted(server.at)
    # Turns are given out evenly; on their way to the server requests may bunch up by some of the eight threads.
    assert max(sum(t <= other < t + 0.2 for other in times) for t in times) <= 11 + 8


def test_the_pace_is_kept_from_shard_to_shard():
    """Four calls of one text each, at 10 a second: by two critics, 0.3 s at least."""
    with serving() as (address, server):
        for i, attribute in enumerate(("TOXICITY", "INSULT") * 2):
            Perspective(attribute, access=Access(address, **(QUICK | {"per_second": 10})))([group(f"text {i}")])
    assert server.at[-1] - server.at[0] >= 0.29


def test_failures_that_pass_are_tried_again_and_cost_no_score():
    """429, 503, a cut JSON, a reply to another text, one without the attribute, no probability, a slow reply."""

    def other(question):
        return json.dumps(analyzer.reply({**question, "clientToken": "somebody else's"}, 0.9)).encode()

    def lacking(question):
        return b'{"attributeScores": {}}'

    def late(question):
        time.sleep(1.2)
        return json.dumps(analyzer.reply(question)).encode()

    def odd(question):
        return json.dumps(analyzer.reply(question, 7.0)).encode()

    plans = {
        "Limit": error(429, "Quota exceeded"), "Down": error(503, "unavailable"), "Cut": lambda q: b'{"attributeSc',
        "Swapped": other, "Lacking": lacking, "Late": late, "Odd": odd,
    }  # fmt: skip
    with serving(lambda text, n: plans.get(text) if n < 3 else None) as (address, server):
        said, _ = scored(address, *plans, "Fine", timeout=0.8)
    assert [f.score for f in said] == pytest.approx([1 - toxicity(text) for text in (*plans, "Fine")])
    assert Counter(server.asked) == {**dict.fromkeys(plans, 3), "Fine": 1}


def test_the_waits_between_attempts_are_real_and_grow():
    """At least 0.1 s, 0.2 s and 0.4 s before the second, third and fourth attempt (trap 39)."""
    with serving(lambda text, n: error(503, "down") if n < 4 else None) as (address, server):
        said, _ = scored(address, "Ab", wait=0.1, longest=10.0)
    assert said[0].score == 0.5
    gaps = [b - a for a, b in zip(server.at, server.at[1:], strict=False)]
    assert all(gap >= least for gap, least in zip(gaps, (0.1, 0.2, 0.4), strict=True))


def test_a_server_that_asks_for_patience_gets_it_from_everybody():
    """One 429 with Retry-After: 0.6 s pass before anything else is sent, by any thread."""
    texts = [f"text {i}" for i in range(30)]
    refused = []

    def plan(text, n):
        if text == "text 2" and n == 1:
            refused.append(time.monotonic())
            return error(429, "slow down", **{"Retry-After": "0.6"})
        return None

    with serving(plan) as (address, server):
        said, _ = scored(address, *texts, concurrency=4, per_second=40)
    assert all(f.score is not None for f in said)
    # Three threads may be on their way in that moment; at 40 a second there would be 22.
    assert sum(0 < at - refused[0] < 0.55 for at in server.at) <= 3


def test_what_fails_for_good_abstains_with_the_reason_and_is_not_asked_again():
    """A text that the API refuses: once for ever. One that failed every time: again in the next run."""
    plans = {"Zu lang": error(400, "Comment text too long."), "Down": error(500, "oops")}
    with serving(lambda text, n: plans.get(text)) as (address, server):
        said, _ = scored(address, *plans, "Ab")
        assert [f.raw for f in said] == ["HTTP 400: Comment text too long.", "HTTP 500 (4 attempts)", None]
        assert [f.abstained for f in said] == [True, True, False]
        plans.pop("Down")
        again, counted = scored(address, "Zu lang", "Down", "Ab")
        assert [f.score for f in again] == pytest.approx([None, 0.75, 0.5]) and again[0].raw == said[0].raw
        assert counted["cached"] == 2 and server.asked.count("Zu lang") == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (error(400, "API key not valid. Please pass a valid API key.", "API_KEY_INVALID"), "it refuses the key"),
        (error(403, f"key {KEY} may not", "PERMISSION_DENIED"), "it refuses the key"),
        (error(404, "nothing here"), "there is no Perspective API"),
    ],
)
def test_a_refused_key_stops_the_run_and_stands_nowhere(answer, message, tmp_path):
    with serving(lambda text, n: answer) as (address, server), pytest.raises(UserError, match=message) as caught:
        scored(address, *(f"text {i}" for i in range(200)), per_second=1000)
    assert KEY not in str(caught.value) and KEY not in repr(caught.value.__context__)
    assert len(server.asked) < 50, "what had not been sent is not sent any more"


def test_the_key_is_in_no_record_and_no_log(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(lambda text, n: error(400, f"bad {KEY}") if text == "b" else None) as (address, _):
        made = make(judge(key_answers(), Perspective(access=Access(address, **QUICK))), store=tmp_path / "s")
    with using(tmp_path / "s"):
        (said,) = made.read()
    assert said.feedback[1][0].raw == "HTTP 400: bad [key]"
    written = b"".join(path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file())
    assert KEY.encode() not in written and KEY not in caplog.text


@stage(Groups, name="key_answers")
def key_answers(work: Work) -> None:
    write_jsonl(work.dir / "groups.jsonl", [group("Ab", "b")])


def test_refusals(monkeypatch):
    for wrong, message in (("", "it is not set"), ("a b", "characters that no key has"), ("sch\u00f6n", "characters")):
        monkeypatch.setenv("PERSPECTIVE_API_KEY", wrong)
        with pytest.raises(UserError, match=message) as caught:
            Perspective()([group("Ab")])
        assert not wrong or wrong not in str(caught.value)
    with pytest.raises(UserError, match=r"Perspective\(attribute=...\)"):
        Perspective("toxicity")
    with pytest.raises(UserError, match=r"Access\(per_second=...\)"):
        Access(per_second=0)
    with pytest.raises(UserError, match=r"Access\(url=...\)"):
        Access("localhost:8000")


def test_how_it_is_reached_is_no_part_of_what_it_is():
    assert fingerprint(Perspective()) == fingerprint(Perspective(access=Access("http://x", per_second=9)))
    assert len({fingerprint(p) for p in (Perspective(), Perspective("INSULT"), Perspective(language="de"))}) == 3
    assert Perspective().calls(2, 8) == 8


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path):
    """kill -9 twice in the middle: the same bytes as an uninterrupted run; what arrived was kept."""

    def start(store, address):
        command = [sys.executable, "-m", "tests.feedback.scoring", str(store), address]
        return subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
        )

    with serving(lambda text, n: time.sleep(0.01)) as (address, server):
        make(judged(address), store=tmp_path / "whole", machine=Machine(shard=10))
        assert Counter(server.asked).most_common(1)[0][1] == 1 and len(server.asked) == TEXTS
        server.asked.clear()
        kills = 0
        for wanted in (15, 38):
            process = start(tmp_path / "broken", address)
            while len(server.asked) < wanted and process.poll() is None:
                time.sleep(0.001)
            if process.poll() is None:
                process.kill()
                kills += 1
            process.wait()
        assert kills == 2, "the runs were too quick to be killed"
        assert start(tmp_path / "broken", address).wait(60) == 0
        # One request at a time: a kill can meet one reply on its way, never one that had arrived.
        assert len(set(server.asked)) == TEXTS and len(server.asked) <= TEXTS + kills
        records = []
        for store in (tmp_path / "whole", tmp_path / "broken"):
            with using(store):
                artifact = judged(address)
                counts = artifact.record["counts"]
                records.append(((artifact.path / "groups.jsonl").read_bytes(), {**counts, "cached": 0}))
        assert records[0] == records[1] and records[0][1]["scored"] == TEXTS
