"""What `make` would do, and why: the graph in order, what is there, what is missing, and how it differs.

The reason to make an artefact is told as a field diff against the nearest sibling: the finished artefact of the same
stage whose inputs differ in the fewest places (`objective.kl: 0.05 -> 0.1`). Nothing here makes anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from trueline import machine as machines
from trueline import store as stores
from trueline.fingerprint import TAG
from trueline.pipeline.memory import Demand, demand, shortage
from trueline.progress import clock, said, short
from trueline.store import Artifact, Store, counting, read_record

ABSENT = "absent"
Status = Literal["have", "make", "skip"]
_MISSING: Any = object()


def upstream(*roots: Artifact, missing_only: bool = False) -> list[Artifact]:
    """The artefacts behind `roots`, parents first, each once; behind one that is made, nothing if `missing_only`."""
    order: dict[Artifact, None] = {}
    stack: list[tuple[Artifact, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        artifact, ready = stack.pop()
        if artifact in order:
            continue
        if ready or (missing_only and artifact.made):
            order[artifact] = None
        else:
            stack.append((artifact, True))
            stack += [(parent, False) for parent in reversed(artifact.parents)]
    return list(order)


def missing(*roots: Artifact) -> list[Artifact]:
    """What `make` would have to make, parents first."""
    return [artifact for artifact in upstream(*roots, missing_only=True) if not artifact.made]


@dataclass(frozen=True)
class Row:
    """One artefact of a plan.

    status: "have" it is there; "make" it is not; "skip" it is not, and nothing that has to be made needs it. why: the
    reasons to make it, one per line. counts: what it holds or took ("have"), or what making it will use ("make").
    memory: what making it will need on each device, where a model is behind it whose shape is known; lacks: what of it
    the machine does not have, in words.
    """

    artifact: Artifact
    status: Status
    why: tuple[str, ...]
    counts: dict[str, int]
    memory: Demand | None = None
    lacks: str = ""

    def json(self) -> dict[str, Any]:
        """The row as JSON-able data."""
        parents = [parent.name for parent in self.artifact.parents]
        head = {"name": self.artifact.name, "fingerprint": self.artifact.fingerprint, "stage": self.artifact.stage}
        row = {**head, "status": self.status, "why": list(self.why), "counts": self.counts, "parents": parents}
        return row if self.memory is None else {**row, "memory": self.memory.json()}


_ORDER = {name: at for at, name in enumerate(("prompts", "samples", "calls", "critic_calls", "train_tokens"))}


def _costs(name: str) -> bool:
    return name in _ORDER or name.endswith(("_calls", "_tokens"))


@dataclass(frozen=True)
class Plan:
    """Rows in the order of making; `print(plan)` and rich both show it as a table."""

    rows: tuple[Row, ...]

    @property
    def to_make(self) -> tuple[Row, ...]:
        """The rows that `make` would work on."""
        return tuple(row for row in self.rows if row.status == "make")

    @property
    def totals(self) -> dict[str, int]:
        """What is to come in all: prompts, samples, critic calls, training tokens (and other calls and tokens)."""
        out: dict[str, int] = {}
        for row in self.to_make:
            for name, n in row.counts.items():
                # Samples of an artefact without parents are read from a file: nobody has to write them.
                if _costs(name) and (name != "samples" or row.artifact.parents):
                    out[name] = out.get(name, 0) + n
        return dict(sorted(out.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))))

    def json(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return {"artifacts": [row.json() for row in self.rows], "to_come": self.totals}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, min_width=12)
        table.add_column(ratio=1, overflow="fold")
        for row in self.rows:
            style = {"have": "dim", "make": "bold green", "skip": "dim"}[row.status]
            details = [*row.why, *([said(row.counts)] if row.counts else [])]
            details += [str(row.memory)] if row.memory is not None else []
            details += [row.lacks] if row.lacks else []
            body = Text("\n".join(details), style="dim" if row.status != "make" else "")
            table.add_row(Text(row.status, style=style), Text(row.artifact.name, style=style), body)
        yield table
        yield Text(self.summary())

    def summary(self) -> str:
        """One sentence: how much is to be made, and what it will use."""
        if not self.to_make:
            there = sum(row.status == "have" for row in self.rows)
            return f"Nothing to make: {there} artefact{'s are' if there != 1 else ' is'} there."
        uses = f": {said(self.totals)}" if self.totals else ""
        return f"To make: {len(self.to_make)} of {len(self.rows)} artefacts{uses}."

    def __str__(self) -> str:
        console = Console(width=100, color_system=None, force_terminal=False)
        with console.capture() as captured:
            console.print(self)
        return captured.get()


def plan(*roots: Artifact, store: Store | str | Path | None = None) -> Plan:
    """What `make(*roots)` would do in `store` (default: the one in force)."""
    with stores.using(store if store is not None else stores.current()), counting():
        to_make = set(missing(*roots))
        rows = []
        for artifact in upstream(*roots):
            if artifact in to_make:
                rows.append(_to_make(artifact))
            elif artifact.made:
                rows.append(Row(artifact, "have", (), artifact.own_count))
            else:
                rows.append(Row(artifact, "skip", (), {}))
        return Plan(tuple(rows))


def _to_make(artifact: Artifact) -> Row:
    machine = artifact.machine or machines.current()
    needs = demand(artifact, machine)
    lacks = shortage(needs, machine) if needs is not None else ""
    return Row(artifact, "make", tuple(reasons(artifact)), _new(artifact), needs, lacks)


def _new(artifact: Artifact) -> dict[str, int]:
    """What making it adds: its stage's estimate, less what the artefacts it is made from hold already."""
    held = artifact.passed_on
    return {name: n for name, n in artifact.own_count.items() if n and held.get(name) != n}


