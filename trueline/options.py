"""A function's typed signature as a command line: its knobs, their help with units, and whether they have an effect.

Every keyword of a recipe is an option; the fields of a frozen dataclass (an objective, the machine) are options too,
`--dpo.beta`, with the defaults of the instance that the recipe names. Words become values by cyclopts; what is not one
of the knobs, or has no effect on what the recipe makes, is an error that names the cure.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from trueline.errors import UserError, closest
from trueline.fingerprint import File, kinds
from trueline.machine import Runtime
from trueline.store import Artifact

if typing.TYPE_CHECKING:
    import cyclopts

EMPTY = inspect.Parameter.empty
Key = tuple[str, ...]
_PLAIN = (str, int, float, bool, Path)


@dataclass(frozen=True)
class Option:
    """One knob. path: the parameter, then fields of its dataclass. default: EMPTY where it must be given."""

    path: Key
    annotation: Any
    default: Any
    help: str
    runtime: bool = False

    @property
    def flag(self) -> str:
        """As it is typed: --dpo.label-smoothing."""
        return "--" + ".".join(self.path).replace("_", "-")


@dataclass(frozen=True)
class _Parameter:
    """One keyword of the function: its annotation and default, and its options by path."""

    name: str
    annotation: Any
    default: Any
    options: tuple[Option, ...]


class CommandLine:
    """The options of one function, besides those that every command takes (`extra`)."""

    def __init__(self, function: Callable[..., Any], title: str, extra: Sequence[Option] = ()) -> None:
        self.function, self.title, self.extra = function, title, tuple(extra)
        text = inspect.getdoc(function) or ""
        self.description = re.split(r"\n\s*(?:Args|Parameters|Returns|Raises)\s*:?\s*\n", text)[0].strip()
        namespace = vars(sys.modules[function.__module__])
        said = help_of(text, list(inspect.signature(function).parameters))
        self.parameters = tuple(
            self._parameter(parameter, namespace, said.get(parameter.name, ""))
            for parameter in inspect.signature(function).parameters.values()
        )

    @property
    def options(self) -> dict[Key, Option]:
        """The function's own options by path."""
        return {option.path: option for parameter in self.parameters for option in parameter.options}

    def _parameter(self, parameter: inspect.Parameter, namespace: Mapping[str, Any], said: str) -> _Parameter:
        annotation = _resolved(parameter.annotation, namespace)
        options = tuple(expand((parameter.name,), annotation, parameter.default, said))
        if not options and parameter.default is EMPTY:
            raise UserError(
                self.title, f"no command line can give {parameter.name}: {parameter.annotation}",
                "options are numbers, text, paths, choices, or frozen dataclasses of these", "Give it a default.",
            )  # fmt: skip
        return _Parameter(parameter.name, annotation, parameter.default, options)

    # --- words to values ---

    def parse(self, words: Sequence[str]) -> tuple[dict[Key, Any], dict[Key, Any]]:
        """The options that were given, by path: the function's own, and the extra ones."""
        import cyclopts

        everything = {**self.options, **{option.path: option for option in self.extra}}
        app, names = self._app()
        try:
            _, bound, *_ = app.parse_args(list(words), print_error=False, exit_on_error=False)
        except cyclopts.CycloptsError as error:
            raise self._mistake(error, list(everything.values())) from None
        given = {names[name]: value for name, value in bound.arguments.items()}
        extra = {option.path for option in self.extra}
        return {k: v for k, v in given.items() if k not in extra}, {k: v for k, v in given.items() if k in extra}

    def _mistake(self, error: Exception, options: list[Option]) -> UserError:
        text = str(error).rstrip(".")
        found = re.search(r"Unknown option: (\S+?)\.?(?:\s|$)", str(error))
        if found:
            word = found[1].partition("=")[0]
            return UserError(
                self.title, f"unknown option {word}", "", f"{closest(word, [o.flag for o in options])} See --help."
            )
        if text.startswith("Unused Tokens"):
            return UserError(self.title, f"{text.partition(': ')[2]} belongs to no option", "", "Write --name VALUE.")
        return UserError(self.title, text[:1].lower() + text[1:], "", "See --help.")

    def help(self) -> None:
        """Print what the function does and what each knob means."""
        self._app()[0].help_print([])

    def _app(self) -> tuple[cyclopts.App, dict[str, Key]]:
        """The cyclopts application, and the path behind each of its parameters' names."""
        import cyclopts

        groups = {
            False: cyclopts.Group("Options", sort_key=0),
            True: cyclopts.Group("Where and how fast (changes no result)", sort_key=2),
            None: cyclopts.Group("Command", sort_key=1),
        }
        parameters, names = [], {}
        for index, option in enumerate([*self.options.values(), *self.extra]):
            name = f"option_{index}"
            names[name] = option.path
            group = groups[None if option in self.extra and not option.runtime else option.runtime]
            shown = cyclopts.Parameter(
                name=option.flag, help=option.help, group=group, negative_iterable=(), consume_multiple=True,
                negative_bool=() if option.default is False else None,
                show_default=_word if option.default not in (None, "") and option.default is not False else False,
            )  # fmt: skip
            parameters.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=option.default,
                    annotation=Annotated[option.annotation, shown],
                )
            )

        def command(**given: Any) -> None: ...

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app = cyclopts.App(
            name=self.title, help=self.description, help_format="plaintext", version_flags=[], help_flags=[],
            config=[_whole_numbers],
        )  # fmt: skip
        app.default(command)
        return app, names

    # --- values to arguments ---

    def arguments(self, given: Mapping[Key, Any]) -> dict[str, Any]:
        """Keyword arguments for the function, with defaults where nothing was given."""
        out = {}
        for parameter in self.parameters:
            mine = {path: value for path, value in given.items() if path[0] == parameter.name}
            try:
                value = _built(parameter.annotation, parameter.default, mine, 1)
            except (ValueError, TypeError) as error:
                flags = ", ".join(self.options[path].flag for path in mine)
                raise UserError(self.title, f"{flags}: {error}") from None
            if value is not EMPTY:
                out[parameter.name] = value
        return out


