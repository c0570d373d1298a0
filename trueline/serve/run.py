"""`trueline serve POLICY`: open the models, listen, answer, and on SIGTERM finish what was begun."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trueline import machine as machines
from trueline import store as stores
from trueline.errors import UserError
from trueline.serve.limits import Limits

if TYPE_CHECKING:
    from trueline.serve.policies import House

KEYS = "TRUELINE_API_KEY"


def serve(
    *,
    policy: str,
    also: tuple[str, ...] = (),
    name: str = "",
    reward_model: str = "",
    by: Literal["auto", "head", "reward-model", "logprob"] = "auto",
    head: str = "",
    best: str = "",
    worst: str = "",
    chat: Literal["auto", "template", "chatml", "plain"] = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    store: Path | None = None,
) -> None:
    """Serve a policy behind OpenAI's protocol: candidates ranked by its preference head, a reward model or log-prob.

    With $TRUELINE_API_KEY set (several keys apart by commas), clients have to show one.

    Args:
        policy: who answers: a model folder, the name of a policy in the store, or a hub id.
        also: other policies to serve beside it, as NAME=FOLDER, apart by commas or spaces.
        name: what the policy is called on the wire (default: its folder's name).
        reward_model: a model that may rank candidates, named as the policy is.
        by: who ranks where a request does not say; auto is the policy's head, else the reward model, else log-prob.
        head: which head ranks, where there are several (default: the first).
        best: what asks the policy for its best, for one that does not know (see docs/conditions.md).
        worst: what asks it for its worst.
        chat: how conversations are rendered.
        host: address to listen at; 0.0.0.0 for other machines too.
        port: port to listen at; 0 takes a free one.
        store: folder of the store (default: $TRUELINE_STORE, else ./store).
    """
    missing = [m for m in ("fastapi", "uvicorn", "prometheus_client") if importlib.util.find_spec(m) is None]
    if missing:
        raise UserError("trueline serve", f"{', '.join(missing)} is not installed", "", "pip install 'trueline[serve]'")
    from trueline.serve.policies import opened

    with stores.using(store or stores.current()):
        given = [_named(policy, name), *(_beside(word) for word in also)]
        reader = _named(reward_model, "") if reward_model else None
    with listening(host, port) as door:
        house = opened(
            given, reader, by=by, head=head, best=best, worst=worst, chat=chat, machine=machines.current()
        )  # fmt: skip
        answer(house, limits, door, tuple(filter(None, os.environ.get(KEYS, "").split(","))))


def _named(policy: str, name: str) -> tuple[str, Path]:
    from trueline.models import label_of, named

    folder = named(policy)
    return name or label_of(folder.resolve().name), folder


def _beside(word: str) -> tuple[str, Path]:
    name, equals, folder = word.partition("=")
    if not (name and equals and folder):
        raise UserError("--also", f"got {word!r}", "NAME=FOLDER")
    return _named(folder, name)


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; models are opened only where there is one."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        cure = "Choose another: --port 0 takes a free one."
        raise UserError(f"{host}:{port}", str(error), "an address to listen at", cure) from None
    with made:
        yield made


def answer(house: House, limits: Limits, door: socket.socket, keys: tuple[str, ...] = ()) -> None:
    """Answer requests at `door` until SIGTERM or Ctrl-C, then those under way; a second signal cuts them off."""
    import asyncio
    import signal

    import uvicorn

    from trueline.serve.answers import Desk
    from trueline.serve.app import app
    from trueline.serve.door import protocol
    from trueline.serve.meters import Meters
    from trueline.serve.worker import Worker

    class Server(uvicorn.Server):
        def capture_signals(self) -> Any:
            """None: a server that was asked to end, and ended well, has not died of a signal."""
            return contextlib.nullcontext()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            address, port = door.getsockname()[:2]
            shown = f"[{address}]" if ":" in address else address
            names = ", ".join(served.name for served in house.everyone)
            print(f"serving {names} at http://{shown}:{port}", file=sys.stderr, flush=True)

    async def main(worker: Worker) -> None:
        meters = Meters()
        desk = Desk(house, worker, limits, meters)
        meters.watch(lambda: desk.in_flight, lambda: sum(s.live.rows for s in house.policies if s.live is not None))
        config = uvicorn.Config(
            app(desk, keys, lambda: server.should_exit), http=protocol(limits.patience), ws="none", lifespan="off",
            log_level="warning", access_log=False, timeout_graceful_shutdown=max(1, round(limits.drain)),
        )  # fmt: skip
        server = Server(config)

        def end() -> None:
            server.force_exit, server.should_exit = server.should_exit, True

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end)
        await server.serve(sockets=[door])

    with Worker([served.live for served in house.policies if served.live is not None]) as worker:
        asyncio.run(main(worker))