# --- why -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One field that differs from the nearest sibling's; `parent` is ours where the field is an artefact."""

    field: str
    before: str
    now: str
    parent: Artifact | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.before} -> {self.now}"


def reasons(artifact: Artifact) -> Iterator[str]:
    """Why an artefact that is not there has to be made, one reason per line."""
    begun = stores.current().part(artifact)
    if begun.exists():
        yield "goes on where a stopped run left it"
    found = nearest(artifact)
    if found is None:
        yield f"the first {artifact.stage} in this store"
    else:
        yield from (str(change) for change in found[1])


def nearest(artifact: Artifact) -> tuple[str, list[Change]] | None:
    """The finished artefact of the same stage that differs in the fewest fields (then: same label, latest made)."""
    best: tuple[tuple[int, bool], str, str, list[Change]] | None = None
    for _, record in stores.current().records(artifact.kind):
        if record["stage"] != artifact.stage or record["fingerprint"] == artifact.fingerprint:
            continue
        changes = differences(artifact, record)
        rank = (len(changes), record["label"] != artifact.label)
        if best is None or rank < best[0] or (rank == best[0] and record["made"] > best[1]):
            best = (rank, record["made"], record["name"], changes)
    return (best[2], best[3]) if best else None


def differences(artifact: Artifact, record: dict[str, Any]) -> list[Change]:
    """The fields in which an artefact differs from a recorded one of its stage."""
    ours = {handle.fingerprint: handle for handle in artifact.parents}
    names = {**{k: v.name for k, v in ours.items()}, **record["parents"]}
    changes = []
    if record["rev"] != artifact.rev:
        changes.append(Change("rev", str(record["rev"]), str(artifact.rev)))
    for field, before, now in _diff(record["inputs"], artifact.identity_inputs, ""):
        parent = ours.get(now["fingerprint"]) if _tag(now) == "artifact" else None
        changes.append(Change(field, _leaf(before, names), _leaf(now, names), parent))
    return changes


def _tag(form: Any) -> str | None:
    return form.get(TAG) if isinstance(form, dict) else None


def _diff(before: Any, now: Any, at: str) -> Iterator[tuple[str, Any, Any]]:
    """(path, before, now) of the smallest parts in which two canonical forms differ."""
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict) and _tag(before) == _tag(now) and _tag(now) not in _LEAVES:
        for name in dict.fromkeys([*now, *before]):
            path = name.lstrip(TAG) or name
            path = path if name == TAG or not at else f"{at}.{path}"
            yield from _diff(before.get(name, _MISSING), now.get(name, _MISSING), path)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _diff(old, new, f"{at}[{index}]")
    else:
        yield at, before, now


_LEAVES = ("artifact", "File", "enum", "float", "bytes", "set", "function", "class")


