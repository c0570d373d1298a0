"""What may be asked of an engine."""

from __future__ import annotations

import pytest

from trueline.errors import UserError
from trueline.fingerprint import canonical, fingerprint
from trueline.sample.protocol import Engine, Sampling
from trueline.sample.scripted import Scripted
from trueline.sample.stops import cut


def test_sampling_is_a_value():
    assert Sampling(n=4, stop=["\n"]) == Sampling(n=4, stop=("\n",))
    assert fingerprint(Sampling(seed=1)) != fingerprint(Sampling(seed=2))
    assert Sampling(temperature=0).greedy and not Sampling().greedy
    assert "ban" not in canonical(Sampling()) and Sampling(ban=["x"]) == Sampling(ban=("x",))


def test_engines_are_told_by_what_they_do():
    assert isinstance(Scripted(("Ada does.",)), Engine)
    assert not isinstance(Sampling(), Engine)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"n": 0}, "Sampling(n=...): got 0; a whole number of at least 1."),
        ({"n": 2.0}, "got 2.0"),
        ({"n": 3, "temperature": 0}, "Set a temperature above 0, or n=1."),
        ({"temperature": -1}, "at least 0"),
        ({"temperature": float("nan")}, "got nan"),
        ({"top_p": 0}, "a share above 0 and at most 1"),
        ({"top_p": 95}, "a share above 0 and at most 1"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "at most max_tokens, which is 8"),
        ({"stop": "\n"}, "Write stop=('\\n',)."),
        ({"stop": ("",)}, "texts that are not empty"),
        ({"seed": -1}, "seed"),
        ({"ban": "<|sep|>"}, "Write ban=('<|sep|>',)."),
        ({"ban": ("",)}, "texts that are not empty"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, says):
    with pytest.raises(UserError, match="Sampling") as error:
        Sampling(**fields)
    assert says in str(error.value)


def test_the_first_complete_stop_text_ends_an_answer():
    """'abc END, then STOP' holds both; 'END' is complete first, and what was searched before is not found again."""
    assert cut("abc END, then STOP", ["STOP", "END"]) == "abc "
    assert cut("abc END, then STOP", ["STOP", "END"], before=7) == "abc END, then "
    assert cut("abc EN", ["END"]) is None
    assert cut("abc END", ["END"], before=6) == "abc "
