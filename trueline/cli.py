"""`trueline plan | make | why | show RECIPE`, `trueline serve`, `check`, `doctor`: recipes from the command line.

A recipe is named (`tour`), or given as `path/my.py:study` or `module:study`; its typed signature is its command line
(`options`). A mistake of the user's prints one sentence and ends with status 2, Ctrl-C with 130; a traceback of a
mistake is shown under --debug. Nothing heavy is imported before a stage runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trueline import machine as machines
from trueline import pipeline
from trueline import store as stores
from trueline.errors import UserError, closest
from trueline.machine import Machine
from trueline.options import CommandLine, Key, Option, check_effects, expand
from trueline.pipeline import loading
from trueline.pipeline.planning import show_record
from trueline.pipeline.runs import Run
from trueline.store import Artifact, Report

COMMANDS = {
    "plan": "what make would do, why, and what it will use",
    "make": "make what is missing, and print the result",
    "why": "why each artefact has to be made, followed down to what changed",
    "show": "what is known of the result, or of an artefact by its name",
    "rank": "sample n answers to every prompt and keep the best, by head, reward model or log-prob",
    "serve": "answer over HTTP, candidates ranked by head, reward model or log-prob (OpenAI's protocol)",
    "check": "what the model will really see of your data, before any training",
    "lm-eval": "run tasks of lm-evaluation-harness on a policy, unchanged and over tries",
    "doctor": "versions, devices and the store on this machine",
}
_STORE = Option(("store",), Path | None, None, "folder of the store (default: $TRUELINE_STORE, else ./store)")
_OUT = Option(("out",), Path | None, None, "where the report's page goes (default: report.html)")
_ARTIFACT = Option(
    ("artifact",), str | None, None, "one artefact of the recipe, by label or name, instead of its result"
)
_DEBUG = Option(("debug",), bool, False, "show the traceback of an error")
_MACHINE = expand(("machine",), Machine, Machine(), "")
_ON = Option(("on",), Path | None, None, "a file (TOML) that says the machine; --machine.… goes before it")

Result = tuple[Artifact, ...]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _dispatch(words)
    except UserError as error:
        if "--debug" in words:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped: what is finished is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(words: list[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    if command in ("--help", "-h", "help"):
        _overview()
        return 0
    if command == "--version":
        from importlib.metadata import version

        print(f"trueline {version('trueline')}")
        return 0
    if command not in COMMANDS:
        raise UserError("trueline", f"unknown command {command!r}", "", closest(command, list(COMMANDS)))
    if command == "serve" and rest and not rest[0].startswith("-"):
        rest = ["--policy", *rest]
    if command in ("check", "lm-eval", "serve", "doctor"):
        return _plain(command, rest)
    if command == "rank":
        return _on_recipe("make", ["rank", *("--n" if word == "-n" else word for word in rest)], "trueline rank")
    return _on_recipe(command, rest)


def _overview() -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 2), show_header=False)
    for name, said in COMMANDS.items():
        table.add_row(Text(f"  {name}", style="bold"), said)
    recipes = Table(box=None, pad_edge=False, padding=(0, 3, 0, 2), show_header=False)
    for name, said in loading.names().items():
        recipes.add_row(Text(f"  {name}", style="bold"), said)
    console.print("Usage: trueline COMMAND [RECIPE] [OPTIONS]\n", markup=False)
    console.print("Align language models with feedback, and prove what the feedback bought.\n\nCommands")
    console.print(table)
    console.print("\nRecipes: one of these, path/my.py:study, or module:study")
    console.print(recipes)
    console.print("\nThe options of a recipe: trueline make RECIPE --help", markup=False)


# --- recipes ---------------------------------------------------------------------------------------------------------


def _on_recipe(command: str, words: list[str], title: str = "") -> int:
    if not words or words[0] in ("--help", "-h"):
        if words:
            _overview()
            return 0
        raise UserError(
            f"trueline {command}", "no recipe is named", "",
            f"Known: {', '.join(loading.names())}, path/my.py:study, module:study.",
        )  # fmt: skip
    reference, rest = words[0], words[1:]
    if command == "show" and _shown_by_name(reference, rest):
        return 0
    special = {"make": [_OUT], "why": [_ARTIFACT], "show": [_ARTIFACT], "plan": []}[command]
    extra = [_STORE, *special, _DEBUG, *([_ON, *_MACHINE] if command in ("make", "plan") else [])]
    line = CommandLine(loading.find(reference), title or f"trueline {command} {reference}", extra)
    if "--help" in rest or "-h" in rest:
        line.help()
        return 0
    given, common = line.parse(rest)
    with (
        stores.using(common.get(("store",)) or stores.current()) as store,
        machines.using(_machine_of(common)),
    ):
        store.check()
        roots = _results(line, given)
        check_effects(line, given, lambda some: tuple(root.fingerprint for root in _results(line, some)))
        run = Run(_slug(reference), {line.options[path].flag: str(value) for path, value in given.items()})
        return _COMMANDS[command](roots, common, run)


def _machine(machine: Machine = Machine()) -> None:  # noqa: B008 (frozen)
    """The shape of --machine.…, for `CommandLine`."""


def _machine_of(common: Mapping[Key, Any]) -> Machine:
    """The machine that --on and --machine.… say."""
    given = machines.read(common[("on",)]) if common.get(("on",)) else {}
    given |= {path: value for path, value in common.items() if path[0] == "machine"}
    return CommandLine(_machine, "trueline").arguments(given)["machine"]


def _slug(reference: str) -> str:
    """A recipe's name as a folder: study for path/my.py:study."""
    name = reference.rpartition(":")[2] if not reference.endswith(".py") else Path(reference).stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(name).name) or "recipe"


