"""`Reward`: what a policy's head says of answers, and when it says nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.feedback import policies
from trueline import models
from trueline.errors import UserError
from trueline.feedback.judge import judge
from trueline.feedback.protocol import Critic
from trueline.feedback.reward import Reward
from trueline.fingerprint import fingerprint
from trueline.pipeline import make, stage
from trueline.records import Group, read_jsonl, write_jsonl
from trueline.store import Groups, using
from trueline.trie import Sequence, padded_forward


@stage(Groups, name="policy_answers", estimate=lambda: {"prompts": 2, "samples": 5})
def answers(work) -> None:
    """Two questions with three and two answers."""
    write_jsonl(work.dir / "groups.jsonl", policies.groups())
    work.count("prompts", 2)
    work.count("samples", 5)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return models.pretrained(policies.folder(tmp_path_factory.mktemp("reward")))


def by_hand(policy, group, text, head):
    """The head's product with the final state at the end-of-turn, the conversation alone and padded."""
    loaded = models.load(policy)
    ids = loaded.renderer.conversation(policies.conversation(group, text))
    ids = ids.ids[: ids.reward_position + 1]
    with torch.no_grad():
        state = padded_forward(loaded.model, [Sequence.of(ids[:1], ids[1:])], frozenset({"last_hidden"}))
        return float(state.last_hidden_ND[0] @ loaded.heads.out.weight[loaded.heads.names.index(head)])


def test_judging_by_a_head(policy, tmp_path):
    """Each answer's reward as it is by itself; the policy is a parent; one call per answer is counted."""
    with using(tmp_path):
        critic = Reward(policy)
        judged = judge(answers(), critic)
        assert policy in judged.parents and judged.count["critic_calls"] == 5
        made = make(judged)
        read = list(read_jsonl(made.path / "groups.jsonl", Group))
        assert made.record["counts"]["critic_calls"] == made.record["counts"]["scored"] == 5
        for group in read:
            for completion, said in zip(group.completions, group.feedback, strict=True):
                assert said[0].by == critic.name == f"reward:{policy.name}"
                assert said[0].score == pytest.approx(by_hand(policy, group, completion.text, "reward"), abs=1e-4)


def test_one_of_several_heads(policy, tmp_path):
    with using(tmp_path):
        make(policy)
        group = policies.groups()[0]
        (first,), (tone,) = (Reward(policy, head)([group]) for head in ("", "tone"))
        assert [f[0].by for f in tone.feedback] == [f"reward:{policy.name}:tone"] * 3
        assert tone.feedback[1][0].score == pytest.approx(by_hand(policy, group, "Go away.", "tone"), abs=1e-4)
        assert first.feedback[1][0].score != tone.feedback[1][0].score
        # An answer that was cut is rated as it stands: closed with exactly one end-of-turn.
        cut = Reward(policy)(policies.groups(stopped="length"))[0]
        assert [f[0].score for f in cut.feedback] == pytest.approx([f[0].score for f in first.feedback], abs=1e-5)


def test_a_critic_is_a_value(policy):
    critic = Reward(policy, "tone")
    assert isinstance(critic, Critic) and critic.calls(2, 5) == 5
    assert fingerprint(critic) == fingerprint(Reward(policy, "tone")) != fingerprint(Reward(policy))
    assert fingerprint(Reward(policy, chat="plain")) != fingerprint(Reward(policy))
    with pytest.raises(dataclasses.FrozenInstanceError):
        critic.head = "reward"


def test_what_does_not_fit_into_the_model_abstains_and_says_why(policy, tmp_path):
    """256 positions: the long answer has no score, its neighbour has."""
    with using(tmp_path):
        make(policy)
        (judged,) = Reward(policy)(policies.groups((("Ada.", "Ada bakes the bread. " * 60),)))
    (short,), (long,) = judged.feedback
    assert short.score is not None and long.abstained and "longest is 256" in long.raw


def test_refuses_a_policy_without_that_head(policy, tmp_path):
    with using(tmp_path):
        bare = models.pretrained(policies.folder(tmp_path / "models", heads=()))
        make(policy), make(bare)
        with pytest.raises(UserError, match="it has no heads"):
            Reward(bare)(policies.groups())
        with pytest.raises(UserError, match=r'no head "tome".*Did you mean "tone"'):
            Reward(policy, "tome")(policies.groups())


def pieces(loaded, group, text):
    """Tokens of the prompt, and of an answer with its end."""
    return loaded.renderer.prompt_ids(group.prompt.messages), loaded.renderer.answer_ids(text, True)


def test_a_long_conversation_is_read_from_its_end(policy, tmp_path):
    """An answer that is longer than the model is read on 40 tokens: what opens it, and its end; a short conversation as
    ever."""
    with using(tmp_path):
        make(policy)
        loaded = models.load(policy)
        texts = ("Ada.", "Ada bakes the bread. " * 60)
        (group,) = policies.groups((texts,))
        (judged,) = Reward(policy, tokens=40)([group])
        (plain,) = Reward(policy)([group])
        assert judged.feedback[0][0].score == pytest.approx(plain.feedback[0][0].score, abs=1e-5)
        ids = loaded.renderer.last(*pieces(loaded, group, texts[1]), 40)
        assert len(ids[0]) + len(ids[1]) == 40
        with torch.no_grad():
            state = padded_forward(loaded.model, [Sequence.of(*ids)], frozenset({"last_hidden"}))
            wanted = float(state.last_hidden_ND[0] @ loaded.heads.out.weight[0])
        assert judged.feedback[1][0].score == pytest.approx(wanted, abs=1e-4)
    assert fingerprint(Reward(policy, tokens=0)) == fingerprint(Reward(policy)) != fingerprint(Reward(policy, tokens=9))
    with pytest.raises(UserError, match="a number of tokens"):
        Reward(policy, tokens=-1)
