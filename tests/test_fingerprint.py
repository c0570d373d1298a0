"""Identity: what makes two values the same, what is left out, what is refused and where the refusal points."""

from __future__ import annotations

import ast
import enum
import functools
import hashlib
import inspect
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline import fingerprint as module
from trueline.errors import UserError
from trueline.fingerprint import File, added, canonical, fingerprint, inside, snapshot
from trueline.machine import Machine, Runtime
from trueline.records import Message, Prompt

ROOT = Path(__file__).resolve().parent.parent


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Objective:
    beta: float = 0.1
    loss: str = "sigmoid"


@dataclass(frozen=True)
class Grown:
    """An objective that got a knob later: before, everything behaved as `clip=1.0`."""

    beta: float = 0.1
    clip: float = added(1.0)


@dataclass(frozen=True)
class Turned:
    """A knob whose default has moved since: its absence still means "mean"."""

    reduction: str = added("sum", absent="mean")


@dataclass(frozen=True)
class Worded:
    wording: str = "terse"

    def identity(self) -> Any:
        return {"terse": "Answer in a word."}.get(self.wording, "")


def shortest(text: str) -> float:
    return -float(len(text))


def test_equal_values_are_equal_wherever_they_come_from():
    assert fingerprint(Objective(beta=0.5)) == fingerprint(replace(Objective(), beta=0.5))
    assert fingerprint(1) == fingerprint(1.0) == fingerprint(np.float32(1)) == fingerprint(np.int64(1))
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({3, 1, 2}) == fingerprint({2, 3, 1})
    assert fingerprint(0.0) == fingerprint(-0.0)
    assert fingerprint(math.nan) == fingerprint(-math.nan)


def test_values_that_look_alike_are_not_mixed_up():
    alike = [None, False, 0, "", (), {}, set(), "0", "None", b"", True, 1, "1", 0.1, "0.1", math.nan, "nan", math.inf]
    alike += [
        -math.inf,
        Colour.RED,
        Colour.BLUE,
        "RED",
        {"~": "enum", "name": "RED"},
        (0,),
        ((0,),),
        {"a": 0},
        {"a": None},
    ]
    alike += [
        Objective(),
        Grown(),
        {"~": "test_fingerprint.Objective", "beta": 0.1, "loss": "sigmoid"},
        Objective,
        shortest,
    ]
    assert len({fingerprint(value) for value in alike}) == len(alike)


def test_golden_fingerprints_never_drift():
    """These stand in people's stores. A change here orphans everything that anybody has made: think twice.

    The first, worked out: the SHA-256 of the text [null,true,3,0.1,"\\u00fc"].
    """
    assert hashlib.sha256(rb'[null,true,3,0.1,"\u00fc"]').hexdigest().startswith("ceeed304")
    golden = {
        "plain": (None, True, 3, 0.1, "ü", "ceeed304"),
        "float": (math.nan, math.inf, 1e-12, 1e300, "882ad239"),
        "containers": ([1, (2, 3)], {"b": 1, "a": {2, 1}}, "2c509742"),
        "dataclass": (Objective(), Objective(0.5, "ipo"), "98a14a65"),
        "record": (Prompt.of("why?", meta={"n": 1}), Message("user", "x"), "9ede7668"),
        "named": (Colour.RED, Objective, len, "5fe4990c"),
    }
    assert {name: fingerprint(value[:-1])[:8] for name, value in golden.items()} == {
        k: v[-1] for k, v in golden.items()
    }


def test_what_says_where_or_how_fast_is_left_out_by_its_type():
    @dataclass(frozen=True)
    class Served:
        model: str
        machine: Machine = Machine()  # noqa: RUF009 (frozen)
        spare: Machine | None = None
        note: str = field(default="", compare=False)

    served = Served("m")
    assert fingerprint(served) == fingerprint(Served("m", Machine(device="cpu"), Machine(), note="faster"))
    assert fingerprint(served) != fingerprint(Served("n"))


def test_a_knob_added_later_does_not_fork_the_past():
    before = {"~": "test_fingerprint.Grown", "beta": 0.1}
    assert canonical(Grown()) == canonical(Grown(clip=1)) == before
    assert canonical(Grown(clip=2.0)) == {**before, "clip": 2}
    assert canonical(Turned("mean")) == {"~": "test_fingerprint.Turned"}
    assert canonical(Turned()) == {"~": "test_fingerprint.Turned", "reduction": "sum"}


def test_a_dataclass_can_add_what_is_no_field():
    assert canonical(Worded()) == {"~": "test_fingerprint.Worded", "wording": "terse", "~identity": "Answer in a word."}


def test_a_files_identity_is_its_content(tmp_path):
    (tmp_path / "a.txt").write_text("same")
    (tmp_path / "b.txt").write_text("same")
    one, two = File(tmp_path / "a.txt"), File(str(tmp_path / "b.txt"))
    assert fingerprint(one) == fingerprint(two)
    (tmp_path / "b.txt").write_text("other")
    assert fingerprint(one) != fingerprint(two)
    folder = fingerprint(File(tmp_path))
    (tmp_path / "a.txt").rename(tmp_path / "c.txt")
    assert fingerprint(File(tmp_path)) != folder