def _results(line: CommandLine, given: Mapping[Key, Any]) -> Result:
    """What the recipe returns under these options: one artefact, or a tuple or dictionary of them."""
    made = line.function(**line.arguments(given))
    roots = tuple(made.values()) if isinstance(made, Mapping) else made if isinstance(made, tuple | list) else (made,)
    for root in roots:
        if not isinstance(root, Artifact):
            name = f"{line.function.__module__}:{line.function.__qualname__}"
            raise UserError(
                f"recipe {name}", f"it returned {type(root).__name__}", "a recipe returns artefacts",
                "Return what its last stage call gave.",
            )  # fmt: skip
    return tuple(roots)


def _plan(roots: Result, common: Mapping[Key, Any], run: Run) -> int:
    Console(highlight=False).print(pipeline.plan(*roots))
    return 0


def _make(roots: Result, common: Mapping[Key, Any], run: Run) -> int:
    out = common.get(("out",))
    reports = [root for root in roots if isinstance(root, Report)]
    if out is not None and len(reports) != 1:
        raise UserError("--out", f"{len(reports)} of the recipe's results are reports", "only a single one has a page")
    pipeline.make(*roots, run=run)
    pages = [root.path / "report.html" for root in reports if (root.path / "report.html").exists()]
    for root in roots:
        _print_table(root.path)
    for root in roots:
        print(f"{root.label:<10} {_from_here(root.path)}")
    if len(pages) == 1:
        target = Path(out or "report.html")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pages[0], target)
        print(f"{'page':<10} {_from_here(target)}")
    if run.folder is not None:
        print(f"{'run':<10} {_from_here(run.folder)}")
    return 0


def _why(roots: Result, common: Mapping[Key, Any], run: Run) -> int:
    Console(highlight=False).print(pipeline.why(*_chosen(roots, common)))
    return 0


def _show(roots: Result, common: Mapping[Key, Any], run: Run) -> int:
    for root in _chosen(roots, common):
        Console(highlight=False).print(pipeline.show(root))
        _print_table(root.path)
    return 0


def _print_table(folder: Path) -> None:
    """The table of a report, where it has one."""
    with contextlib.suppress(FileNotFoundError):
        print((folder / "table.txt").read_text(encoding="utf-8").rstrip() + "\n")


_COMMANDS: dict[str, Callable[[Result, Mapping[Key, Any], Run], int]] = {
    "plan": _plan, "make": _make, "why": _why, "show": _show,
}  # fmt: skip


def _chosen(roots: Result, common: Mapping[Key, Any]) -> Result:
    wanted = common.get(("artifact",))
    if wanted is None:
        return roots
    known = pipeline.upstream(*roots)
    found = tuple(a for a in known if wanted in (a.label, a.name))
    if not found:
        raise UserError(
            "--artifact",
            f"the recipe has none called {wanted!r}",
            "",
            closest(wanted, sorted({a.label for a in known})),
        )
    return found


