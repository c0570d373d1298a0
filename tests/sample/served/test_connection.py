"""Where a server is and what it is sent: refusals that never repeat a secret."""

from __future__ import annotations

import pytest

from tests.sample.served.loopback import KEY
from trueline.errors import UserError
from trueline.fingerprint import canonical
from trueline.sample.served import Connection, OpenAI
from trueline.sample.served.connection import redacted


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"base_url": "localhost:8000"}, "an address such as http://localhost:8000/v1"),
        ({"base_url": "ftp://a/v1"}, "an address such as"),
        ({"base_url": "http://a/v1#m"}, "an address such as"),
        ({"base_url": f"http://me:{KEY}@a/v1"}, "a bare address"),
        ({"base_url": f"http://a/v1?key={KEY}"}, "a bare address"),
        ({"key_env": KEY}, "the variable's name, never the key"),
        ({"concurrency": 0}, "at least 1"),
        ({"retries": -1}, "at least 0"),
        ({"timeout_s": 0}, "seconds above 0"),
        ({"backoff_s": "1"}, "seconds above 0"),
        ({"max_calls": -1}, "None for no limit"),
        ({"max_cost": -0.5}, "None for no limit"),
    ],
)
def test_refusals(fields, wanted):
    with pytest.raises(UserError, match=wanted) as error:
        Connection(**fields)
    assert KEY not in str(error.value)


def test_a_key_goes_where_it_was_meant_to_go(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("MINE", " mine ")
    assert Connection().key("OPENAI_API_KEY") == KEY
    assert Connection("http://a/v1").key("OPENAI_API_KEY") is None
    assert Connection("http://a/v1", key_env="MINE").key("OPENAI_API_KEY") == "mine"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match=r"the provider's API: \$OPENAI_API_KEY is not set.*export OPENAI_API_KEY"):
        Connection().key("OPENAI_API_KEY")


def test_nothing_of_it_is_identity():
    assert "connection" not in canonical(OpenAI("m", Connection(concurrency=3)))
    assert Connection("http://a/v1/") == Connection("http://a/v1")


def test_what_looks_like_a_key_is_not_shown():
    said = f"Incorrect key: {KEY}.\nYou gave sk-proj-****wxyz or hf_abcdefghij; mine is s3cret"
    assert redacted(said, "s3cret") == "Incorrect key: [key] You gave [key] or [key]; mine is [key]"
    assert len(redacted("x" * 900, None)) == 300
