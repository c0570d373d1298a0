"""Serving side by side with `transformers serve`: requests per second and latency, from a second process on loopback.

Both sides serve the same folder on one thread and are asked the same town's questions by the same client. With one
answer per request each side is asked once. With eight candidates ours is asked once (`best_of`, ranked by the policy's
preference head), and the peer eight times, in turn or at once, by a client that then ranks for itself; its ranking is
not counted. The peer runs as it is started, and with its continuous batching; the faster of the two is the peer. Beside
the wall's clock stand the CPU seconds of the server's process, which say more on a machine that others use.

    python -m benchmarks.serve              the race
    python -m benchmarks.serve --soak 10000     a soak of ours: 2 % malformed requests, 2 % clients that leave
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness

CHAT = "/v1/chat/completions"
QUESTIONS = (
    "Who bakes the bread?", "Where does the miller live?", "Please tell me who keeps the keys of the tower.",
    "Is the blue house beside the river?", "What does the smith sell at the market?", "Why is the mill closed?",
    "Who teaches at the school?", "Tell me a story about the town.",
)  # fmt: skip
TOKENS = 64
CANDIDATES = 8


# --- servers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server of one thread, once it is healthy."""
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        ends = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < ends:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ask(port, "/health", None)[0] == 200:
                    break
            time.sleep(0.2)
        else:
            raise SystemExit(f"{' '.join(command)} does not answer")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def ours(folder: Path, port: int, *words: str) -> list[str]:
    """How ours is started."""
    return [sys.executable, "-m", "trueline.cli", "serve", str(folder), "--port", str(port), *words]


def peer(folder: Path, port: int, *words: str) -> list[str]:
    """How the peer is started."""
    program = str(Path(sys.executable).with_name("transformers"))
    return [
        program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype",
        "float32", *words,
    ]  # fmt: skip


def with_head(folder: Path, size: str) -> Path:
    """A town's model with a head beside its weights, untrained: what it costs is what a trained one costs."""
    from trueline import heads, models, world
    from trueline.heads import Head

    loaded = models.load(Path(world.__file__).parent / "models" / size)
    models.save(loaded.model, loaded.tokenizer, folder, Head(pooler="swiglu_bert").build(loaded.model))
    assert heads.found_in(folder)
    return folder


# --- the client ------------------------------------------------------------------------------------------------------


def ask(port: int, path: str, body: Any, connection: Any = None) -> tuple[int, bytes]:
    """Status and body of one request."""
    used = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
    for last in (False, True):
        try:
            used.request("GET" if body is None else "POST", path, sent, {"Content-Type": "application/json"})
            reply = used.getresponse()
            break
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            # A connection that waited for others of its request was closed as idle: a new one is opened.
            used.close()
            if last:
                raise
    said = reply.read()
    if connection is None:
        used.close()
    return reply.status, said


