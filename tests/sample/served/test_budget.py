"""A budget: never above it, a clean stop that says what was spent, and a rerun that goes on from there."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given as drawn_by
from hypothesis import settings
from hypothesis import strategies as st

from tests.sample import given
from tests.sample.served.loopback import Loopback
from tests.sample.served.test_engines import ask, fast
from trueline.errors import UserError
from trueline.pipeline import make
from trueline.records import Prompt
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.sample.served import Connection, OpenAI
from trueline.sample.served.budget import Budget
from trueline.sample.served.replies import Spent
from trueline.store import using

PROMPTS = [Prompt.of(f"Question number {i}?") for i in range(30)]


@pytest.fixture(autouse=True)
def store(tmp_path):
    (tmp_path / "prices.toml").write_text('[compatible]\n"m" = { input = 1000, output = 10000 }\n')
    with using(tmp_path / "store") as made:
        yield made


def test_so_many_calls_and_no_more(store):
    """Ten of thirty; the same budget buys nothing more, a larger one only what is missing."""
    with Loopback(delay=0.01) as server:
        for _ in range(2):
            with pytest.raises(
                UserError, match=r"used up: 10 calls were spent in this store; max_calls=10\. .*larger max_c"
            ):
                ask(OpenAI("m", fast(server, max_calls=10)), *PROMPTS, max_tokens=4)
            assert len(server.asked) == 10
        _, metered = ask(OpenAI("m", fast(server, max_calls=30)), *PROMPTS, max_tokens=4)
        assert metered["cached_calls"] == 10 and len(server.asked) == 30


def test_a_drawing_stops_cleanly_and_goes_on(store):
    with Loopback() as server:
        short, enough = (OpenAI("m", fast(server, max_calls=n)) for n in (4, 40))
        with pytest.raises(UserError, match="the budget is used up: 4 calls"):
            make(draw(short, given.questions(), Sampling(n=2)))
        assert draw(short, given.questions(), Sampling(n=2)) == draw(enough, given.questions(), Sampling(n=2))
        counts = make(draw(enough, given.questions(), Sampling(n=2))).record["counts"]
        assert (counts["calls"], counts["cached_calls"], len(server.asked)) == (10, 4, 10)


def test_so_much_money_and_no_more(store, tmp_path):
    """A request reads 3 words for 0.003 dollars and writes at most 4 for 0.04; a dollar is never passed."""
    with Loopback(delay=0.005) as server:
        connection = fast(server, max_cost=1.0, prices=str(tmp_path / "prices.toml"), concurrency=6)
        with pytest.raises(UserError, match=r"calls and \$0\.\d+ were spent .*max_cost=1.0, the next may cost \$0.\d+"):
            ask(OpenAI("m", connection), *PROMPTS, max_tokens=4)
        spent = sum(0.003 + 0.01 * 4 for _ in range(sum(server.answered.values())))
        assert 0.8 < spent <= 1.0


def test_money_is_not_limited_by_an_unknown_price():
    with Loopback() as server:
        with pytest.raises(UserError, match=r"no table says what other costs.*\$TRUELINE_PRICES"):
            ask(OpenAI("other", fast(server, max_cost=1.0)))
        assert not server.asked


@settings(max_examples=30)
@drawn_by(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 1)), min_size=1, max_size=40),
    st.floats(0, 300),
    st.integers(1, 5),
)
def test_no_order_of_replies_passes_the_budget(requests, limit, threads):
    """Requests of any worst case, which cost any share of it, from any number of threads."""
    lock, spent, over = threading.Lock(), [0.0], []
    budget = Budget("x", Connection(max_cost=limit / 1e6), lambda: Spent(0, spent[0]))
    waiting = list(requests)

    def run():
        while True:
            with lock:
                if not waiting:
                    return
                worst, share = waiting.pop()
            try:
                budget.reserve(worst)
            except UserError:
                return
            with lock:
                spent[0] += worst * share
                over.append(spent[0] > limit + 1e-6)
            budget.settle(worst)

    crew = [threading.Thread(target=run) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(20)
        assert not thread.is_alive()
    assert not any(over)


def test_room_is_waited_for():
    """1.00 of which 0.97 is spent: a second request of at most 0.02 waits until the first has cost 0.005."""
    spent = [0.97e6]
    budget = Budget("x", Connection(max_cost=1.0), lambda: Spent(9, spent[0]))
    budget.reserve(0.02e6)
    second = threading.Thread(target=budget.reserve, args=(0.02e6,))
    second.start()
    second.join(0.1)
    assert second.is_alive()
    spent[0] += 0.005e6
    budget.settle(0.02e6)
    second.join(5)
    assert not second.is_alive()
    spent[0] += 0.01e6
    budget.settle(0.02e6)
    with pytest.raises(UserError, match=r"9 calls and \$0.9850 were spent"):
        budget.reserve(0.02e6)