def _shown_by_name(reference: str, rest: list[str]) -> bool:
    """Show an artefact of the store by its folder's name; False where `reference` is no such name."""
    if not re.fullmatch(r"[\w.+-]+-[0-9a-f]{8}([0-9a-f]{8})?", reference):
        return False
    line = CommandLine(_nothing, f"trueline show {reference}", [_STORE, _DEBUG])
    _, common = line.parse(rest)
    with stores.using(common.get(("store",)) or stores.current()) as store:
        store.check()
        found = [path.parent for path in store.root.glob(f"*/{reference}/record.json")]
        if not found:
            raise UserError(f"trueline show {reference}", f"there is none of this name in {store.root}")
        Console(highlight=False).print(show_record(found[0]))
        _print_table(found[0])
    return True


def _nothing() -> None:
    """No options of its own."""


def _from_here(path: Path) -> str:
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


# --- the other commands ----------------------------------------------------------------------------------------------


def _plain(command: str, words: list[str]) -> int:
    """A command that is a function: its signature is its command line."""
    if command == "check":
        from trueline.prompts.check import check

        function: Callable[..., Any] = check
    elif command == "serve":
        from trueline.serve.run import serve

        function = serve
    else:
        function = lm_eval if command == "lm-eval" else doctor
    extra = [_DEBUG, *(_MACHINE if command in ("lm-eval", "serve") else [])]
    line = CommandLine(function, f"trueline {command}", extra)
    if "--help" in words or "-h" in words:
        line.help()
        return 0
    given, common = line.parse(words)
    with machines.using(_machine_of(common)):
        said = function(**line.arguments(given))
    return said if isinstance(said, int) else 0


def lm_eval(
    *,
    policy: str,
    tasks: tuple[str, ...],
    include: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    out: Path | None = None,
    store: Path | None = None,
) -> None:
    """Run tasks of lm-evaluation-harness on a policy, as they are, with its requests scored over tries.

    Args:
        policy: a model folder, the name of a policy in the store, or a hub id.
        tasks: the harness' tasks, groups or patterns, apart by commas or spaces.
        include: a folder with task files (YAML) of your own.
        shots: worked examples before each question (default: as many as the task says).
        limit: only so many examples of each task, to try it out.
        chat: put texts through the model's chat template.
        out: write all results there, as JSON.
        store: folder of the store (default: $TRUELINE_STORE, else ./store).
    """
    import importlib.util
    import json

    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "trueline lm-eval", "lm-evaluation-harness is not installed", "", "pip install 'trueline[lm-eval]'"
        )
    from trueline.evaluate import lm_eval as harness
    from trueline.models import named

    with stores.using(store or stores.current()), harness.quiet():
        lm = harness.LM(named(policy))
        results = harness.evaluate(lm, tasks, include, shots, limit, chat)
    print(harness.table(results))
    if lm.truncated:
        print(f"{lm.truncated} requests were longer than the model's {lm.max_length} tokens and lost their beginning.")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(harness.plain(results), indent=1) + "\n", encoding="utf-8")
        print(f"{'results':<10} {_from_here(out)}")


def doctor(*, store: Path | None = None) -> int:
    """Say what runs here: versions, devices, threads, the store, and which extras are installed.

    Args:
        store: folder of the store (default: $TRUELINE_STORE, else ./store).
    """
    import importlib.util

    import torch

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    found = pipeline.environment()
    for name, version in found["versions"].items():
        table.add_row(name, version)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    table.add_row("device", machines.device() + (f" ({', '.join(names)})" if names else ""))
    table.add_row("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    with stores.using(store or stores.current()) as chosen:
        chosen.check()
        made = len(list(chosen.root.glob("*/*/record.json")))
        there = chosen.root if chosen.root.exists() else chosen.root.parent
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free / 1e9
        table.add_row("store", f"{chosen.root} ({made} artefacts, {free:.1f} GB free)")
    extras = {
        "critics": "vaderSentiment", "serve": "fastapi", "ray": "ray", "bench": "trl", "lm-eval": "lm_eval",
        "wandb": "wandb", "test": "pytest",
    }  # fmt: skip
    here = {extra: importlib.util.find_spec(module) is not None for extra, module in extras.items()}
    table.add_row("extras", ", ".join(f"{extra} {'yes' if there else 'no'}" for extra, there in here.items()))
    Console(highlight=False).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
