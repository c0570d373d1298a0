"""Faults: nothing lost, nothing asked twice, never more in flight than allowed, and what will not pass said at once."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time

import pytest
from hypothesis import given as drawn_by
from hypothesis import settings
from hypothesis import strategies as st

from tests.sample.served.loopback import KEY, Loopback
from tests.sample.served.test_engines import ASKED, ask, fast
from trueline.errors import UserError
from trueline.records import Prompt
from trueline.sample.protocol import Sampling
from trueline.sample.served import Anthropic, OpenAI
from trueline.sample.served.asking import Pace, Stopped, in_threads
from trueline.sample.served.connection import Connection
from trueline.sample.served.faults import Passing, said, wait_asked
from trueline.store import using

FAULTS = (429, 500, 503, 529, 408, "cut", "short", "drop", "html", 0.6, (429, {"Retry-After": "0.02"}))
PROMPTS = [Prompt.of(f"Question number {i}?") for i in range(60)]


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_an_error_that_may_pass_is_asked_again(fault, kind):
    with Loopback([fault, None]) as server:
        made = OpenAI("m", fast(server, timeout_s=0.4)) if kind == "openai" else Anthropic("m", fast(server, ""))
        if kind == "anthropic":
            made = Anthropic("m", fast(server, "", timeout_s=0.4))
        (answer,), metered = ask(made)
        assert answer.text and len(server.asked) == 2
        assert (metered["calls"], metered["retries"]) == (1, 1)


def test_many_faults_lose_nothing_and_ask_nothing_twice():
    """60 prompts, two answers each, a third of the requests ill: 120 replies, each sent whole exactly once."""
    with Loopback(share=0.33, mixed=[f for f in FAULTS if f != 0.6]) as server:
        engine = OpenAI("m", fast(server, concurrency=16, retries=20))
        answers, metered = ask(engine, *PROMPTS, n=2, max_tokens=8)
        assert len(server.answered) == sum(server.answered.values()) == metered["calls"] == 120
        assert metered["retries"] == sum(server.injected.values()) > 30
        assert all(c.text for of in answers for c in of)
        again, metered = ask(engine, *PROMPTS, n=2, max_tokens=8)
        assert again == answers and metered["cached_calls"] == 120
        assert sum(server.answered.values()) == 120


@settings(max_examples=15)
@drawn_by(st.lists(st.sampled_from([429, 500, "cut", "short", "drop", None]), max_size=8), st.integers(1, 6))
def test_whatever_comes_in_whatever_order(tmp_path_factory, faults, concurrency):
    with using(tmp_path_factory.mktemp("store")), Loopback(faults) as server:
        engine = OpenAI("m", fast(server, concurrency=concurrency, retries=8, backoff_s=0.001))
        answers, _ = ask(engine, *PROMPTS[:6], max_tokens=4)
        assert len(answers) == 6 == sum(server.answered.values())
        assert server.most_in_flight <= concurrency


def test_no_more_in_flight_than_allowed():
    """24 requests of 0.05 s in four at a time: six rounds, not one after the other and not all at once."""
    with Loopback(delay=0.05) as server:
        start = time.monotonic()
        ask(OpenAI("m", fast(server, concurrency=4)), *PROMPTS[:24], max_tokens=4)
        assert server.most_in_flight == 4 and time.monotonic() - start >= 0.3


def test_waits_grow():
    """From 0.1 s on doubled, with as much jitter at most: at least 0.1, 0.2, 0.4 s."""
    with Loopback([500, 500, 500]) as server:
        ask(OpenAI("m", fast(server, backoff_s=0.1, longest_s=5.0)))
        waits = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
        assert all(least <= wait < 5 for least, wait in zip((0.1, 0.2, 0.4), waits, strict=True))


def test_a_wait_that_the_server_asks_for_holds_everybody_back():
    with Loopback([(429, {"Retry-After": "0.5"})], delay=0.05) as server:
        ask(OpenAI("m", fast(server, concurrency=2)), *PROMPTS[:12], max_tokens=4)
        gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
        assert max(gaps) >= 0.4


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None), ({"retry-after": "3"}, 3.0), ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, None), ({"retry-after": "-1"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)  # fmt: skip
def test_what_wait_is_asked_for(headers, seconds):
    assert wait_asked(headers) == seconds


def test_a_wait_beyond_patience_ends_the_run():
    with Loopback([(429, {"Retry-After": "3600"})]) as server:
        with pytest.raises(UserError, match=r"asks to wait 3600 seconds; at most patience_s=300.*run again later"):
            ask(OpenAI("m", fast(server)))
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ((404, {}, {"error": {"message": "no such model"}}), "no such model; a server that knows the model 'm'"),
        ((400, {}, {"error": {"message": "bad", "code": "context_length_exceeded"}}), "room for prompt and answer"),
        ((400, {}, {"error": {"message": "temperature: not permitted"}}), r"not permitted.*omit=\(\"temperature\",\)"),
        ((402, {}, {}), "an account with credit"),
        ((429, {}, {"error": {"message": "quota", "code": "insufficient_quota"}}), "an account with credit"),
        ((403, {}, {"error": {"message": KEY}}), "a key that may use m"),
        ((501, {}, "no"), "a request that the server takes"),
        ((422, {}, {"detail": [{"loc": ["body"], "msg": f"field {KEY}"}]}), r"status 422: .*\[key\]"),
    ],
)  # fmt: skip
def test_what_will_not_pass_is_said_at_once(fault, wanted):
    with Loopback([fault]) as server:
        with pytest.raises(UserError, match=wanted) as error:
            ask(OpenAI("m", fast(server)))
        assert len(server.asked) == 1
        assert KEY not in str(error.value) and error.value.__suppress_context__
        assert str(error.value).startswith(f"engine served:m (http://127.0.0.1:{server.url.rsplit(':')[-1]}/v1)")


def test_what_does_not_pass_in_time_ends_the_run_and_keeps_what_came():
    """The third question is never answered: the other replies are kept, and a rerun asks only for what is missing."""
    with Loopback([None, None] + [500] * 4) as server:
        with pytest.raises(UserError, match=r"no reply after 4 attempts; the last: status 500: injected.*run again"):
            ask(OpenAI("m", fast(server, concurrency=1, retries=3)), *PROMPTS[:5], max_tokens=4)
        assert sum(server.answered.values()) == 2
        answers, metered = ask(OpenAI("m", fast(server, concurrency=1, retries=3)), *PROMPTS[:5], max_tokens=4)
        assert len(answers) == 5 and metered["cached_calls"] == 2 and sum(server.answered.values()) == 5


def test_no_server_at_all():
    with pytest.raises(UserError, match=r"no reply after 2 attempts; the last: the connection broke \(ConnectError"):
        ask(OpenAI("m", Connection("http://127.0.0.1:9/v1", retries=1, backoff_s=0.01)))


def test_what_is_in_flight_when_the_run_ends_is_kept():
    """One of four is refused while three are on their way: these are paid for, come in, and are not asked again."""

    def say(body, number):
        time.sleep(0.2)
        return "Ada."

    with Loopback([None, None, None, (404, {}, {})], say=say) as server:
        with pytest.raises(UserError, match="status 404"):
            ask(OpenAI("m", fast(server, concurrency=4)), *PROMPTS[:10], max_tokens=4)
        came = sum(server.answered.values())
        assert came == 3
        _, metered = ask(OpenAI("m", fast(server, concurrency=4)), *PROMPTS[:10], max_tokens=4)
        assert metered["cached_calls"] == 3 and sum(server.answered.values()) == 10


def test_ctrl_c_keeps_what_is_in_flight():
    """Pressed while the eighth question is answered: nothing new is sent, and what was on its way is kept."""
    count = itertools.count(1)

    def say(body, number):
        if next(count) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        return "Ada."

    with Loopback(say=say) as server:
        with pytest.raises(KeyboardInterrupt):
            ask(OpenAI("m", fast(server, concurrency=3)), *PROMPTS, max_tokens=4)
        came = sum(server.answered.values())
        assert 8 <= came < 20 and server.in_flight == 0
        _, metered = ask(OpenAI("m", fast(server, concurrency=3)), *PROMPTS, max_tokens=4)
        assert metered["cached_calls"] == came and sum(server.answered.values()) == len(PROMPTS)


def test_a_stop_ends_waits_at_once():
    """A thread that waits for its next attempt when another ends the run does not wait on."""
    pace, start = Pace("engine x", Connection(backoff_s=30.0, concurrency=2)), time.monotonic()
    waiting = threading.Event()

    def work(item):
        if item == "slow":

            def send():
                waiting.set()
                raise Passing("down")

            pace.patiently(send)
        waiting.wait(5)
        time.sleep(0.05)
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        in_threads(["slow", "bad", "never"], work, pace)
    assert time.monotonic() - start < 5
    with pytest.raises(Stopped):
        pace.patiently(lambda: 1)


def test_long_waits_are_told(caplog):
    def send():
        raise Passing("status 429", after_s=6.0)

    pace = Pace("engine x", Connection(backoff_s=0.01))
    threading.Timer(0.2, pace.stop.set).start()
    with caplog.at_level(logging.WARNING, "trueline"), pytest.raises(Stopped):
        pace.patiently(send)
    assert "engine x: status 429; waiting 6 s" in caplog.text


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"error": {"code": "c", "message": "m"}}, ("c", "m")), ({"error": {"type": "t", "message": "m"}}, ("t", "m")),
        ({"error": "flat"}, ("", "flat")), ({"detail": "d"}, ("", "d")), ("text", ("", "text")), (None, ("", "")),
    ],
)  # fmt: skip
def test_what_servers_say_of_an_error(body, wanted):
    assert said(body) == wanted


def test_the_engine_is_closed_when_the_last_leaves(tmp_path):
    with Loopback() as server:
        engine = OpenAI("m", fast(server))
        with engine:
            with engine:
                engine.generate([ASKED], Sampling(max_tokens=4))
            engine.generate([ASKED], Sampling(max_tokens=5))
        assert vars(engine).get("_session") is None