def expand(path: Key, annotation: Any, default: Any, said: str, runtime: bool = False) -> list[Option]:
    """The options of one parameter or field: itself, or the fields of its dataclass; none where words cannot say it."""
    holder = _dataclass(annotation, default)
    if holder is not None:
        runtime = runtime or issubclass(holder, Runtime)
        namespace = vars(sys.modules[holder.__module__])
        fields = [field for field in dataclasses.fields(holder) if field.init]
        told = help_of(inspect.getdoc(holder) or "", [field.name for field in fields])
        out = []
        for field in fields:
            inner = getattr(default, field.name) if dataclasses.is_dataclass(default) else _default(field)
            note = told.get(field.name, "") or said
            out += expand((*path, field.name), _resolved(field.type, namespace), inner, note, runtime)
        return out
    if not _offerable(annotation):
        return []
    return [Option(path, annotation, default, said, runtime)]


def _dataclass(annotation: Any, default: Any) -> type | None:
    """The dataclass whose fields stand for a parameter: its default's, else the one its annotation names."""
    if isinstance(default, File | Artifact):
        return None
    if dataclasses.is_dataclass(default):
        return default if isinstance(default, type) else type(default)
    found = [k for k in kinds(annotation, {}) if isinstance(k, type) and dataclasses.is_dataclass(k) and k is not File]
    return found[0] if len(found) == 1 else None


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else EMPTY


def _built(annotation: Any, default: Any, given: Mapping[Key, Any], depth: int) -> Any:
    """The value of a parameter or field from the options given below it."""
    if not given:
        return EMPTY if default is EMPTY else default
    holder = _dataclass(annotation, default)
    if holder is None:
        return next(iter(given.values()))
    namespace = vars(sys.modules[holder.__module__])
    start = default if dataclasses.is_dataclass(default) and not isinstance(default, type) else None
    changed = {}
    for field in dataclasses.fields(holder):
        below = {path: value for path, value in given.items() if path[depth] == field.name}
        if below:
            inner = getattr(start, field.name) if start is not None else _default(field)
            changed[field.name] = _built(_resolved(field.type, namespace), inner, below, depth + 1)
    return dataclasses.replace(start, **changed) if start is not None else holder(**changed)


