"""Recipes found by name, path or module, as one module each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trueline.errors import UserError
from trueline.fingerprint import fingerprint
from trueline.pipeline.loading import find, from_file, load_file, names

MODULE = '''"""A study."""
from dataclasses import dataclass
from helper import HELP

@dataclass(frozen=True)
class Knob:
    n: int = 1

def study(*, knob: Knob = Knob()): ...

def _hidden(): ...

if __name__ == "__main__":
    from trueline.fingerprint import fingerprint
    print(fingerprint(Knob()))
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mystudy.py").write_text(MODULE)
    (tmp_path / "deep" / "helper.py").write_text("HELP = 1\n")
    return tmp_path


def test_a_file_is_one_module_with_its_neighbours(folder):
    recipe = find("deep/mystudy.py:study")
    assert find("deep/mystudy.py") is recipe  # its only function
    module = load_file(folder / "deep" / "mystudy.py")
    assert module.study is recipe and from_file(module)
    assert module.HELP == 1


def test_a_value_is_the_same_by_path_by_import_and_as_a_script(folder, monkeypatch):
    by_path = fingerprint(load_file(folder / "deep" / "mystudy.py").Knob())
    monkeypatch.syspath_prepend(folder / "deep")
    import mystudy  # type: ignore[import-not-found]

    assert fingerprint(mystudy.Knob()) == by_path
    out = subprocess.run([sys.executable, "deep/mystudy.py"], capture_output=True, text=True, check=True).stdout
    assert out.strip() == by_path


def test_our_recipes_are_known_by_name_and_by_what_they_are_for():
    known = names()
    assert {"tour", "align"} <= set(known)
    assert all(said and not said.startswith("def ") for said in known.values())
    assert find("tour").__name__ == "tour"


def test_what_cannot_be_loaded_says_why(folder):
    (folder / "needy.py").write_text("import a_library_nobody_has\n")
    with pytest.raises(UserError, match=r"needy\.py: it needs 'a_library_nobody_has', which is not installed"):
        find("needy.py:study")
    with pytest.raises(UserError, match="recipe module 'needy': it needs 'a_library_nobody_has'"):
        find("needy:study")
    with pytest.raises(UserError, match=r"there is no function '_hidden' in it"):
        find("deep/mystudy.py:_hidden")
    (folder / "two.py").write_text("def a(): ...\ndef b(): ...\n")
    with pytest.raises(UserError, match=r"does not say which function is the recipe; .*Write two\.py:a\."):
        find("two.py")
    (folder / "typo.py").write_text("import trueline.nonsense\n")
    with pytest.raises(ModuleNotFoundError, match=r"trueline\.nonsense"):  # a traceback shows this best
        find("typo.py:study")