@dataclass(frozen=True)
class Load:
    """`requests` requests by `clients` clients, `calls` calls for each, in turn or at once."""

    port: int
    clients: int
    requests: int
    calls: int
    body: dict[str, Any]
    turn: bool = False

    def run(self) -> dict[str, Any]:
        """Seconds in all, those of each request, and the tokens that were written for it."""
        left, lock = iter(range(self.requests)), threading.Lock()
        took: list[float] = []
        tokens: list[int] = []

        def client() -> None:
            at_once = 1 if self.turn else self.calls
            lines = [http.client.HTTPConnection("127.0.0.1", self.port, timeout=600) for _ in range(at_once)]
            with ThreadPoolExecutor(at_once) as pool:
                while True:
                    with lock:
                        number = next(left, None)
                    if number is None:
                        break
                    began = time.perf_counter()
                    messages = [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]
                    bodies = [{**self.body, "messages": messages, "seed": 8 * number + i} for i in range(self.calls)]
                    calls = zip(lines * (self.calls // at_once), bodies, strict=True)
                    replies = list(pool.map(lambda call: ask(self.port, CHAT, call[1], call[0]), calls))
                    if any(status != 200 for status, _ in replies):
                        raise SystemExit(f"port {self.port} said {replies[0]}")
                    found = [json.loads(said) for _, said in replies]
                    max(found, key=lambda reply: len(reply["choices"][0]["message"]["content"]))
                    with lock:
                        took.append(time.perf_counter() - began)
                        tokens.append(sum(reply["usage"]["completion_tokens"] for reply in found))
            for line in lines:
                line.close()

        began = time.perf_counter()
        crew = [threading.Thread(target=client) for _ in range(self.clients)]
        for one in crew:
            one.start()
        for one in crew:
            one.join()
        seconds = time.perf_counter() - began
        assert len(took) == self.requests
        return {"seconds": seconds, "took": took, "tokens": tokens}


def client() -> None:
    """The second process: a load per line of JSON, its figures as a line of JSON."""
    for line in sys.stdin:
        print(json.dumps(Load(**json.loads(line)).run()), flush=True)


class Client:
    """The process that asks."""

    def __enter__(self) -> Client:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve", "--client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)

    def run(self, load: Load) -> dict[str, Any]:
        """One load's figures."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(load.__dict__) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


# --- the race --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """So many clients, requests of a round, and candidates."""

    clients: int
    requests: int
    candidates: int
    quick: bool = False
    turn: bool = False

    @property
    def name(self) -> str:
        how = "" if self.candidates == 1 else ", the peer asked in turn" if self.turn else ", the peer asked at once"
        return f"n={self.candidates}, {self.clients} client{'s' if self.clients > 1 else ''}{how}"


CASES = (
    Case(1, 8, 1, quick=True), Case(8, 32, 1, quick=True), Case(32, 64, 1), Case(1, 4, CANDIDATES, turn=True),
    Case(8, 8, CANDIDATES, turn=True), Case(1, 4, CANDIDATES, quick=True), Case(8, 8, CANDIDATES),
    Case(32, 32, CANDIDATES),
)  # fmt: skip
OURS, PEER, BATCHING = "ours", "transformers serve", "transformers serve --continuous-batching"
DRAW = {"max_tokens": TOKENS, "temperature": 1.0}


def sampled(folder: Path) -> str:
    """The peer's generation config for the same distribution as ours: it is greedy, or keeps 50 tokens, otherwise."""
    own = json.loads((folder / "generation_config.json").read_text())
    return json.dumps(own | {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": TOKENS})


def race(
    case: Case, asker: Client, ports: dict[str, int], pids: dict[str, int], config: str, repeats: int
) -> harness.Result:
    """One case, in turn; the slower setting of the peer leaves after two rounds."""
    bodies: dict[str, dict[str, Any]] = {name: DRAW | {"generation_config": config} for name in ports}
    bodies[OURS] = dict(DRAW)
    if case.candidates > 1:
        bodies[OURS] = DRAW | {"best_of": case.candidates, "rank_by": "head"}
    took: dict[str, list[list[float]]] = {name: [] for name in ports}
    tokens: dict[str, list[int]] = {name: [] for name in ports}
    cpu: dict[str, list[float]] = {name: [] for name in ports}

    def contestant(name: str) -> harness.Contestant:
        calls = 1 if name == OURS else case.candidates
        load = Load(ports[name], case.clients, case.requests, calls, bodies[name], case.turn and name != OURS)

        def run() -> float:
            began = computed(pids[name])
            found = asker.run(load)
            cpu[name].append((computed(pids[name]) - began) / case.requests)
            took[name].append(found["took"])
            tokens[name] += found["tokens"]
            return float(found["seconds"])

        return run

    seconds = harness.rounds({name: contestant(name) for name in ports}, OURS, repeats)
    peers = [name for name in ports if name != OURS and len(seconds[name]) == repeats]
    best = min(peers, key=lambda name: statistics.median(seconds[name]))
    ratio, low, high = harness.ratios(seconds[OURS], seconds[best])
    kept = {name: list(itertools.chain(*took[name][1:])) for name in (OURS, best)}  # the first round is not counted
    told = [f"{name}: {figures(case, seconds[name], kept[name], tokens[name])}" for name in kept]
    mine, theirs = (statistics.median(cpu[name][1:]) for name in (OURS, best))
    told.append(f"CPU seconds of the server: {1000 * mine:.0f} and {1000 * theirs:.0f} ms, ratio {theirs / mine:.2f}")
    return harness.Result(case.name, ratio, low, high, best, None, f"{case.requests} requests", "; ".join(told))


def computed(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def figures(case: Case, seconds: list[float], took: list[float], tokens: list[int]) -> str:
    """Requests per second, latencies, and the mean number of tokens that a request got written."""
    rate = statistics.median(case.requests / each for each in seconds)
    at = statistics.quantiles(took, n=100, method="inclusive")
    return f"{rate:.1f}/s, p50 {1000 * at[49]:.0f} ms, p99 {1000 * at[98]:.0f} ms, {statistics.mean(tokens):.0f} tokens"


def bench(options: harness.Options) -> Iterator[harness.Result]:
    """One result per case."""
    ports = {OURS: 8141, PEER: 8142, BATCHING: 8143}
    with contextlib.ExitStack() as stack:
        folder = with_head(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "policy", "tiny")
        commands = {
            OURS: ours(folder, ports[OURS]), PEER: peer(folder, ports[PEER]),
            BATCHING: peer(folder, ports[BATCHING], "--continuous-batching"),
        }  # fmt: skip
        pids = {name: stack.enter_context(serving(c, ports[name])).pid for name, c in commands.items()}
        asker = stack.enter_context(Client())
        for case in CASES:
            if (case.quick or not options.quick) and options.wants(case.name):
                yield race(case, asker, ports, pids, sampled(folder), options.repeats)


# --- the soak --------------------------------------------------------------------------------------------------------


def memory(pid: int) -> float:
    """Megabytes that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def kinds(model: str) -> list[dict[str, Any]]:
    """Requests whose answers are known beforehand: each with a seed."""
    out = []
    for seed, question in enumerate(QUESTIONS):
        body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 24, "seed": seed}
        out += [body, body | {"best_of": 4}, body | {"stream": True}]
    return out


def said(body: dict[str, Any], reply: bytes) -> str:
    """The answer in a reply, whole or streamed."""
    if not body.get("stream"):
        return str(json.loads(reply)["choices"][0]["message"]["content"])
    events = [line[6:] for line in reply.decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-1]
    return "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in events[:-1])


BROKEN = (b"{", b'{"messages": []}', b'{"n": 1}', b"\xff", b'{"messages": [{"role": "user", "content": 3}]}')


def soak(port: int, pid: int, requests: int, clients: int = 8, model: str | None = None) -> dict[str, Any]:
    """Requests of all kinds, 2 % malformed, 2 % left by their client; counts, and memory in tenths of the way."""
    model = model or json.loads(ask(port, "/v1/models", None)[1])["data"][0]["id"]
    asked = kinds(model)
    wanted = [said(body, ask(port, CHAT, body)[1]) for body in asked]
    counts: Counter[str] = Counter()
    held: dict[int, float] = {}
    left, lock = iter(range(requests)), threading.Lock()

    def one(number: int, connection: Any) -> str:
        if number % 50 == 7:
            status, _ = ask(port, CHAT, BROKEN[number // 50 % len(BROKEN)], connection)
            return "malformed, 400" if status == 400 else f"malformed, {status}"
        if number % 50 == 32:
            leave(port, asked[0] | {"max_tokens": 400, "min_tokens": 400, "stream": number % 100 == 32})
            return "left"
        at = random.Random(number).randrange(len(asked))
        status, reply = ask(port, CHAT, asked[at], connection)
        if status != 200:
            return f"status {status}"
        return "answered" if said(asked[at], reply) == wanted[at] else "wrong"

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while True:
            with lock:
                number = next(left, None)
                if number is not None and number % max(1, requests // 10) == 0:
                    held[number] = memory(pid)
            if number is None:
                break
            try:
                outcome = one(number, connection)
            except (OSError, http.client.HTTPException) as error:
                outcome = f"broke: {type(error).__name__}"
                connection.close()
            with lock:
                counts[outcome] += 1
        connection.close()

    began = time.perf_counter()
    crew = [threading.Thread(target=work) for _ in range(clients)]
    for each in crew:
        each.start()
    for each in crew:
        each.join()
    seconds = time.perf_counter() - began
    held[requests] = memory(pid)
    return {"counts": dict(counts), "memory": held, "seconds": seconds}


def leave(port: int, body: dict[str, Any]) -> None:
    """Ask for much, and hang up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", CHAT, json.dumps(body))
    if body["stream"]:
        connection.getresponse().read(64)
    connection.close()


def soaked(requests: int) -> None:
    """The soak on a server of its own, told."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = with_head(Path(scratch) / "policy", "tiny")
        with serving(ours(folder, 8144), 8144) as process:
            found = soak(8144, process.pid, requests)
            numbers = ask(8144, "/metrics", None)[1].decode()
        print(json.dumps(found, indent=1))
        print("\n".join(line for line in numbers.splitlines() if re.match(r"trueline_(requests_|rows|disc)", line)))
        print(harness.machine())


if __name__ == "__main__":
    if sys.argv[1:] == ["--client"]:
        client()
    elif sys.argv[1:2] == ["--soak"]:
        soaked(int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
    else:
        harness.main("serve", bench, __doc__.splitlines()[0])
