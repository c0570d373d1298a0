"""A real HTTP server on loopback that speaks OpenAI's chat and completion protocols and Anthropic's messages.

    with Loopback(faults={0.05: (429, 500, "cut")}) as server:
        OpenAI("m", Connection(server.url + "/v1"))

Answers are a function of what is asked (`Loopback.say`), by default words that depend on the last message, the seed and
the temperature, so that a rerun on the same server says the same. Faults are injected per request, by a seeded coin or
as a script; the server counts what it was asked, what it answered, and how many requests were in flight at once.

Run as a program it serves until it is killed and appends one JSON line per request to a file:
python -m tests.sample.served.loopback LOG DELAY
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = (
    "Ada", "bakes", "bread", "Bert", "sells", "it", "at", "the", "market", "every", "morning", "Clara", "keeps", "keys",
    "of", "tower", "and", "river",
)  # fmt: skip
KEY = "sk-test-0123456789abcdef"


class Loopback:
    """faults: what goes wrong, in turn: a status, (status, headers) or (status, headers, body), "cut" (JSON that breaks
    off), "short" (fewer bytes than announced), "drop" (the connection is closed), "html" (a page instead of JSON),
    "hang" (nothing, until the client goes), or a number of seconds to answer late; None is no fault. share: of further
    requests that get a fault of `mixed`. fails: the fault of a request by its body.
    """

    def __init__(
        self, faults=(), share=0.0, mixed=(), delay=0.0, say=None, log=None, key=None, ignore_n=False, fails=None
    ):
        self.fails = fails or (lambda body: None)
        self.faults, self.share, self.mixed, self.delay = list(faults), share, tuple(mixed), delay
        self.say, self.log, self.key, self.ignore_n, self.usage = say or words, log, key, ignore_n, True
        self.lock, self.coin = threading.Lock(), random.Random(0)
        self.asked, self.answered, self.injected, self.drawn = [], Counter(), Counter(), Counter()
        self.in_flight = self.most_in_flight = 0
        self.times = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def fault(self):
        with self.lock:
            if self.faults:
                found = self.faults.pop(0)
            else:
                found = self.coin.choice(self.mixed) if self.mixed and self.coin.random() < self.share else None
            if found is not None:
                self.injected[str(found)] += 1
            return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Loopback

    def handle(self):
        with contextlib.suppress(ConnectionError):  # a client that gave up waiting
            super().handle()

    def log_message(self, *said):
        pass

    def do_POST(self):
        o = self.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with o.lock:
            o.asked.append((self.path, body, dict(self.headers)))
            o.times.append(time.monotonic())
            o.in_flight += 1
            o.most_in_flight = max(o.most_in_flight, o.in_flight)
        self.asking = True
        try:
            self.answer(o, body)
        finally:
            self.over()

    def over(self):
        """One less in flight, once per request: said before the client can know and send the next."""
        with self.owner.lock:
            self.owner.in_flight -= self.asking
            self.asking = False

    def answer(self, o, body):
        if o.key and o.key not in self.headers.get("Authorization", ""):
            said = f"Incorrect API key provided: {self.headers.get('Authorization')}"
            return self.send(401, {"error": {"message": said, "code": "invalid_api_key"}})
        fault = o.fault() or o.fails(body)
        if isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, int):
            return self.send(fault, {"error": {"message": "injected", "type": "injected"}})
        elif isinstance(fault, tuple):
            status, headers, said = (*fault, {"error": {"message": "injected"}})[:3]
            return self.send(status, said, headers)
        elif fault == "drop":
            self.over()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        elif fault == "hang":
            self.connection.recv(1)
            self.close_connection = True
            return None
        elif fault == "html":
            return self.send(200, "<html>A page</html>", kind="text/html")
        time.sleep(o.delay)
        made = REPLIES[self.path.rsplit("/v1/", 1)[-1]](o, body)
        if fault in ("cut", "short"):
            return self.send(200, made, broken=fault)
        with o.lock:
            o.answered[asked_of(body)] += 1
            if o.log:
                with open(o.log, "a") as file:
                    file.write(json.dumps(asked_of(body)) + "\n")
        return self.send(200, made)

    def send(self, status, said, headers=None, kind="application/json", broken=""):
        raw = (said if isinstance(said, str) else json.dumps(said)).encode()
        whole = len(raw)
        raw = raw[: whole // 2] if broken else raw
        self.over()
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(whole if broken == "short" else len(raw)))
        self.end_headers()
        self.wfile.write(raw)
        if broken == "short":
            self.close_connection = True


def asked_of(body):
    """What tells one question from another where the protocol has a seed."""
    text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return f"{text}|{body.get('seed')}"


def words(body, number):
    """24 words at most, a function of the text, the seed and the number of the answer; some end early."""
    seed = "greedy" if body.get("temperature") == 0 else f"{body.get('seed', 0)} {number}"
    coin = random.Random(hashlib.sha256(f"{asked_of(body).split('|')[0]} {seed}".encode()).hexdigest())
    return " ".join(coin.choice(WORDS) for _ in range(coin.randint(5, 24))) + "."


def written(o, body, number, limit):
    """(text, finish) of one answer, cut at stop texts and after `limit` words, as a model would be."""
    said = o.say(body, number)
    if isinstance(said, tuple):
        return said
    stops = body.get("stop") or body.get("stop_sequences") or []
    tokens = [w if i == 0 else " " + w for i, w in enumerate(said.split(" "))] if said else []
    text = ""
    for count, token in enumerate(tokens):
        if count == limit:
            return text, "length"
        text += token
        found = [text.find(s) for s in stops if s in text]
        if found:
            return text[: min(found)], "stop"
    return text, "stop"


def _limit(body):
    return body.get("max_completion_tokens") or body.get("max_tokens")


def _usage(o, body, texts):
    if not o.usage:
        return None
    read = [m["content"] for m in body["messages"]] if "messages" in body else [body["prompt"]]
    prompt = sum(len(text.split()) for text in read)
    written = sum(len(t.split()) for t in texts)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def chat(o, body):
    said = [written(o, body, i, _limit(body)) for i in range(1 if o.ignore_n else body.get("n", 1))]
    choices = []
    for i, (text, finish) in enumerate(said):
        refusal, told = ("No.", None) if finish == "refusal" else (None, text)
        choice = {"index": i, "finish_reason": "stop" if refusal else finish}
        choice["message"] = {"role": "assistant", "content": told, "refusal": refusal}
        if body.get("functions"):
            choice["message"] |= {"content": None, "function_call": {"name": "f", "arguments": told}}
            choice["finish_reason"] = "function_call"
        if body.get("tools"):
            call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": told}}
            choice["message"] |= {"content": None, "tool_calls": [call]}
            choice["finish_reason"] = "tool_calls"
        if body.get("top_logprobs"):
            tops = [("m", -0.2), (" m", -2.5), ("M", -3.0), ("x", -5.0)]
            tops = [{"token": t, "logprob": p, "bytes": None} for t, p in tops]
            choice["logprobs"] = {"content": [{"token": "m", "logprob": -0.2, "top_logprobs": tops}]}
        choices.append(choice)
    return {
        "id": "c", "object": "chat.completion", "created": 0, "model": body["model"], "choices": choices,
        "usage": _usage(o, body, [t for t, _ in said]),
    }  # fmt: skip


def completions(o, body):
    """Tokens are words with the space before them, "<end>", and single signs; a log-prob is minus a tenth of a token's
    length. An echo begins with a BOS that the text lacks, as some servers' do."""
    said = [written(o, body, i, _limit(body)) for i in range(1 if o.ignore_n else body.get("n", 1))]
    choices = [{"index": i, "text": text, "finish_reason": finish} for i, (text, finish) in enumerate(said)]
    if body.get("echo"):
        tokens = ["<s>", *re.findall(r"<end>| ?\w+|\W", body["prompt"] + " more")]
        logps = [None, *(-len(t) / 10 for t in tokens[1:])]
        choices[0] |= {"text": body["prompt"] + " more", "logprobs": {"tokens": tokens, "token_logprobs": logps}}
    elif body.get("logprobs"):
        choices[0]["logprobs"] = {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1, " b": -2.0}]}
    return {
        "id": "c", "object": "text_completion", "created": 0, "model": body["model"], "choices": choices,
        "usage": _usage(o, body, [t for t, _ in said]),
    }  # fmt: skip


def messages(o, body):
    """The protocol has no seed: the same request says something else each time, in a fixed order."""
    with o.lock:
        number = o.drawn[json.dumps(body, sort_keys=True)]
        o.drawn[json.dumps(body, sort_keys=True)] += 1
    text, finish = written(o, body, number, body["max_tokens"])
    reason = {"stop": "end_turn", "length": "max_tokens"}.get(finish, finish)
    usage = _usage(o, body, [text]) or {"prompt_tokens": 0, "completion_tokens": 0}
    return {
        "id": "m", "type": "message", "role": "assistant", "model": body["model"], "stop_reason": reason,
        "content": [{"type": "text", "text": text}] if text else [],
        "usage": {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
    }  # fmt: skip


REPLIES = {"chat/completions": chat, "completions": completions, "messages": messages}


if __name__ == "__main__":
    with Loopback(log=sys.argv[1], delay=float(sys.argv[2])) as serving:
        print(serving.url, flush=True)
        threading.Event().wait()
