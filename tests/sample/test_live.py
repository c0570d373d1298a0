"""Orders that come and go: the answers of the engine `HF`, whoever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest

from tests.sample import given
from trueline import models
from trueline.errors import UserError
from trueline.machine import Machine
from trueline.pipeline import make
from trueline.records import Prompt
from trueline.sample.hf import HF
from trueline.sample.live import Live, Order, held_back
from trueline.sample.protocol import Sampling
from trueline.store import using

ASKED = [
    Prompt.of(text) for text in ("Who bakes the bread?", "Why?", "Where does the miller live? " * 4, "Who keeps it?")
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    with using(tmp_path_factory.mktemp("store")):
        yield make(given.with_heads(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="module")
def live(policy):
    return Live.of(models.load(policy), machine=Machine(sample_rows=6))


class Heard:
    """What an order was told."""

    def __init__(self) -> None:
        self.said, self.read, self.pieces, self.error = None, None, [], None

    def order(self, prompt, sampling, reads=False, grown=False):
        return Order(prompt, sampling, reads, self.finished, self.failed, self.pieces.append if grown else None)

    def finished(self, said, read):
        self.said, self.read = said, read

    def failed(self, error):
        self.error = error


SAMPLINGS = [
    Sampling(n=5, max_tokens=12, seed=1),
    Sampling(n=1, max_tokens=30, temperature=0.0),
    Sampling(n=9, max_tokens=20, top_p=0.8, temperature=0.7, min_tokens=4, seed=3),
    Sampling(n=2, max_tokens=9, stop=("a", "th"), seed=2),
]


def test_an_answer_is_the_engines_own_whoever_joins_or_leaves_meanwhile(live, policy):
    """Four orders with settings of their own over six rows, one after another, a fifth that is dropped on the way."""
    heard = [Heard() for _ in ASKED]
    gone = Heard()
    dropped = gone.order(ASKED[0], Sampling(n=7, max_tokens=40, seed=9), reads=True)
    for number, (one, prompt, sampling) in enumerate(zip(heard, ASKED, SAMPLINGS, strict=True)):
        live.add(one.order(prompt, sampling, reads=number % 2 == 0))
        if number == 1:
            live.add(dropped)
        for _ in range(3):
            live.advance()
    live.drop(dropped)
    while live.advance():
        pass
    assert gone.said is None and gone.error is None and live.rows == 0
    with HF(policy, heads=True) as engine:
        for number, (one, prompt, sampling) in enumerate(zip(heard, ASKED, SAMPLINGS, strict=True)):
            (group,) = engine.groups([prompt], sampling)
            assert [c.tokens for c in one.said] == [c.tokens for c in group.completions]
            assert [c.text for c in one.said] == [c.text for c in group.completions]
            if number % 2 == 0:
                wanted = [[f.score for f in of] for of in group.feedback]
                np.testing.assert_allclose(one.read, wanted, atol=1e-5)
            else:
                assert one.read == [[]] * sampling.n


def test_numbers_are_used_again_so_that_nothing_grows(live):
    for round in range(3):
        for prompt in ASKED:
            live.add(Heard().order(prompt, Sampling(n=4, max_tokens=5, seed=round)))
        while live.advance():
            pass
    batch = live.batch
    assert not (batch.orders or batch.numbers or batch.left or batch.drawing or batch.watching or batch.closing)
    assert len(batch.task_list) <= 24 and len(batch.prompt_list) <= 8


@pytest.mark.parametrize("stop", [(), ("a", "ke"), ("the",)])
def test_the_pieces_of_a_growing_answer_are_its_text(live, stop):
    for seed in range(6):
        one = Heard()
        live.add(one.order(ASKED[0], Sampling(max_tokens=24, seed=seed, stop=stop), grown=True))
        while live.advance():
            pass
        assert "".join(one.pieces) == one.said[0].text
        assert not any(text in one.said[0].text for text in stop)


def test_what_may_become_a_stop_text_waits():
    assert held_back("so\n", ("\n\n",)) == 1 and held_back("so the", ("then", "he")) == 3 and held_back("so", ()) == 0


def test_a_prompt_without_room_is_refused_and_the_rest_goes_on(live):
    one = Heard()
    live.add(one.order(ASKED[1], Sampling(max_tokens=3)))
    with pytest.raises(UserError, match="at most the 256"):
        live.add(Heard().order(Prompt.of("word " * 400), Sampling(max_tokens=3)))
    while live.advance():
        pass
    assert len(one.said) == 1


def test_when_the_model_breaks_every_order_in_hand_fails_and_the_next_is_answered(live, monkeypatch):
    """A step that raises, as a full memory does."""
    many = [Heard() for _ in range(3)]
    for one in many:
        live.add(one.order(ASKED[0], Sampling(max_tokens=8)))
    live.advance()
    step = live.batch.step
    monkeypatch.setattr(live.batch, "step", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    assert live.advance()
    assert all("out of memory" in str(one.error) for one in many)
    monkeypatch.setattr(live.batch, "step", step)
    after = Heard()
    live.add(after.order(ASKED[0], Sampling(max_tokens=8)))
    while live.advance():
        pass
    assert after.said


def test_a_model_that_the_loop_is_not_proved_for_answers_too(tmp_path):
    with using(tmp_path / "store"):
        policy = make(given.mamba(tmp_path / "mamba"))
        live = Live.of(models.load(policy))
        one, other = Heard(), Heard()
        live.add(one.order(ASKED[0], Sampling(n=2, max_tokens=6, seed=4)))
        live.add(other.order(ASKED[1], Sampling(max_tokens=6), grown=True))
        while live.advance():
            pass
        with HF(policy) as engine:
            assert [c.tokens for c in engine.generate([ASKED[0]], Sampling(n=2, max_tokens=6, seed=4))[0]] == [
                c.tokens for c in one.said
            ]
        assert "".join(other.pieces) == other.said[0].text
