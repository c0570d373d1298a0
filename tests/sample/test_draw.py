"""Prompts become groups: what is written and counted, what is refused, and what a killed run leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from tests.sample import given
from tests.sample.killable import drawn
from trueline import models
from trueline.conditions.phrases import QuantilePhrases
from trueline.conditions.protocol import asking, conditioned
from trueline.conditions.tokens import QuantileTokens
from trueline.errors import UserError
from trueline.pipeline import make
from trueline.records import Completion, Prompt, read_jsonl
from trueline.sample.draw import draw
from trueline.sample.hf import HF
from trueline.sample.protocol import Sampling
from trueline.sample.scripted import Scripted
from trueline.store import using

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def test_prompts_become_groups_signed_by_their_author(store):
    samples = draw(Scripted(("Ada does.", "Go away, you!")), given.questions(), Sampling(n=2, max_tokens=2))
    assert samples.count == {"prompts": 5, "groups": 5, "samples": 10}
    groups = list(make(samples).read())
    assert [g.prompt.text for g in groups] == [p.text for p in given.questions().read()]
    assert [c.text for c in groups[0].completions] == ["Ada does.", "Go away,"]
    assert [c.stopped for c in groups[0].completions] == ["stop", "length"]
    assert {c.author for g in groups for c in g.completions} == {"scripted"}
    assert samples.record["counts"] == {"prompts": 5, "groups": 5, "samples": 10, "cut": 5}


def test_a_policy_answers_through_its_engine(store, tmp_path):
    """The record counts tokens; the groups carry token ids that decode to the text."""
    policy = given.llama(tmp_path / "model")
    samples = make(draw(policy, given.questions(), Sampling(n=3, max_tokens=20)))
    groups = list(samples.read())
    completions = [c for g in groups for c in g.completions]
    assert {c.author for c in completions} == {policy.name}
    assert samples.record["counts"]["tokens"] == sum(len(c.tokens) for c in completions)
    assert samples.record["counts"]["cut"] == sum(c.stopped == "length" for c in completions)
    with HF(policy) as engine:
        renderer = engine.writer.loaded.renderer
        assert [renderer.decode(c.tokens) for c in completions] == [c.text for c in completions]
        assert all((c.tokens[-1] in renderer.stop_ids) == (c.stopped == "stop") for c in completions)
    assert policy in samples.parents


def test_groups_are_asked_again(store):
    """What was said before stays where it was said: the new groups hold the new answers."""
    first = draw(Scripted(("one",)), given.questions(), Sampling())
    again = make(draw(Scripted(("two",)), first, Sampling()))
    assert [[c.text for c in g.completions] for g in again.read()] == [["two"]] * 5
    assert again.record["counts"]["samples"] == 5


def test_a_prompt_beyond_the_context_is_named(store, tmp_path):
    policy = given.llama(tmp_path / "model", max_position_embeddings=96)
    with pytest.raises(UserError, match=r"prompt p-\w+ .* at most the 96 .* Lower max_tokens") as error:
        make(draw(policy, given.questions(), Sampling(max_tokens=60)))
    assert "Where does the miller" in str(error.value)


def test_such_prompts_are_dropped_where_that_was_said(store, tmp_path):
    """Each is written aside with its reason; too large a share stops the run."""
    policy = given.llama(tmp_path / "model", max_position_embeddings=96)
    asked, sampling = given.questions(), Sampling(max_tokens=60)
    with pytest.raises(UserError, match="longer than the model's context"):
        make(draw(policy, asked, sampling, long="drop", max_dropped=0.1))
    samples = make(draw(policy, asked, sampling, long="drop", max_dropped=0.5))
    kept = len(list(samples.read()))
    assert samples.record["counts"]["dropped"] == 5 - kept > 0
    assert sum(1 for _ in read_jsonl(samples.path / "dropped.jsonl", dict)) == 5 - kept


def test_what_cannot_answer_is_refused(store):
    with pytest.raises(UserError, match="a policy or an engine"):
        make(draw("Qwen", given.questions(), Sampling()))
    with pytest.raises(UserError, match='"error" or "drop"'):
        make(draw(Scripted(("a",)), given.questions(), Sampling(), long="cut"))
    with pytest.raises(UserError, match="no reply to prompt"):
        make(draw(Scripted({"Why?": ("Because.",)}), given.questions(), Sampling()))


def test_a_prompt_that_ends_with_an_answer_is_named(store, tmp_path):
    from trueline.records import Message, Prompt

    answered = Prompt((Message("user", "Who?"), Message("assistant", "Ada.")))
    with HF(make(given.llama(tmp_path / "model"))) as engine, pytest.raises(UserError, match=f"prompt {answered.id}"):
        engine.generate([answered], Sampling())


def special(text):
    from tokenizers import AddedToken

    return AddedToken(text, special=True)


def with_tokens(folder, tokens):
    """The handle on a random model whose vocabulary has these tokens too, as likely as any."""
    given.llama(folder)
    loaded = models.load(folder)
    loaded.tokenizer.add_tokens(list(tokens))
    loaded.model.resize_token_embeddings(len(loaded.tokenizer), mean_resizing=False)
    if tokens:
        loaded.model.lm_head.weight.data[-len(tokens) :] = loaded.model.lm_head.weight.data[50 : 50 + len(tokens)]
    models.save(loaded.model, loaded.tokenizer, folder)
    return models.pretrained(folder)


@dataclass(frozen=True)
class Overheard:
    """Answers with what it is asked, and with what it may not say."""

    name = "overheard"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def generate(self, prompts, sampling):
        return [[Completion(f"{p.id}|{p.text}|{sampling.ban}")] * sampling.n for p in prompts]

    def logprobs(self, prompts, completions):
        return [[() for _ in given] for given in completions]


def test_a_condition_stands_before_the_prompt_and_the_group_keeps_the_prompt(store):
    """The engine sees it under the same id; the completion says it; a prompt with the condition's words keeps all."""
    condition = QuantilePhrases.toxicity()
    samples = make(draw(Overheard(), given.questions(), Sampling(n=2, ban=("x",)), condition=condition))
    groups = list(samples.read())
    assert [g.prompt for g in groups] == list(given.questions().read())
    for group in groups:
        ask = "Lowest Toxicity<|separator|>"
        said = f"{group.prompt.id}|{ask}{group.prompt.text}|('x', '<|separator|>')"
        assert [(c.text, c.ask) for c in group.completions] == [(said, ask)] * 2
    assert samples.record["notes"] == {"asked": {"Lowest Toxicity<|separator|>": 5}}
    plain = draw(Overheard(), given.questions(), Sampling(n=2, ban=("x",)))
    assert draw(Overheard(), given.questions(), Sampling(n=2, ban=("x",)), condition=None) == plain != samples


