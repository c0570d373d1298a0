"""Engines by name, and refusals that say what is known."""

from __future__ import annotations

import pytest

from tests.sample import given
from trueline.errors import UserError
from trueline.pipeline import make
from trueline.sample.hf import HF
from trueline.sample.named import engine
from trueline.sample.scripted import Scripted
from trueline.sample.served import Anthropic, Connection, OpenAI
from trueline.store import using


def test_names_of_services():
    limited = Connection(max_calls=9)
    assert engine("openai:gpt-5-mini") == OpenAI("gpt-5-mini")
    assert engine("openai:ft:gpt-4o:me", limited) == OpenAI("ft:gpt-4o:me", limited)
    assert engine("anthropic:claude-haiku-4-5") == Anthropic("claude-haiku-4-5")
    made = engine("http://localhost:8000/v1#Qwen/Qwen2.5-7B", limited)
    assert made == OpenAI("Qwen/Qwen2.5-7B", Connection("http://localhost:8000/v1", max_calls=9))


def test_models_on_this_machine(tmp_path):
    with using(tmp_path / "store"):
        policy = given.llama(tmp_path / "llama")
        assert engine(policy) == engine(str(tmp_path / "llama")) == engine(tmp_path / "llama") == HF(policy)
        assert engine(make(policy).name) == HF(policy)


def test_engines_and_a_recipes_own_names():
    parrot = Scripted(("a",))
    assert engine(parrot) is parrot
    assert engine("town", known={"town": parrot}) is parrot


@pytest.mark.parametrize("named", ["gpt-5-mini", "openai-gpt", "./no/such", "/no/such", "a b/c", "", 7, "azure:gpt"])
def test_a_refusal_lists_what_is_known(named, tmp_path):
    with using(tmp_path / "store"), pytest.raises(UserError) as error:
        engine(named, known={"town": Scripted(("a",))}, where="--critic")
    assert str(error.value).startswith("--critic: got")
    assert "town, openai:MODEL, anthropic:MODEL, http://HOST:PORT/v1#MODEL" in str(error.value)


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ("openai:", "names no model; openai:MODEL"),
        ("http://localhost:8000/v1", r"Write http://localhost:8000/v1#MODEL; the server lists its models"),
        ("http:#m", "an address such as"),
    ],
)
def test_half_a_name(named, wanted):
    with pytest.raises(UserError, match=wanted):
        engine(named)
