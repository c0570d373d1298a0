"""`runs/<recipe>/<time>/`: what one command set out to do, and links to what it made.

The store is kept by identity; a run is kept by when somebody asked for it. Nothing reads a run back: it is for people.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trueline import store as stores
from trueline.pipeline.planning import Plan
from trueline.store import Artifact
from trueline.work import write_atomic


class Run:
    """A folder `runs/<recipe>/<time>` beside the store, with `plan.json` and one link per artefact."""

    def __init__(self, recipe: str, options: dict[str, Any] | None = None) -> None:
        self.recipe, self.options = recipe, options or {}
        self.folder: Path | None = None
        self._plan: Plan | None = None

    def begin(self, plan: Plan, roots: Sequence[Artifact]) -> None:
        """Write the plan down; a command that has nothing to make and was run before leaves no second trace."""
        base = stores.current().root.parent / "runs" / self.recipe
        asked = [root.fingerprint for root in roots]
        last = max(base.glob("*/plan.json"), default=None)
        if not plan.to_make and last is not None and _roots(last) == asked:
            self.folder = last.parent
            return
        now = datetime.datetime.now().astimezone()
        self.folder = _fresh(base, now.strftime("%Y-%m-%d_%H-%M-%S"))
        self._plan = plan
        content = {
            "recipe": self.recipe, "options": self.options, "at": now.isoformat(timespec="seconds"),
            "store": str(stores.current().root), "roots": asked, **plan.json(),
        }  # fmt: skip
        text = msgspec.json.format(msgspec.json.encode(content), indent=1)
        write_atomic(self.folder / "plan.json", text + b"\n")

    def end(self) -> None:
        """Link what is there now."""
        for row in self._plan.rows if self._plan is not None and self.folder is not None else ():
            if row.artifact.made:
                link(self.folder / row.artifact.name, row.artifact.path)  # type: ignore[operator]


def _roots(plan: Path) -> Any:
    try:
        return json.loads(plan.read_bytes())["roots"]
    except (ValueError, KeyError, TypeError):  # not ours to judge: a new run is written beside it
        return None


def _fresh(base: Path, name: str) -> Path:
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = base / (name + suffix)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(str(base / name))


def link(at: Path, target: Path) -> None:
    """A relative symbolic link; a text file `<name>.link` with the path where the system grants none."""
    try:
        relative = os.path.relpath(target, at.parent)
    except ValueError:  # another drive
        relative = str(target)
    try:
        os.symlink(relative, at, target_is_directory=True)
    except FileExistsError:
        return
    except (OSError, NotImplementedError):
        at.with_name(at.name + ".link").write_text(relative + "\n", encoding="utf-8")
