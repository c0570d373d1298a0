"""A signature as options: what is offered, what docstrings say of it, how values are put together again."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from trueline.errors import UserError
from trueline.machine import Machine
from trueline.options import EMPTY, CommandLine, help_of
from trueline.store import Prompts


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Inner:
    """Inside.

    Attributes:
        depth: metres.
    """

    depth: float
    steps: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    """Parameters
    ----------
    name : str
        What it is called,
        in English.
    """

    name: str = "x"
    inner: Inner = Inner(2.0)
    hook: Callable[[str], str] | None = None
    hidden: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a name is needed")


def recipe(
    *,
    n: int | None = None,
    path: Path = Path("a"),
    colour: Colour = Colour.RED,
    outer: Outer = Outer(name="y"),
    inner: Inner | None = None,
    where: Machine = Machine(),  # noqa: B008 (frozen)
    kind: Literal["a", "b"] = "a",
    source: Prompts | None = None,
) -> None:
    """Do it.

    Long story.

    Args:
        n: how many.
        outer: said of all its fields that say nothing.
    """


def test_what_is_offered_and_what_it_means():
    line = CommandLine(recipe, "do")
    assert line.description == "Do it.\n\nLong story."
    offered = {option.flag: option.default for option in line.options.values() if not option.runtime}
    assert offered == {
        "--n": None, "--path": Path("a"), "--colour": Colour.RED, "--outer.name": "y", "--outer.inner.depth": 2.0,
        "--outer.inner.steps": (1, 2), "--inner.depth": EMPTY, "--inner.steps": (1, 2), "--kind": "a",
    }  # fmt: skip
    said = {option.flag: option.help for option in line.options.values()}
    assert said["--n"] == "how many."
    assert said["--outer.name"] == "What it is called, in English."
    assert said["--outer.inner.depth"] == said["--inner.depth"] == "metres."
    assert said["--outer.inner.steps"] == "said of all its fields that say nothing."
    assert "--where.micro-tokens" in said


def test_values_are_put_together_on_top_of_the_recipes_own_defaults():
    line = CommandLine(recipe, "do")
    given, extra = line.parse(["--outer.inner.steps", "3", "4", "--inner.depth=5", "--colour", "red", "--n", "7"])
    assert not extra
    arguments = line.arguments(given)
    assert arguments["outer"] == Outer(name="y", inner=Inner(2.0, (3, 4)))
    assert arguments["inner"] == Inner(5.0)
    assert (arguments["colour"], arguments["n"], arguments["path"]) == (Colour.RED, 7, Path("a"))
    assert line.arguments({}) == {
        "n": None, "path": Path("a"), "colour": Colour.RED, "outer": Outer(name="y"), "inner": None, "where": Machine(),
        "kind": "a", "source": None,
    }  # fmt: skip


def test_what_a_dataclass_itself_refuses_names_the_option():
    line = CommandLine(recipe, "do")
    with pytest.raises(UserError, match=r"^do: --outer\.name: a name is needed\.$"):
        line.arguments({("outer", "name"): ""})
    with pytest.raises(UserError, match=r"^do: --inner\.steps: .*'depth'\.$"):
        line.arguments({("inner", "steps"): (1,)})


def test_help_of_reads_the_usual_layouts():
    assert help_of("x, y: both of them.\nz (int): its own", ["x", "y", "z"]) == {
        "x": "both of them.", "y": "both of them.", "z": "its own"
    }  # fmt: skip
    assert help_of("Note: nothing.\n\nn: in\n    metres: per second.\n\nAfter.", ["n"]) == {
        "n": "in metres: per second."
    }
