"""Guard rails: sizes, the import rule, repetition, light imports, the public names.

Each rule is one that is cheap to keep and dear to restore. An exception would be a dated line in
`EXCEPTIONS`; it is empty.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "trueline").rglob("*.py"))
EVERYTHING = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
EXCEPTIONS: dict[str, str] = {}  # "path" or "path:function" -> "date: reason"

LAYERS = {
    **dict.fromkeys(
        ["errors", "records", "files", "transcripts", "fingerprint", "machine", "progress", "work", "store"], 0
    ),
    **dict.fromkeys(["pipeline", "chat", "conditions", "models", "trie", "heads", "lswt"], 1),
    **dict.fromkeys(["prompts", "sample", "feedback", "train", "evaluate", "serve", "world"], 2),
    "recipes": 3,
    **dict.fromkeys(["options", "cli"], 4),
}
STAGE_PACKAGES = {name for name, layer in LAYERS.items() if layer == 2}
# What one stage package may take from another: the protocols and the value types that recipes pass around.
SHARED_PARTS = {"protocol"}


def layer_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "trueline").with_suffix("").parts
    return parts[0]


def imports_of(path: Path) -> list[tuple[int, list[str]]]:
    """(line, dotted parts after `trueline`) of every import of our own modules, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "trueline":
            parts = node.module.split(".")[1:]
            for alias in node.names:
                found.append((node.lineno, parts or [alias.name]))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("trueline."):
                    found.append((node.lineno, alias.name.split(".")[1:]))
    return found


def test_no_file_over_500_lines_and_no_function_over_80():
    long = []
    for path in EVERYTHING:
        name, text = str(path.relative_to(ROOT)), path.read_text()
        if text.count("\n") > 500 and name not in EXCEPTIONS:
            long.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 80 and f"{name}:{node.name}" not in EXCEPTIONS:
                    long.append(f"{name}:{node.lineno} {node.name}: {lines} lines")
    assert not long


def test_imports_go_down_the_layers_only():
    """records, store <- chat, trie, ... <- stage packages <- recipes <- cli; between the packages: protocols."""
    wrong = []
    for path in SOURCES:
        here = layer_name(path)
        if here == "__init__":
            continue
        assert here in LAYERS, f"{path}: say in LAYERS where {here} stands"
        for line, parts in imports_of(path):
            there = parts[0]
            if there == here or there not in LAYERS:
                continue
            up = LAYERS[there] > LAYERS[here]
            across = {here, there} <= STAGE_PACKAGES and not (len(parts) > 1 and parts[1] in SHARED_PARTS)
            if up or across:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports trueline.{'.'.join(parts)}")
    assert not wrong


def test_files_of_train_do_not_repeat_each_other():
    """Under a fifth of the shorter file's lines of code may stand in another file of train/ too."""
    bodies = {}
    for path in sorted((ROOT / "trueline" / "train").rglob("*.py")):
        lines = [line.strip() for line in path.read_text().splitlines()]
        code = [x for x in lines if len(x) > 8 and not x.startswith(("#", "import ", "from ", '"""', "@"))]
        if len(code) >= 20:
            bodies[path] = code
    repeated = []
    for (a, left), (b, right) in itertools.combinations(bodies.items(), 2):
        blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
        share = sum(block.size for block in blocks if block.size >= 3) / min(len(left), len(right))
        if share >= 0.2:
            repeated.append(f"{a.name} ~ {b.name}: {share:.0%}")
    assert not repeated


@pytest.mark.parametrize("module", ["trueline.cli", "trueline", "trueline.recipes.tour", "trueline.recipes.align"])
def test_what_plans_does_not_import_torch(module):
    """`plan`, `why` and a `make` with nothing to do answer at once: nothing heavy is imported until a stage runs."""
    heavy = ("torch", "transformers", "matplotlib", "datasets")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_every_module_opens_with_what_it_is_for():
    silent = [
        str(p.relative_to(ROOT))
        for p in SOURCES
        if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not silent
