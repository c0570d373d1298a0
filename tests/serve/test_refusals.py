"""What bad input gets: a status, OpenAI's error body, and a server that goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.serve.running import post, running
from trueline import cli

ASKED = [{"role": "user", "content": "Who bakes the bread?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "Ada."}]
LONG = {"model": "bare", "messages": ASKED, "max_tokens": 8000, "min_tokens": 8000}
CHAT, TEXT, REWARDS = "/v1/chat/completions", "/v1/completions", "/v1/rewards"


@pytest.fixture(autouse=True)
def goes_on(server):
    """After every test the server answers, and nothing is left in it."""
    yield
    assert server.ask(CHAT, {"messages": ASKED, "max_tokens": 4})[0] == 200
    assert server.until("trueline_requests_in_flight", 0) and server.until("trueline_rows", 0)
    assert not [line for line in server.log if "Traceback" in line]


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "said"),
    [
        (CHAT, {"messages": ASKED, "model": "rankr"}, 404, "model", 'Did you mean "ranker"'),
        (CHAT, {"messages": ASKED, "model": "bare", "rank_by": "head", "n": 2}, 400, "rank_by", "no preference head"),
        (CHAT, {"messages": ASKED, "model": "judge"}, 400, "model", "reads answers"),
        (CHAT, {"messages": ASKED, "rank_by": "head", "head": "tune"}, 400, "head", 'Did you mean "tone"'),
        (CHAT, {"messages": ASKED, "rank_by": "coin"}, 400, "rank_by", "Invalid enum value"),
        (CHAT, "{", 400, None, "not JSON"),
        (CHAT, b"\xff\xfe", 400, None, "not JSON"),
        (CHAT, "[" * 100_000, 400, None, ""),
        (CHAT, "[1]", 400, None, "Expected `object`"),
        (CHAT, {"messages": ASKED, "temprature": 1}, 400, "temprature", 'Did you mean "temperature"'),
        (CHAT, {"messages": ASKED, "n": "two"}, 400, "n", "Expected `int"),
        (CHAT, {"messages": ASKED, "n": 0}, 400, "n", "at least 1"),
        (CHAT, {"messages": ASKED, "n": 65}, 400, "n", "at most 64"),
        (CHAT, {"messages": ASKED, "n": 4, "best_of": 2}, 400, "best_of", "fewer than n"),
        (CHAT, {"messages": ASKED, "n": 2, "stream": True}, 400, "n", "one answer"),
        (CHAT, {"messages": ASKED, "n": 2, "temperature": 0}, 400, "n", "1 at temperature 0"),
        (CHAT, {"messages": ASKED, "temperature": -1}, 400, "temperature", "at least 0"),
        (CHAT, {"messages": ASKED, "top_p": 0}, 400, "top_p", "above 0"),
        (CHAT, {"messages": ASKED, "stop": [""]}, 400, "stop", "not empty"),
        (CHAT, {"messages": ASKED, "max_tokens": 0}, 400, "max_tokens", "1 to 8000"),
        (CHAT, {"messages": ASKED, "max_tokens": 9000}, 400, "max_tokens", "1 to 8000"),
        (CHAT, {"messages": ASKED, "tools": [{"type": "function"}]}, 400, "tools", "not supported"),
        (CHAT, {"messages": ASKED, "presence_penalty": 0.5}, 400, "presence_penalty", "not supported"),
        (CHAT, {"model": "ranker"}, 400, "messages", "missing required field"),
        (CHAT, {"messages": []}, 400, "messages", "empty"),
        (CHAT, {"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role", "Invalid enum"),
        (CHAT, {"messages": [*ASKED, {"role": "assistant", "content": "Ada"}]}, 400, "messages", "assistant"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0]", "reads text"),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 300}]}, 400, "messages", "look at 256"),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 100_000}]}, 400, "messages", "look at 256"),
        (CHAT, {"messages": ASKED, "max_tokens": 250}, 400, "messages", "250 are asked for"),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 300}], "stream": True}, 400, "messages", "look at"),
        (TEXT, {"prompt": ""}, 400, "prompt", "not empty"),
        (TEXT, {"prompt": ["a", "b"]}, 400, "prompt", "2 texts"),
        (TEXT, {"prompt": "a", "rank_by": "head", "n": 2}, 400, "rank_by", "read conversations"),
        (TEXT, {"prompt": "a", "echo": True}, 400, "echo", "not supported"),
        (REWARDS, {"messages": ASKED}, 400, "conversations[0]", "ends with the turn of user"),
        (REWARDS, {}, 400, "conversations", "either"),
        (REWARDS, {"model": "bare", "messages": ANSWERED}, 400, "rank_by", "no preference head"),
        (REWARDS, {"messages": [*ASKED, {"role": "assistant", "content": "a " * 400}]}, 400, "conversations[0]", "256"),
        ("/v1/embeddings", {}, 404, None, "nothing at"),
    ],
)  # fmt: skip
def test_a_mistake_has_a_status_and_names_its_field(server, path, body, status, param, said):
    got, reply, headers = server.ask(path, body)
    assert got == status and set(reply) == {"error"}, reply
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert reply["error"]["param"] == param and said in reply["error"]["message"], reply
    assert headers["content-type"] == "application/json"


def test_a_wrong_method_and_a_strange_request_line(server):
    assert server.ask(CHAT)[0] == 405
    with server.socket(b"\x16\x03\x01 hello\r\n\r\n") as raw:
        assert b"400" in raw.recv(100)


def test_openais_client_reads_the_mistakes(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="ranker", messages=[{"role": "user", "content": "word " * 300}])
    assert refused.value.code == "context_length_exceeded" and refused.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt", messages=ASKED)
    assert unknown.value.code == "model_not_found" and unknown.value.type == "not_found_error"


def test_ten_megabytes_are_refused_and_the_sender_hears_why(server):
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 10_000_000}]})
    status, reply, headers = server.ask(CHAT, body)
    assert status == 413 and reply["error"]["code"] == "too_large" and headers["connection"] == "close"


def test_a_body_that_says_nothing_of_its_size_is_bounded_too(server):
    with server.socket(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n") as raw:
        for _ in range(40):
            raw.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        raw.sendall(b"0\r\n\r\n")
        assert raw.recv(30).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_gives_its_rows_back(server, stream):
    """8,000 tokens take many seconds; the rows are free before they are written."""
    left = server.meter("trueline_disconnects_total")
    raw = server.socket(post(CHAT, LONG | {"stream": stream, "best_of": 1 if stream else 6}))
    assert server.until("trueline_rows", 1 if stream else 6)
    if stream:
        assert raw.recv(200).startswith(b"HTTP/1.1 200")
    raw.close()
    assert server.until("trueline_rows", 0, 5) and server.until("trueline_requests_in_flight", 0, 5)
    assert server.meter("trueline_disconnects_total") == left + 1
    assert server.meter(f'trueline_requests_total{{route="{CHAT}",status="500"}}') == 0


def test_a_slow_loris_is_shown_out(server):
    """Two seconds of patience, whether a byte comes now and then or none; others are answered meanwhile."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    begun = [b"", b"POST /v1/chat/comp", head + b"X-Slow: ", head + b"Content-Length: 100\r\n\r\n{"]
    began = time.monotonic()
    slow = {server.socket(sent): b"" for sent in begun}
    while any(slow) and time.monotonic() - began < 9 and not all(b"too_slow" in said for said in slow.values()):
        time.sleep(0.2)
        for raw, said in slow.items():
            with contextlib.suppress(TimeoutError, OSError):
                raw.settimeout(0.05)
                slow[raw] = said + raw.recv(4096)
            with contextlib.suppress(OSError):
                raw.sendall(b"x" if not said and raw is not next(iter(slow)) else b"")
        if time.monotonic() - began < 1:
            assert server.ask("/health")[0] == 200 and not any(slow.values())
    assert 1 < time.monotonic() - began < 8
    assert all(said.startswith(b"HTTP/1.1 408") and b'"code":"too_slow"' in said for said in slow.values())
    for raw in slow:
        raw.close()


def test_a_slow_second_request_of_a_connection_is_shown_out_too(server):
    with server.socket(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as raw:
        said = b""
        while not said.endswith(b"}"):
            said += raw.recv(4096)
        raw.sendall(b"GET /hea")
        assert said.startswith(b"HTTP/1.1 200") and raw.recv(4096).startswith(b"HTTP/1.1 408")


# --- a server with a key, a queue of 32 and little time --------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(folders):
    words = ("--limits.queue", "32", "--limits.timeout", "8", "--limits.max-tokens", "8000", "--limits.candidates", "8")
    with running(folders / "bare", *words, key="first, second".replace(" ", "")) as found:
        yield found


def test_only_who_shows_a_key_is_let_in(strict):
    body = {"messages": ASKED, "max_tokens": 4}
    for key in ("", "third", "firs", "first,second"):
        status, reply, headers = strict.ask(CHAT, body, key=key)
        assert status == 401 and reply["error"]["code"] == "invalid_api_key" and "www-authenticate" in headers
        assert "first" not in json.dumps(reply)
    assert strict.ask("/v1/models")[0] == 401
    assert [strict.ask(CHAT, body, key=key)[0] for key in ("first", "second")] == [200, 200]
    assert strict.ask("/health")[0] == 200 and strict.ask("/")[0] == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=strict.url + "/v1", api_key="wrong", max_retries=0).models.list()


def test_two_hundred_clients_at_once_on_a_queue_of_32(strict):
    """Whoever finds no place hears so at once, and when to come again; who has one is answered."""
    statuses, waits, lock = Counter(), [], threading.Lock()
    body = {"messages": ASKED, "max_tokens": 40, "min_tokens": 40}

    def ask():
        status, reply, headers = strict.ask(CHAT, body, key="first")
        with lock:
            statuses[status] += 1
            if status == 429:
                waits.append(int(headers["retry-after"]))
                assert reply["error"]["type"] == "rate_limit_error" and reply["error"]["code"] == "queue_full"
            elif status == 200:
                assert reply["usage"]["completion_tokens"] == 40

    crew = [threading.Thread(target=ask) for _ in range(200)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    assert sum(statuses.values()) == 200 and set(statuses) == {200, 429}
    assert statuses[200] >= 32 and all(1 <= wait <= 60 for wait in waits)
    assert strict.until("trueline_requests_in_flight", 0)
    assert strict.ask(CHAT, {"messages": ASKED, "max_tokens": 4}, key="first")[0] == 200


def test_what_takes_too_long_ends(strict):
    """A whole answer gets a status; a stream, whose status has gone out by then, an error as its last event; and who
    never reads a stream, so that its events fill what the connection holds, is not waited for."""
    body = {"messages": ASKED, "max_tokens": 8000, "min_tokens": 8000}
    with ThreadPoolExecutor(2) as pool, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", strict.port))
        deaf.sendall(post(CHAT, body | {"stream": True}).replace(b"Host: x", b"Host: x\r\nAuthorization: Bearer first"))
        sent = ({"best_of": 8}, {"stream": True})
        whole, stream = pool.map(lambda of: strict.ask(CHAT, body | of, key="first"), sent)
        assert strict.until("trueline_requests_in_flight", 0)
    assert whole[0] == 504 and whole[1]["error"]["type"] == "timeout_error"
    assert stream[0] == 200 and '"code":"timeout"' in stream[1].splitlines()[-2]
    assert strict.until("trueline_rows", 0)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_sigterm_lets_answers_finish(strict):
    """A stream under way is carried to its end, nobody new is let in, and the process ends well."""
    raw = strict.socket(
        post(CHAT, {"messages": ASKED, "max_tokens": 250, "min_tokens": 250, "stream": True}).replace(
            b"Host: x", b"Host: x\r\nAuthorization: Bearer first"
        )
    )
    said = raw.recv(2000)
    os.kill(strict.process.pid, signal.SIGTERM)
    time.sleep(0.2)
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", strict.port), timeout=5) as late:
        late.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert late.recv(10), "let in"
        raise AssertionError("answered")
    while piece := raw.recv(65536):
        said += piece
    assert b"data: [DONE]" in said and b'"finish_reason":"length"' in said
    assert strict.process.wait(20) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--also", "bare"), "NAME=FOLDER"),
        (("--also", "ranker={bare}"), "two models are called"),
        (("--by", "reward-model"), "No reward model is served"),
        (("--limits.queue", "0"), "--limits.queue: got 0"),
        (("--port", "99999"), "an address to listen at"),
        (("--reward-model", "{bare}"), "no preference head"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_listens(folders, capsys, words, said):
    words = [word.format(bare=folders / "bare") for word in words]
    words = words if "--port" in words else ["--port", "0", *words]
    assert cli.main(["serve", str(folders / "ranker"), *words]) == 2
    assert said in capsys.readouterr().err
