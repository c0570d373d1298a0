"""Engines by name: what `--critic openai:gpt-5-mini` means, in one place for every recipe.

    engine("openai:gpt-5-mini")                  OpenAI's own API
    engine("anthropic:claude-haiku-4-5")         Anthropic's
    engine("http://localhost:8000/v1#ORG/MODEL") a server that speaks OpenAI's chat protocol, and the model there
    engine("models/small"), engine("ORG/MODEL")  a Hugging Face folder or hub id, on this machine
    engine("sft-8192ef8f")                       a policy of the store in force
    engine(policy), engine(Scripted(...))        a policy's handle, or an engine: itself

A recipe's own names ("town") are handed in as `known`, so that a refusal lists them too.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trueline import store
from trueline.errors import UserError
from trueline.models import pretrained
from trueline.sample.hf import HF
from trueline.sample.protocol import Engine
from trueline.sample.served import Anthropic, Connection, OpenAI
from trueline.store import Policy

FORMS = "openai:MODEL, anthropic:MODEL, http://HOST:PORT/v1#MODEL, a model folder, a policy of the store, or ORG/MODEL"


def engine(
    named: Any, connection: Connection | None = None, known: Mapping[str, Engine] | None = None, where: str = "engine"
) -> Engine:
    """The engine that `named` says: a text, a path, a policy, or an engine, which is returned as it is.

    connection: how a server is reached and what may be spent (its address comes from the name). known: names of the
    caller's own. where: what a refusal names, such as "--critic".

    Raises `UserError` listing what is known for anything else.
    """
    if isinstance(named, Policy):
        return HF(named)
    if isinstance(named, Path):
        return _local(str(named), where, known)
    if not isinstance(named, str):
        if isinstance(named, Engine):
            return named
        raise _refusal(where, f"got {named!r}", known)
    if known and named in known:
        return known[named]
    service, colon, rest = named.partition(":")
    if service in ("http", "https"):
        return _address(named, connection or Connection(), where)
    if service in ("openai", "anthropic") and colon:
        if not rest.strip():
            raise _refusal(where, f"{named!r} names no model", known)
        return (OpenAI if service == "openai" else Anthropic)(rest.strip(), connection or Connection())
    return _local(named, where, known)


def _address(named: str, connection: Connection, where: str) -> Engine:
    url, _, model = named.partition("#")
    if not model.strip():
        raise UserError(
            where, f"{url!r} names no model", "the server's address, #, and the model's name there",
            f"Write {url.rstrip('/')}#MODEL; the server lists its models at {url.rstrip('/')}/models.",
        )  # fmt: skip
    return OpenAI(model.strip(), dataclasses.replace(connection, base_url=url))


def _local(named: str, where: str, known: Mapping[str, Engine] | None) -> Engine:
    for folder in (Path(named).expanduser(), store.current().root / Policy.kind / named):
        if (folder / "pointer.json").is_file():
            return HF(pretrained(json.loads((folder / "pointer.json").read_bytes())["path"]))
        if named and folder.is_dir():
            return HF(pretrained(folder))
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", named):  # ORG/MODEL may be on the hub; nothing else is
        return HF(pretrained(named))
    raise _refusal(where, f"got {named!r}, which is no folder here", known)


def _refusal(where: str, got: str, known: Mapping[str, Engine] | None) -> UserError:
    own = "".join(f"{name}, " for name in sorted(known or ()))
    return UserError(where, got, own + FORMS)
