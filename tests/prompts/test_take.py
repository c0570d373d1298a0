"""`take` gives the first different prompts, or a draw of them, of prompts and of groups alike."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.prompts.written import lines, made, record
from trueline.errors import UserError
from trueline.prompts.asked import asked
from trueline.prompts.take import different, drawn, take, without
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


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_draw_repeats_nothing_and_knows_no_order(n, most, seed, random):
    prompts = [Prompt.of(f"question {i}") for i in range(n)]
    found = drawn(iter(prompts), most, seed)
    assert len({p.text for p in found}) == len(found) == min(n, most)
    random.shuffle(prompts)
    assert drawn(iter(prompts), most, seed) == found
    assert drawn(iter(prompts), max(1, most // 2), seed) == found[: max(1, most // 2)]


def test_every_prompt_is_drawn_about_as_often():
    """2,000 rounds of 5 of 20: each prompt in about 500 of them, standard deviation 19."""
    prompts = [Prompt.of(f"question {i}") for i in range(20)]
    counts = dict.fromkeys((p.text for p in prompts), 0)
    for seed in range(2000):
        for prompt in drawn(iter(prompts), 5, seed):
            counts[prompt.text] += 1
    assert all(400 < count < 600 for count in counts.values())


def test_the_stage_draws_by_seed(tmp_path):
    source = asked(lines(tmp_path, *({"prompt": f"question {i}"} for i in range(9))))
    first, one, other = (made(tmp_path, take(source, 4, *seed)) for seed in ((), (1,), (2,)))
    assert [p.text for p in first] == [f"question {i}" for i in range(4)]
    assert len({frozenset(p.text for p in of) for of in (first, one, other)}) == 3
    assert take(source, 4) == take(source, 4, None) and take(source, 4, 0) != take(source, 4)
    assert len(made(tmp_path, take(source, 20, 3))) == 9
    with pytest.raises(UserError, match="at least 1"):
        made(tmp_path, take(source, 0, 3))


def test_what_is_tested_on_is_left_out(tmp_path):
    """Questions 0 to 4 under other ids, one of them twice, without 1 and 3."""
    source = asked(lines(tmp_path, *({"prompt": f"question {i % 5}", "id": f"a{i}"} for i in range(6))))
    other = asked(lines(tmp_path, {"prompt": "question 3"}, {"prompt": "question 1"}, name="held-out.jsonl"))
    handle = without(source, other)
    assert [p.text for p in made(tmp_path, handle)] == ["question 0", "question 2", "question 4"]
    assert record(tmp_path, handle)["counts"] == {"prompts": 3, "left_out": 2}
    with pytest.raises(UserError, match="each of its 5 prompts"):
        made(tmp_path, without(source, source))
