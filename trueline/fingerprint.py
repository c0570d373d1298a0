"""What makes two values the same: canonical forms, fingerprints, and the refusal of what has no stable identity.

`canonical` turns a value into plain JSON data that is equal in every process exactly where the values are equal;
`fingerprint` hashes it. What says *where* or *how fast* (`machine.Runtime`) is left out by its type. What cannot be
told apart from another value in another process (a lambda, an object known only by its address) is refused at the line
where the recipe is written.

Artefacts and where they lie are `store`'s business; here they are anything that is a `Handle`.

The forms, by example (tagged objects carry "~"):

    1.0 -> 1        True -> true        nan -> {"~": "float", "value": "nan"}        (1, 2) and [1, 2] -> [1, 2]
    DPO(beta=0.1) -> {"~": "DPO", "beta": 0.1, "loss": "sigmoid", ...}
    File("a.jsonl") -> {"~": "File", "sha256": "9f86..."}
    a handle -> {"~": "artifact", "fingerprint": "8192ef8f..."}
    shortest (a function of my.py) -> {"~": "function", "name": "my.shortest", "source": "1f3a..."}
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import math
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, TypeVar

import msgspec

from trueline.errors import UserError, closest
from trueline.machine import Runtime

PACKAGE = Path(__file__).resolve().parent
TAG = "~"
_DEPTH = 100  # deeper than any honest value; a container that holds itself ends here
_MISSING = dataclasses.MISSING
_ABSENT = "trueline-absent"
LARGE = 32_000_000  # bytes from which on the hash of a file is worth remembering

W = TypeVar("W")


class Handle:
    """What stands for an artefact inside other values; `store.Artifact` is the one there is."""

    fingerprint: str
    name: str


def fingerprint(value: Any, where: str = "the value") -> str:
    """SHA-256 (64 hex digits) of the canonical form of `value`; `where` names it in a refusal."""
    return digest(canonical(value, where))


def digest(form: Any) -> str:
    """SHA-256 (64 hex digits) of a canonical form."""
    text = json.dumps(form, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def canonical(value: Any, where: str = "the value") -> Any:
    """`value` as plain JSON data: equal values give equal data, in every process and on every machine.

    Integral floats equal integers; tuples equal lists; sets and dictionaries have no order. Raises `UserError`, with
    the line where the recipe is written, for a value without such a form.
    """
    return _canonical(value, where, 0)


def _canonical(value: Any, where: str, depth: int) -> Any:
    if depth > _DEPTH:
        raise refusal(where, "nested too deeply, or holds itself", "", "Pass a flat value.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return {TAG: "enum", "name": f"{name_of(type(value), where)}.{value.name}"}
    if isinstance(value, int | float | str | bytes):
        return _scalar(value)
    if isinstance(value, Handle):
        return {TAG: "artifact", "fingerprint": value.fingerprint}
    if isinstance(value, File):
        return {TAG: "File", "sha256": value.sha256}
    if isinstance(value, Mapping):
        return _mapping(value, where, depth)
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        items = [_canonical(item, f"an item of {where}", depth + 1) for item in value]
        return {TAG: "set", "items": sorted(items, key=lambda form: json.dumps(form, sort_keys=True))}
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "ndim", 1):
        return _canonical(value.item(), where, depth + 1)
    return _compound(value, where, depth)


def _scalar(value: float | str | bytes) -> Any:
    if isinstance(value, bytes):
        return {TAG: "bytes", "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if not math.isfinite(value):
        return {TAG: "float", "value": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    return int(value) if value.is_integer() else float(value)


def _mapping(value: Mapping[Any, Any], where: str, depth: int) -> Any:
    out = {}
    for key, item in value.items():
        if not isinstance(key, str) or isinstance(key, Enum):
            raise refusal(
                where, f"a mapping with the key {key!r}", "keys have to be text", "Use a tuple of pairs instead."
            )
        # A user's own "~" must not look like a tag of ours.
        out[TAG + key if key.startswith(TAG) else key] = _canonical(item, f"{where}[{key!r}]", depth + 1)
    return out


def _compound(value: Any, where: str, depth: int) -> Any:
    """Dataclasses, records and functions; everything else is refused."""
    if isinstance(value, PurePath):
        raise refusal(
            where, f"the path {str(value)!r}", "a path says only where something lies",
            f"Write File({str(value)!r}).",
        )  # fmt: skip
    if isinstance(value, Runtime):
        raise refusal(
            where, "a Runtime value inside a container", "it is left out only as an argument or field of its own"
        )
    if isinstance(value, type):
        return {TAG: "class", "name": name_of(value, where)}
    if isinstance(value, functools.partial):
        parts = {"function": value.func, "arguments": value.args, "keywords": value.keywords}
        return {TAG: "partial", **{k: _canonical(v, f"{where}.{k}", depth + 1) for k, v in parts.items()}}
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return _function(value, where)
    if dataclasses.is_dataclass(value) or isinstance(value, msgspec.Struct):
        return _fields(value, where, depth)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise refusal(
        where, f"an object of type {kind}", "an identity must be the same in every process",
        "Pass numbers, text, tuples, frozen dataclasses, File(path) or an artefact.",
    )  # fmt: skip


def _fields(value: Any, where: str, depth: int) -> Any:
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        if not value.__struct_config__.frozen:
            raise refusal(where, f"a {kind.__name__} that can change", "", "Declare it with frozen=True.")
        chosen = {name: getattr(value, name) for name in value.__struct_fields__}
    else:
        if not kind.__dataclass_params__.frozen:
            raise refusal(
                where, f"a {kind.__name__} that can change after the recipe is written", "",
                "Declare it with @dataclass(frozen=True).",
            )  # fmt: skip
        chosen = dict(identity_fields(value))
    form = {TAG: name_of(kind, where)}
    form |= {name: _canonical(item, f"{where}.{name}", depth + 1) for name, item in chosen.items()}
    if callable(getattr(value, "identity", None)):
        form["~identity"] = _canonical(value.identity(), f"{where}.identity()", depth + 1)
    return form


def identity_fields(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of the dataclass fields that make `value` what it is.

    Left out: Runtime values (by type, or None where the annotation names one), fields that equality ignores
    (`compare=False`), and fields made by `added` while they equal what their absence meant.
    """
    module = vars(sys.modules.get(type(value).__module__, types.ModuleType("none")))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if not field.compare or is_runtime(item, field.type, module):
            continue
        if field.metadata.get("added") and same(item, field.metadata["absent"]):
            continue
        yield field.name, item