def test_prompts_that_hold_a_condition_token_are_told(store):
    held = QuantilePhrases(("Right",), "Why", tokens=("Why",))
    samples = make(draw(Overheard(), given.questions(), condition=held))
    assert samples.record["notes"]["prompts_with_condition_tokens"] == 1


def test_a_policy_without_the_conditions_tokens_is_refused(store, tmp_path):
    """Without the tokens, and with special ones, which stand for nothing in a message."""
    for number, added in enumerate(((), (special("_QUANTILE_TOKEN_0_"),))):
        policy = with_tokens(tmp_path / f"model{number}", added)
        with pytest.raises(UserError, match=r"quantile-tokens with .* '_QUANTILE_TOKEN_0_' not as one token.*extend"):
            make(draw(policy, given.questions(), Sampling(), condition=QuantileTokens()))


def test_added_tokens_ask_and_are_read_as_one_token_each(store, tmp_path):
    """One token more than the bare prompt; every quantile its own; a banned one is never drawn."""
    condition = QuantileTokens()
    policy = make(with_tokens(tmp_path / "model", condition.tokens))
    bare = next(make(given.questions()).read())
    with HF(policy) as engine:
        known = [engine.opening_token(token) for token in condition.tokens]
        assert len(set(known)) == 5 and None not in known
        plain = engine.writer.prompt_ids(bare)
        for k, token in enumerate(known):
            asked = conditioned(bare.messages, asking(condition, k).ask(bare))
            ids = engine.writer.prompt_ids(msgspec.structs.replace(bare, messages=asked))
            assert len(ids) == len(plain) + 1 and ids.count(token) == 1
            assert [i for i in ids if i != token] == plain
    free, banned = (
        make(draw(policy, given.questions(), Sampling(n=8, max_tokens=40, ban=ban), condition=condition))
        for ban in ((), condition.tokens)
    )
    drawn, never = ({t for g in s.read() for c in g.completions for t in c.tokens} for s in (free, banned))
    assert drawn & set(known) and not never & set(known)


