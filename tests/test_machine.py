"""The machine: what is in force, and what it refuses."""

from __future__ import annotations

import pytest

from trueline import machine
from trueline.machine import Machine


def test_the_machine_in_force_is_the_innermost():
    assert machine.current() == Machine()
    with machine.using(Machine(threads=1)):
        with machine.using(Machine(threads=2)):
            assert machine.current().threads == 2
        assert machine.current().threads == 1
    assert machine.current().threads == 0


def test_a_named_device_is_taken_at_its_word():
    assert machine.device(Machine(device="cuda:3")) == "cuda:3"


@pytest.mark.parametrize(
    ("field", "value"), [("processes", 0), ("micro_tokens", -1), ("shard", 0), ("precision", "fp8")]
)
def test_nonsense_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        Machine(**{field: value})