def test_the_hash_of_a_large_file_is_remembered_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LARGE", 3)
    model, fresh = tmp_path / "model.bin", module._sha256_of.__wrapped__
    model.write_bytes(b"weights")
    at = (str(model), 7, 1)
    assert fresh(*at) == hashlib.sha256(b"weights").hexdigest()
    (note,) = (tmp_path / "cache" / "trueline" / "hashes").iterdir()
    note.write_text("0" * 64)
    assert fresh(*at) == "0" * 64  # read from the note, not from the file
    assert fresh(str(model), 7, 2) == hashlib.sha256(b"weights").hexdigest()
    note.write_text("torn")
    assert fresh(*at) == hashlib.sha256(b"weights").hexdigest()


def test_functions_are_known_by_name_and_source_and_partials_by_their_parts():
    name, source = canonical(shortest)["name"], canonical(shortest)["source"]
    assert (name, len(source)) == ("test_fingerprint.shortest", 16)
    assert canonical(functools.partial(shortest, text="a"))["keywords"] == {"text": "a"}
    assert canonical(inspect.cleandoc) != canonical(inspect.getdoc)


def local_function() -> Any:
    def inner() -> None: ...

    return inner


@dataclass
class Loose:
    n: int = 1


REFUSED = {
    "a lambda": lambda: 0,
    "the local function inner": local_function(),
    "the bound method str.upper": "x".upper,
    "a Loose that can change after the recipe is written": Loose(),
    "an object of type builtins.object": object(),
    "an object of type numpy.ndarray": np.zeros(2),
    "the path 'a/b'": Path("a/b"),
    "a mapping with the key 3": {3: 1},
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_has_no_identity_is_refused_with_the_line_the_argument_and_a_cure(said):
    with pytest.raises(UserError) as caught:
        fingerprint((1, {"by": REFUSED[said]}), "argument critic")
    line = inspect.getsourcelines(test_what_has_no_identity_is_refused_with_the_line_the_argument_and_a_cure)[1] + 3
    assert caught.value.where == f"tests/test_fingerprint.py:{line}" or caught.value.where.endswith(f":{line}")
    assert caught.value.got.startswith(f"argument critic[1]['by'] is {said}")


def test_refusals_name_the_cure():
    with pytest.raises(
        UserError, match=r"x\[0\] is a Runtime value inside a container; it is left out only as an argument"
    ):
        canonical([Machine()], "x")
    with pytest.raises(UserError, match=r"Write File\('a/b'\)\."):
        canonical(Path("a/b"))
    with pytest.raises(UserError, match=r"there is no file 'nowhere\.jsonl'"):
        File("nowhere.jsonl")
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(UserError, match="holds itself"):
        canonical(itself)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
scalars |= st.binary(max_size=3) | st.sampled_from(Colour)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def kinded(value: Any) -> Any:
    """Python's equality, but for what it mixes up: True and 1; and told apart, tuples and lists, which are one here."""
    if isinstance(value, list | tuple):
        return ("list", *map(kinded, value))
    if isinstance(value, dict):
        return ("dict", frozenset((key, kinded(item)) for key, item in value.items()))
    return (type(value) is bool, value)


@settings(deadline=None)
@given(values, values)
def test_fingerprints_are_equal_exactly_where_values_are(left, right):
    assert (fingerprint(left) == fingerprint(right)) == (kinded(left) == kinded(right))
    assert fingerprint(snapshot(left)) == fingerprint(left)


@settings(deadline=None)
@given(st.floats(allow_nan=False), st.text(), st.floats(allow_nan=False), st.text())
def test_a_dataclass_changes_with_each_of_its_fields(beta, loss, other_beta, other_loss):
    same = fingerprint(Objective(beta, loss)) == fingerprint(Objective(other_beta, other_loss))
    assert same == ((beta, loss) == (other_beta, other_loss))


def test_a_snapshot_does_not_follow_later_changes():
    rows = [1, {"a": [2]}]
    kept = snapshot(rows)
    rows[1]["a"].append(3)  # type: ignore[index]
    assert kept == [1, {"a": [2]}]


def test_what_hides_in_a_value_is_found():
    @dataclass(frozen=True)
    class Holder:
        inner: Any

    one, two = Machine(threads=1), Machine(threads=2)
    assert list(inside({"a": [Holder((one, {"b": two}))], "c": one}, Runtime)) == [one, two, one]


def test_names_in_identities_are_unique_in_the_package():
    """Ours are known without their module, so two dataclasses or two stages of one name would be mixed up."""
    found: Counter[str] = Counter()
    for path in (*(ROOT / "trueline").glob("*/**/*.py"), ROOT / "trueline" / "models.py"):
        for node in ast.parse(path.read_text()).body:
            for decorator in getattr(node, "decorator_list", []):
                call = ast.unparse(decorator)
                if (
                    call.startswith("dataclass(") and "frozen=True" in call and "eq=False" not in call
                ) or call.startswith("stage("):
                    found[node.name] += not node.name.startswith("_")
    assert [name for name, times in found.items() if times > 1] == []