def same(left: Any, right: Any) -> bool:
    """Whether two values have one canonical form."""
    return bool(canonical(left) == canonical(right))


def is_runtime(value: Any, annotation: Any, namespace: Mapping[str, Any]) -> bool:
    """Whether a value is excluded by its type; None is where the annotation is an optional Runtime."""
    if isinstance(value, Runtime):
        return True
    return value is None and any(isinstance(k, type) and issubclass(k, Runtime) for k in kinds(annotation, namespace))


def kinds(annotation: Any, namespace: Mapping[str, Any]) -> tuple[Any, ...]:
    """The members of a union annotation (or the annotation alone); () where it cannot be resolved."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(namespace))
        except Exception:  # names that exist only for the type checker
            return ()
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def added(default: Any, *, absent: Any = _ABSENT, **field: Any) -> Any:
    """A knob added later: a dataclass field (or a stage's default) that does not fork the past.

    It is left out of identity while it equals `absent`, which is what its absence meant (default: `default`):
    `clip: float = added(1.0)`, where everything before clipped at 1.
    """
    meant = default if isinstance(absent, str) and absent == _ABSENT else absent
    return dataclasses.field(default=default, metadata={"added": True, "absent": meant}, **field)


def name_of(thing: Any, where: str = "the value") -> str:
    """The name a class or function has in identities.

    Ours go by their qualified name alone, so that moving a module forks nothing; others by the last part of their
    module too, so that `my.py` run by path, by import or as a script is one and the same.
    """
    module, name = str(thing.__module__), str(thing.__qualname__)
    if module == PACKAGE.name or module.startswith(PACKAGE.name + "."):
        return name
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        if file is None:
            raise refusal(where, f"{name}, defined interactively", "", "Save it in a file.")
        module = Path(file).stem
    return f"{module.rpartition('.')[2]}.{name}"


def _function(value: Any, where: str) -> Any:
    """Module-level functions, by name and source; ours by name alone (their `rev` is kept by hand)."""
    cure = "Pass a function that stands at the top of a module, or a functools.partial of one."
    if isinstance(value, types.MethodType) or (
        isinstance(value, types.BuiltinFunctionType) and not isinstance(value.__self__, types.ModuleType | None)
    ):
        raise refusal(where, f"the bound method {value.__qualname__}", "an object's state has no identity", cure)
    if value.__name__ == "<lambda>":
        raise refusal(where, "a lambda", "it has no name to know it by", cure)
    if "<locals>" in value.__qualname__:
        raise refusal(where, f"the local function {value.__name__}", "what it closes over has no identity", cure)
    form = {TAG: "function", "name": name_of(value, where)}
    if isinstance(value, types.FunctionType) and not str(value.__module__).startswith(PACKAGE.name + "."):
        form["source"] = source_hash(value)
    return form


def source_hash(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a function's source text; "" where there is none to read."""
    try:
        text = textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):
        return ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def inside(value: Any, wanted: type[W] | tuple[type[W], ...], depth: int = 0) -> Iterator[W]:
    """What is an instance of `wanted` in a value, wherever it hides, in order (with repetitions)."""
    if isinstance(value, wanted):
        yield value
        return
    if depth > _DEPTH or isinstance(value, str | bytes | int | float | type | Enum):
        return
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    elif isinstance(value, functools.partial):
        parts = (value.args, value.keywords)
    elif dataclasses.is_dataclass(value):
        parts = (getattr(value, field.name) for field in dataclasses.fields(value))
    found = (item for part in parts for item in inside(part, wanted, depth + 1))
    yield from sorted(found, key=repr) if isinstance(value, set | frozenset) else found


