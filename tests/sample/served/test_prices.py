"""Money: what is listed, what is the user's own, and what nobody knows."""

from __future__ import annotations

import tomllib

import pytest

from tests.sample.served.loopback import Loopback
from tests.sample.served.test_engines import ask, fast
from trueline.errors import UserError
from trueline.sample.protocol import money
from trueline.sample.served import OpenAI
from trueline.sample.served.prices import SHIPPED, Price, price, table
from trueline.store import using

OWN = """
[compatible]
"Qwen/*" = { input = 0.1, output = 0.2 }
"Qwen/Qwen2.5-*" = { input = 0.3, output = 0.4 }
"free" = { input = 0, output = 0 }
[openai]
"gpt-5-mini" = { input = 9, output = 9 }
"""


def test_thirty_tokens_read_and_ten_written():
    """0.25 and 2.00 dollars per million: 30 * 0.25 + 10 * 2.00 = 27.5 micro-dollars."""
    assert price("openai", "gpt-5-mini").of(30, 10) == 27.5


def test_the_shipped_table_is_dated_and_warns():
    text = SHIPPED.read_text()
    assert "CHECK BEFORE YOU RELY" in text and tomllib.loads(text)["as_of"] >= "2026"
    assert set(table(SHIPPED)) == {"openai", "anthropic", "compatible"}
    assert all(0 < p.input <= p.output for models in table(SHIPPED).values() for p in models.values())


def test_a_dated_name_costs_what_the_model_costs():
    assert price("openai", "gpt-5-mini-2025-08-07") == price("openai", "gpt-5-mini")
    assert price("anthropic", "claude-haiku-4-5-20251001") == Price(1.0, 5.0)
    assert price("openai", "gpt-5-mini-ultra") is None and price("compatible", "gpt-5-mini") is None


def test_the_users_table_stands_before_ours(tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_text(OWN)
    own = str(tmp_path / "own.toml")
    assert price("openai", "gpt-5-mini", own) == Price(9, 9)
    assert price("openai", "gpt-5", own) == Price(1.25, 10)
    assert price("compatible", "Qwen/Qwen3-8B", own) == Price(0.1, 0.2)
    assert price("compatible", "Qwen/Qwen2.5-7B", own) == Price(0.3, 0.4)  # the longer pattern
    monkeypatch.setenv("TRUELINE_PRICES", own)
    assert price("compatible", "free") == Price(0, 0)


def test_an_unknown_model_costs_unknown_and_a_free_one_nothing(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    with using(tmp_path / "store"), Loopback() as server:
        _, metered = ask(OpenAI("mystery", fast(server)), n=3)
        assert money(metered) == "unknown" and metered["unpriced_calls"] == 3 and "cost_microusd" not in metered
        _, metered = ask(OpenAI("free", fast(server, prices=str(tmp_path / "own.toml"))), n=3)
        assert money(metered) == "$0" and "unpriced_calls" not in metered


def test_a_server_that_counts_no_tokens_costs_unknown(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    with using(tmp_path / "store"), Loopback() as server:
        server.usage = False
        _, metered = ask(OpenAI("Qwen/x", fast(server, prices=str(tmp_path / "own.toml"))), n=2)
        assert money(metered) == "unknown"


def test_money_in_words():
    assert money({"cost_microusd": 1_234_567}) == "$1.2346"
    assert money({"cost_microusd": 1_234_567, "unpriced_calls": 1}) == "at least $1.2346"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[openai", "it is no TOML"),
        ("[azure]\nm = { input = 1, output = 1 }", "sections openai, anthropic, compatible"),
        ('[openai]\n"m" = 3', "dollars per million tokens"),
        ('[openai]\n"m" = { input = -1, output = 1 }', "dollars per million tokens"),
        ('[openai]\n"m" = { input = 1, output = 1, cached = 1 }', "dollars per million tokens"),
    ],
)
def test_a_table_that_is_none(tmp_path, text, wanted):
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(UserError, match=wanted):
        price("openai", "m", str(tmp_path / "own.toml"))
    with pytest.raises(UserError, match="no such price table"):
        price("openai", "m", str(tmp_path / "gone.toml"))
