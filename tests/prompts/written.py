"""Files as users have them, written by the test, and what a stage makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trueline.pipeline import make
from trueline.records import Group, Prompt
from trueline.store import Artifact, File, Store, using


def lines(folder: Path, *rows: Any, name: str = "prefs.jsonl") -> File:
    """A JSON-lines file of rows; a string stands as it is."""
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return File(path)


def made(folder: Path, artifact: Artifact) -> list[Any]:
    """The records of an artefact, made in a store in `folder`."""
    with using(Store(folder / "store")):
        make(artifact)
        return list(artifact.read())  # type: ignore[attr-defined]


def record(folder: Path, artifact: Artifact) -> dict[str, Any]:
    """The record of a made artefact."""
    with using(Store(folder / "store")):
        return artifact.record


def dropped(folder: Path, artifact: Artifact) -> list[dict[str, Any]]:
    """What an artefact wrote aside."""
    with using(Store(folder / "store")):
        return [json.loads(line) for line in (artifact.path / "dropped.jsonl").read_text().splitlines()]


def said(prompt: Prompt) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt.messages]


def answers(group: Group) -> tuple[str, ...]:
    return tuple(completion.text for completion in group.completions)
