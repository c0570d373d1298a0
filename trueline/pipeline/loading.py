"""Recipes and modules found by what a user writes: a name, `name:function`, `path/my.py:study`, or `module:study`.

A file is loaded as a module of its own, so that its stages, classes and functions keep their identity whether it is run
by path, imported, or run as a script.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from trueline.errors import UserError, closest
from trueline.fingerprint import PACKAGE

PREFIX = "recipefile."  # modules loaded from a path; the last part of the name is the file's

Recipe = Callable[..., Any]


def names() -> dict[str, str]:
    """Our own recipes: name -> the first line of what its module says it is for. Nothing is imported."""
    import ast

    out = {}
    for path in sorted((PACKAGE / "recipes").glob("*.py")):
        if not path.stem.startswith("_"):
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            out[path.stem] = said.partition("\n")[0]
    return out


def find(reference: str) -> Recipe:
    """The recipe function that `reference` means; raises `UserError` that names the nearest known ones."""
    place, colon, function = reference.rpartition(":")
    if not colon or "/" in function or "\\" in function:  # no function named (the colon is a drive letter's)
        place, function = reference, ""
    if place.endswith(".py"):
        return _function(load_file(Path(place)), function, reference)
    name = place.replace("-", "_")
    if name in names():
        return _function(_import(f"{PACKAGE.name}.recipes.{name}"), function or name, reference)
    if not function:
        raise UserError(
            f"recipe {reference!r}", "there is none of this name", "it is a name, path/my.py:study or module:study",
            closest(name, list(names())),
        )  # fmt: skip
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return _function(_import(place), function, reference)


def _function(module: ModuleType, name: str, reference: str) -> Recipe:
    own = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    }
    if name in own:
        return own[name]
    if not name:
        stem = module.__name__.rpartition(".")[2]
        if stem in own or len(own) == 1:
            return own.get(stem) or next(iter(own.values()))
        got, cure = "it does not say which function is the recipe", f"Write {reference}:{next(iter(own), 'study')}."
    else:
        got, cure = f"there is no function {name!r} in it", closest(name, list(own))
    raise UserError(f"recipe {reference!r}", got, "a recipe is a function that returns artefacts", cure)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UserError(f"recipe module {name!r}", "there is no such module", "", "Check its name.") from None
        raise _needs(f"recipe module {name!r}", error) from error
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}", f"this is no Python ({error.msg})") from error


def _needs(where: str, error: ModuleNotFoundError) -> Exception:
    if str(error.name).partition(".")[0] == PACKAGE.name:  # a defect of ours, or a typo that a traceback shows best
        return error
    return UserError(where, f"it needs {error.name!r}, which is not installed")


def load_file(path: Path) -> ModuleType:
    """The module in a file; the same one when it is asked for again."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"recipe file {str(path)!r}", "there is no such file", "", "Check the path.")
    name = PREFIX + path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise UserError(f"recipe file {str(path)!r}", "it cannot be loaded", "a recipe file is a Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up while it loads
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as Python does for a script: its neighbours can be imported
    try:
        specification.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, SyntaxError):
            raise UserError(f"{error.filename}:{error.lineno}", f"this is no Python ({error.msg})") from error
        if isinstance(error, ModuleNotFoundError):
            raise _needs(str(path), error) from error
        raise
    return module


def from_file(module: ModuleType) -> bool:
    """Whether `load_file` loaded it."""
    return module.__name__.startswith(PREFIX)