def test_a_policy_is_asked_as_if_the_prompt_held_the_condition(store, tmp_path):
    """The same tokens as from the prompt with the condition written into it, under the same id; another target,
    another answer; too long counts the condition."""
    policy = given.llama(tmp_path / "model", max_position_embeddings=96)
    condition = QuantilePhrases.tldr()
    sampling = Sampling(n=2, max_tokens=12, seed=3)
    groups = list(make(draw(policy, given.questions(), sampling, condition=condition)).read())
    with HF(policy) as engine:
        for group in groups:
            text = "Excellent. input: " + group.prompt.text
            asked = msgspec.structs.replace(group.prompt, messages=Prompt.of(text).messages)
            (answers,) = engine.generate([asked], sampling)
            assert [c.tokens for c in group.completions] == [c.tokens for c in answers]
        longest = max(given.questions().read(), key=lambda p: len(engine.writer.prompt_ids(p)))
        room = 96 - len(engine.writer.prompt_ids(longest))
    worst = list(make(draw(policy, given.questions(), sampling, condition=asking(condition, 4))).read())
    assert [g.prompt for g in worst] == [g.prompt for g in groups]
    assert [c.text for g in worst for c in g.completions] != [c.text for g in groups for c in g.completions]
    full = Sampling(max_tokens=room)
    assert make(draw(policy, given.questions(), full, max_dropped=0.0)).count["groups"] == 5
    with pytest.raises(UserError, match="the answer ends at"):
        make(draw(policy, given.questions(), full, condition=condition))
    fewer = Sampling(max_tokens=room - 12)
    few = make(draw(policy, given.questions(), fewer, long="drop", max_dropped=0.9, condition=condition))
    assert 1 <= few.record["counts"]["dropped"] < 5
    assert all(c.ask for g in few.read() for c in g.completions)


def start(store, model):
    """The drawing of `killable` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.sample.killable", str(store), str(model)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def test_a_killed_drawing_goes_on_where_it_was(tmp_path):
    """Killed after some shards: the same bytes and counts as an uninterrupted run."""
    given.llama(tmp_path / "model")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, tmp_path / "model").wait(300) == 0
    process = start(broken, tmp_path / "model")
    while len(list(broken.glob("groups/draw-*.part/shards/groups/0*.jsonl"))) < 4:
        assert process.poll() is None, "the run was too quick to be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    left = {path: path.stat().st_mtime_ns for path in broken.glob("groups/draw-*.part/shards/groups/0*.jsonl")}
    assert 4 <= len(left) < 20
    assert start(broken, tmp_path / "model").wait(300) == 0
    found = []
    for root in (whole, broken):
        with using(root):
            samples = drawn(str(tmp_path / "model"))
            found.append(((samples.path / "groups.jsonl").read_bytes(), samples.record["counts"]))
    assert found[0] == found[1]


def test_a_real_model_tells_a_story(store, shared_data):
    """stories260K, greedily: it starts as its own samples do, and all log-probs are probabilities."""
    from trueline.models import pretrained
    from trueline.records import Prompt

    with HF(make(pretrained(shared_data / "models" / "stories260K")), chat="plain") as engine:
        ((story,),) = engine.generate([Prompt.of("Once upon a time")], Sampling(temperature=0, max_tokens=60))
        assert "there was" in story.text[:40]
        assert max(story.logprobs) <= 0
        assert sum(story.logprobs) / len(story.logprobs) > -1.5
