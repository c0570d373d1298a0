"""`take` gives the first different prompts, of prompts and of groups alike."""

from __future__ import annotations

from types import SimpleNamespace

from trueline.prompts.take import different
from trueline.records import Group, Prompt


def test_a_doubled_prompt_counts_once_and_order_is_kept():
    rows = [
        Prompt.of("b", id="1"),
        Group(Prompt.of("a", id="2")),
        Group(Prompt.of("b", id="3")),
        Prompt.of("c", id="4"),
    ]
    found = different(SimpleNamespace(read=lambda: iter(rows)))
    assert [(prompt.text, prompt.id) for prompt in found] == [("b", "1"), ("a", "2"), ("c", "4")]