def _resolved(annotation: Any, namespace: Mapping[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(namespace))
    except Exception:  # names that exist only for the type checker
        return Any


def _offerable(annotation: Any) -> bool:
    """Whether words on a command line can say a value of this type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return all(k is type(None) or _offerable(k) for k in arguments)
    if origin is tuple:
        return all(k is Ellipsis or _offerable(k) for k in arguments)
    if origin is Literal:
        return True
    return isinstance(annotation, type) and (annotation in _PLAIN or issubclass(annotation, enum.Enum))


def help_of(text: str, names: Sequence[str]) -> dict[str, str]:
    """What a docstring says of each name: `name: ...`, `name (type): ...` or numpy's `name : type` with the text below.

    >>> help_of("Args:\\n    n: samples per prompt,\\n        at least 1.\\n    a, b: both.", ["n", "a", "b"])
    {'n': 'samples per prompt, at least 1.', 'a': 'both.', 'b': 'both.'}
    """
    out: dict[str, str] = {}
    here: list[str] = []
    indent = 0
    for line in text.splitlines():
        found = re.match(r"(\s*)([A-Za-z_]\w*(?:, *[A-Za-z_]\w*)*)(?:\s*\([^)]*\))?(\s*):\s*(.*)", line)
        mentioned = [name.strip() for name in found[2].split(",")] if found else []
        if found and all(name in names for name in mentioned):
            here, indent = mentioned, len(found[1])
            # "name : type" is numpy's: what follows the colon is no text.
            out |= dict.fromkeys(here, "" if found[3] else found[4].strip())
        elif here and line.strip() and len(line) - len(line.lstrip()) > indent:
            out |= {name: f"{out[name]} {line.strip()}".strip() for name in here}
        else:
            here = []
    return out


def _whole_numbers(app: Any, commands: Any, arguments: Any) -> None:
    """Refuse 3.5 for a whole number, which cyclopts would round without a word."""
    for argument in arguments:
        allowed = kinds(argument.hint, {})
        if int in allowed and float not in allowed and str not in allowed:
            for token in argument.tokens:
                if re.fullmatch(r"[+-]?\d*\.\d*", token.value):
                    raise UserError(argument.name, f"{token.value} is not a whole number")


# --- effect ----------------------------------------------------------------------------------------------------------

Fingerprints = tuple[str, ...]


def check_effects(
    line: CommandLine, given: Mapping[Key, Any], build: Callable[[Mapping[Key, Any]], Fingerprints]
) -> None:
    """Raise `UserError` for an option that was given and changes nothing in what the recipe makes.

    `build` gives the fingerprints of the recipe's results under some options; each option is tried at its default.
    """
    whole = build(given)
    for path, value in given.items():
        option = line.options[path]
        if option.runtime or option.default is EMPTY or value == option.default:
            continue
        rest = {other: kept for other, kept in given.items() if other != path}
        if _try(build, rest) == whole:
            raise UserError(
                line.title, f"{option.flag} {_word(value)} has no effect{_because(line, given, path, build)}", "",
                f"Leave {option.flag} out{_cure(line, given, path, build)}.",
            )  # fmt: skip


def _because(line: CommandLine, given: Mapping[Key, Any], path: Key, build: Callable[..., Fingerprints]) -> str:
    """' with --sft-epochs 0' where another option that was given is what takes the effect away."""
    for other, value in given.items():
        if other != path and line.options[other].default is not EMPTY:
            rest = {k: v for k, v in given.items() if k != other}
            if _matters(rest, path, build):
                return f" with {line.options[other].flag} {_word(value)}"
    return ""


def _cure(line: CommandLine, given: Mapping[Key, Any], path: Key, build: Callable[..., Fingerprints]) -> str:
    """', or add --loss robust' where a choice exists under which the option has an effect."""
    for other, option in line.options.items():
        for value in _choices(option) if other != path and not option.runtime else ():
            if value != given.get(other, option.default) and _matters({**given, other: value}, path, build):
                return f", or add {option.flag} {_word(value)}" if value is not True else f", or add {option.flag}"
    return ""


def _choices(option: Option) -> tuple[Any, ...]:
    for kind in kinds(option.annotation, {}):
        if typing.get_origin(kind) is Literal:
            return typing.get_args(kind)
        if kind is bool:
            return (True, False)
    return ()


def _matters(given: Mapping[Key, Any], path: Key, build: Callable[..., Fingerprints]) -> bool:
    there, away = _try(build, given), _try(build, {k: v for k, v in given.items() if k != path})
    return there is not None and away is not None and there != away


def _try(build: Callable[..., Fingerprints], given: Mapping[Key, Any]) -> Fingerprints | None:
    try:
        return build(given)
    except UserError:  # without the option, or with the other choice, there is no recipe at all
        return None


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
