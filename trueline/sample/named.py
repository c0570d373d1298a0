"""Engines by name: what `--critic openai:gpt-5-mini` means, in one place for every recipe.

    engine("openai:gpt-5-mini")                  OpenAI's own API
    engine("anthropic:claude-haiku-4-5")         Anthropic's
    engine("http://localhost:8000/v1#ORG/MODEL") a server that speaks OpenAI's chat protocol, and the model there
    engine("models/small"), engine("ORG/MODEL")  a Hugging Face folder or hub id, on this machine
    engine("openai:gpt-5.2?reasoning_effort=low&thinking=4096&omit=temperature,top_p,stop")      with settings
    engine("sft-8192ef8f")                       a policy of the store in force
    engine("vllm:ORG/MODEL")                     any of the three, by vLLM
    engine(policy), engine(Scripted(...))        a policy's handle, or an engine: itself

After a served model's name, ? and settings may follow: fields of the engine (`omit` as names with commas), and
whatever else is sent with every request as it is (JSON, or a text).

OpenAI's reasoning models (o1, o3, gpt-5, ...) refuse a temperature and stop texts, and think before they answer: for
these, by name, `omit` and `thinking` are set where they are not given. Both are fields, so plan and record show them.

A recipe's own names ("town") are handed in as `known`, so that a refusal lists them too.
"""

from __future__ import annotations

import contextlib
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

REASONING = re.compile(r"(o\d|gpt-([5-9]|\d\d))")
THINKING = 4096
FORMS = (
    "openai:MODEL, anthropic:MODEL, http://HOST:PORT/v1#MODEL, a model folder, a policy of the store, or ORG/MODEL "
    "(with vllm: in front, by vLLM)"
)


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
        model, settings = _settings(rest, where)
        if not model:
            raise _refusal(where, f"{named!r} names no model", known)
        if service == "openai" and REASONING.match(model) and "-chat" not in model:
            settings = {"omit": ("temperature", "top_p", "stop"), "thinking": THINKING} | settings
        return _made(OpenAI if service == "openai" else Anthropic, model, connection or Connection(), settings, where)
    if service == "vllm" and rest:
        from trueline.sample.vllm import VLLM

        return VLLM(_local(rest, where, known).policy)
    return _local(named, where, known)


def _address(named: str, connection: Connection, where: str) -> Engine:
    url, _, rest = named.partition("#")
    model, settings = _settings(rest, where)
    if not model:
        raise UserError(
            where, f"{url!r} names no model", "the server's address, #, and the model's name there",
            f"Write {url.rstrip('/')}#MODEL; the server lists its models at {url.rstrip('/')}/models.",
        )  # fmt: skip
    return _made(OpenAI, model, dataclasses.replace(connection, base_url=url), settings, where)


def _made(
    kind: type[OpenAI] | type[Anthropic], model: str, connection: Connection, settings: dict[str, Any], where: str
) -> Engine:
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in settings:
        if name not in fields:
            wanted = f"one of {', '.join(fields[2:])}, or a field of the request"
            raise UserError(where, f"{kind.__name__} has no setting {name}", wanted)
    return kind(model, connection, **settings)


def _settings(text: str, where: str) -> tuple[str, dict[str, Any]]:
    """MODEL?name=value&... as the model and the engine's fields."""
    model, _, query = text.partition("?")
    settings: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise UserError(where, f"got the setting {part!r}", "name=value, with & between them")
        if name == "omit":
            settings[name] = tuple(filter(None, value.split(",")))
        elif name in ("choices", "thinking"):
            settings[name] = int(value) if value.isdecimal() else value  # what is no number is refused by the engine
        elif name in ("protocol", "system", "end", "revision"):
            settings[name] = value
        else:
            with contextlib.suppress(ValueError):
                value = json.loads(value)
            extra[name] = value
    return model.strip(), settings | ({"extra": extra} if extra else {})


def _local(named: str, where: str, known: Mapping[str, Engine] | None) -> HF:
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