def snapshot(value: Any) -> Any:
    """A copy of the containers in `value`, so that changing a list later does not change what was written."""
    if type(value) in (list, tuple, set):
        return type(value)(snapshot(item) for item in value)
    if type(value) is dict:
        return {key: snapshot(item) for key, item in value.items()}
    return value


# --- where the recipe is written -------------------------------------------------------------------------------------


def refusal(where: str, got: str, wanted: str = "", cure: str = "") -> UserError:
    """The error for a value that has no identity: the recipe's line, the argument, what it is, the cure."""
    return UserError(call_site(), f"{where} is {got}", wanted, cure)


def call_site() -> str:
    """file:line of the innermost frame that is a recipe's: outside this package, or inside `trueline/recipes`."""
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith("<") and _is_recipe(file):
            return f"{readable(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return "the recipe"


@functools.cache
def _is_recipe(file: str) -> bool:
    path = Path(file)
    if path.is_relative_to(PACKAGE):
        return path.is_relative_to(PACKAGE / "recipes")
    return not re.search(r"[/\\](dataclasses|functools|contextlib|inspect)\.py$", file)


def readable(file: str | Path) -> str:
    """A path relative to the working directory where it lies below it."""
    path = Path(os.path.abspath(file))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


# --- files -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class File:
    """A file (or folder) of the user's: its identity is its content; where it lies is only recorded.

    Raises `UserError` where the recipe is written if there is nothing at `path`.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).expanduser())
        if not self.path.exists():
            raise UserError(call_site(), f"there is no file {str(self.path)!r}", "", "Check the path.")

    @property
    def sha256(self) -> str:
        """Of the content; of a folder, of the sorted relative names and contents of all its files."""
        if not self.path.is_dir():
            return _sha256(self.path)
        inside = sorted((p.relative_to(self.path).as_posix(), p) for p in self.path.rglob("*") if p.is_file())
        return digest([[name, _sha256(path)] for name, path in inside])

    @classmethod
    def of(cls, named: Any, folder: Path, where: str, other: str = "File(...) for your own") -> File:
        """The file that a setting names: a `.txt` of `folder` by its stem, or one of the user's.

        Raises `UserError` for another name; `other` says what the setting may be besides.
        """
        if isinstance(named, File):
            return named
        if isinstance(named, Path):
            return cls(named)
        known = sorted(path.stem for path in folder.glob("*.txt"))
        if not isinstance(named, str) or named not in known:
            cure = closest(named, known) if isinstance(named, str) else ""
            raise UserError(where, f"got {named!r}", f"one of {', '.join(known)}, or {other}", cure)
        return cls(folder / f"{named}.txt")

    def __fspath__(self) -> str:
        return str(self.path)


def _sha256(path: Path) -> str:
    try:
        status = path.stat()
        return _sha256_of(os.path.abspath(path), status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        raise UserError(str(path), "the file is gone", "", "Put it back.") from None


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: str, size: int, mtime_ns: int) -> str:
    """The hash of a file; of a large one remembered between runs as long as its size and time of change stay."""
    note = _notes() / hashlib.sha256(f"{path}\0{size}\0{mtime_ns}".encode()).hexdigest()[:32]
    if size >= LARGE:
        with contextlib.suppress(OSError):
            return _checked(note.read_text(encoding="ascii"))
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if size >= LARGE:
        with contextlib.suppress(OSError):  # a convenience: where no note can be kept, the next run reads again
            note.parent.mkdir(parents=True, exist_ok=True)
            partial = note.with_name(f"{note.name}.{os.getpid()}")
            partial.write_text(found, encoding="ascii")
            os.replace(partial, note)
    return found


def _notes() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "trueline" / "hashes"


def _checked(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise OSError("no hash")
    return text