def _leaf(form: Any, names: dict[str, str]) -> str:
    """A canonical form in a few characters."""
    tag = _tag(form)
    if form is _MISSING:
        return ABSENT
    if tag == "artifact":
        return names.get(form["fingerprint"], form["fingerprint"][:8])
    if tag in ("File", "bytes"):
        return f"content {form['sha256'][:8]}"
    if tag in ("enum", "class", "function"):
        return str(form["name"]) + (f" ({form['source'][:8]})" if form.get("source") else "")
    if tag == "float":
        return str(form["value"])
    if tag is not None and tag != "set":
        return f"{tag}(...)" if len(form) > 1 else f"{tag}()"
    text = json.dumps(form["items"] if tag == "set" else form, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def why(*roots: Artifact, store: Store | str | Path | None = None) -> Tree:
    """The reasons, followed down: a root, why it has to be made, and the same for every parent that changed."""
    tree = Tree("", hide_root=True)
    with stores.using(store if store is not None else stores.current()), counting():
        told: set[Artifact] = set()
        for root in roots:
            _explain(root, tree, told)
    return tree


def _explain(artifact: Artifact, tree: Tree, told: set[Artifact]) -> None:
    if artifact.made:
        tree.add(Text(f"have {artifact.name}: {_history(artifact.record)}", style="dim"))
        return
    if artifact in told:
        tree.add(Text(f"make {artifact.name} (see above)"))
        return
    told.add(artifact)
    found = nearest(artifact)
    head = f"; differs from {found[0]} in" if found else f": the first {artifact.stage} in this store"
    branch = tree.add(Text(f"make {artifact.name}{head}"))
    changed = found[1] if found else []
    for change in changed:
        leaf = branch.add(Text(str(change)))
        if change.parent is not None and not change.parent.made:
            _explain(change.parent, leaf, told)
    named = {change.parent for change in changed}
    for parent in artifact.parents:
        if parent not in named and not parent.made:
            _explain(parent, branch, told)


def _history(record: dict[str, Any]) -> str:
    git = record["environment"].get("git") or {}
    commit = f" at commit {git['commit'][:8]}{' (changed)' if git.get('changed') else ''}" if git else ""
    return f"made {record['made']} in {clock(record['seconds'])}{commit}"


# --- show ------------------------------------------------------------------------------------------------------------


def show(artifact: Artifact, store: Store | str | Path | None = None) -> Table:
    """What is known of an artefact: where it is, what it was made from, what it counted, what lies in its folder."""
    with stores.using(store if store is not None else stores.current()):
        if not artifact.made:
            table = _table()
            table.add_row("name", artifact.name)
            table.add_row("status", "not made yet")
            for name, value in _flat(artifact.identity_inputs, ""):
                table.add_row(f"  {name}", _leaf(value, {p.fingerprint: p.name for p in artifact.parents}))
            return table
        return show_record(artifact.path)


def show_record(folder: Path) -> Table:
    """`show` for the folder of a finished artefact."""
    record = read_record(folder)
    table = _table()
    table.add_row("name", record["name"])
    table.add_row("path", str(folder))
    table.add_row("stage", f"{record['stage']} rev {record['rev']} ({record['function']})")
    table.add_row("fingerprint", record["fingerprint"])
    table.add_row("made", _history(record).removeprefix("made "))
    table.add_section()
    for name, value in _flat(record["inputs"], ""):
        table.add_row(f"  {name}", _leaf(value, record["parents"]))
    table.add_section()
    for name, n in record["counts"].items():
        table.add_row(name.replace("_", " "), f"{n:,}")
    for name, value in record["notes"].items():
        table.add_row(name, _leaf(value, {}))
    table.add_section()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "record.json"):
        table.add_row(f"  {path.relative_to(folder).as_posix()}", f"{short(path.stat().st_size)}B")
    return table


def _table() -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    return table


def _flat(form: Any, at: str) -> Iterator[tuple[str, Any]]:
    """(path, leaf) of a canonical form; a tagged object gives its tag, then its fields."""
    tag = _tag(form)
    if not isinstance(form, dict) or tag in _LEAVES:
        yield at, form
        return
    if tag is not None:
        yield at, {TAG: tag}
    for name, value in form.items():
        if name != TAG:
            yield from _flat(value, f"{at}.{name.lstrip(TAG)}" if at else name.lstrip(TAG))
