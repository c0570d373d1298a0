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
    assert engine("openai:gpt-4.1-mini") == OpenAI("gpt-4.1-mini")
    assert engine("openai:ft:gpt-4o:me", limited) == OpenAI("ft:gpt-4o:me", limited)
    assert engine("anthropic:claude-haiku-4-5") == Anthropic("claude-haiku-4-5")
    made = engine("http://localhost:8000/v1#Qwen/Qwen2.5-7B", limited)
    assert made == OpenAI("Qwen/Qwen2.5-7B", Connection("http://localhost:8000/v1", max_calls=9))


def test_settings_behind_a_name():
    made = engine("openai:m?omit=seed,stop&choices=4&thinking=9&reasoning_effort=low&top_k=0&revision=q4")
    extra = {"reasoning_effort": "low", "top_k": 0}
    assert made == OpenAI("m", omit=("seed", "stop"), choices=4, thinking=9, extra=extra, revision="q4")
    made = engine("http://localhost:8000/v1#m?protocol=completion&end=<|im_end|>")
    assert made == OpenAI("m", Connection("http://localhost:8000/v1"), protocol="completion", end="<|im_end|>")


@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-5.2-2025-12-11", "o3", "o4-mini", "gpt-6"])
def test_models_that_think_are_given_room_and_no_temperature(model):
    assert engine(f"openai:{model}") == OpenAI(model, omit=("temperature", "top_p", "stop"), thinking=4096)
    assert engine(f"openai:{model}?omit=&thinking=0") == OpenAI(model)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5-chat-latest", "omni", "ft:gpt-4o:me"])
def test_models_that_do_not(model):
    assert engine(f"openai:{model}") == OpenAI(model)


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
        ("openai:m?low", "got the setting 'low'; name=value"),
        ("openai:m?choices=two", r"OpenAI\(choices=...\): got 'two'"),
        ("anthropic:m?thinking=-1", r"Anthropic\(thinking=...\): got '-1'"),
        ("openai:m?api_key=abc", "no secret"),
        ("anthropic:m?choices=2", "Anthropic has no setting choices"),
    ],
)
def test_half_a_name(named, wanted):
    with pytest.raises(UserError, match=wanted):
        engine(named)
