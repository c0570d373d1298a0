"""What `online` refuses where the recipe is written, and what the plan says it will take."""

from __future__ import annotations

import pytest

from tests import folders
from tests.train.online.told import Vowels, questions
from trueline import models
from trueline.errors import UserError
from trueline.heads import Head, Layer
from trueline.machine import Machine
from trueline.models import LoRA
from trueline.pipeline import make
from trueline.sample.protocol import Sampling
from trueline.train.online.grpo import GRPO
from trueline.train.online.ppo import PPO
from trueline.train.online.rloo import RLOO
from trueline.train.online.stage import online
from trueline.train.stage import train
from trueline.train.views import Documents


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return models.pretrained(folders.folder(tmp_path_factory.mktemp("model") / "tiny"))


def test_the_plan_says_what_it_will_take(start):
    """3 iterations of 5 prompts with 4 answers, steps of 8, 2 passes: 60 answers and calls, 3 * 2 * 3 = 18 steps."""
    policy = online(
        start, questions(9), Vowels(), PPO(epochs=2), sampling=Sampling(n=4), iterations=3, rollout=5, batch_size=8
    )
    assert policy.count == {"iterations": 3, "samples": 60, "critic_calls": 60, "steps": 18}
    assert policy.label == "ppo"


def test_the_reference_is_the_start_unless_another_is_named(start):
    asked = (start, questions(9), Vowels(), PPO(RLOO()))
    assert online(*asked).fingerprint == online(*asked, reference=start).fingerprint
    assert online(*asked).fingerprint != online(*asked, iterations=7).fingerprint


@pytest.mark.parametrize(
    ("algorithm", "changes", "match"),
    [
        (PPO(), {"iterations": 0}, "iterations=0"),
        (PPO(), {"rollout": 1.5}, "rollout=1.5"),
        (PPO(), {"sampling": Sampling(temperature=0)}, "temperature 0 tries nothing"),
        (PPO(RLOO()), {"sampling": Sampling(n=1)}, "at least 2, as RLOO compares them"),
        (PPO(GRPO()), {"head": Head()}, "GRPO reads no values"),
        (PPO(), {"head": Head(("a", "b"))}, "a head of one output"),
        (PPO(), {"head": Head(aggregate=Layer(0))}, "a head of one output"),
        (PPO(), {"lora": LoRA(dropout=0.1)}, "a dropout of 0.1 makes every ratio"),
        (PPO(), {"lora": LoRA(), "freeze": ("blocks",)}, "adapters or a frozen model"),
        (PPO(), {"batch_size": 0}, "batch_size"),
    ],
)
def test_refuses_what_has_no_meaning_where_the_recipe_is_written(start, algorithm, changes, match):
    with pytest.raises(UserError, match=match):
        online(start, questions(4), Vowels(), algorithm, **changes)


def test_refuses_what_is_no_critic(start, tmp_path):
    with pytest.raises(UserError, match="critic"):
        make(online(start, questions(4), PPO(), PPO(RLOO())), store=tmp_path)


def test_prompts_without_room_for_an_answer_stop_the_run_or_are_dropped(start, tmp_path):
    """256 positions: answers of up to 250 tokens leave no room."""
    asked = {"sampling": Sampling(n=2, max_tokens=250), "iterations": 1}
    machine = Machine(device="cpu", threads=1)
    with pytest.raises(UserError, match="at most the 256"):
        make(online(start, questions(2), Vowels(), PPO(RLOO()), **asked), store=tmp_path, machine=machine)
    with pytest.raises(UserError, match="2 of 2 rows"):
        make(online(start, questions(2), Vowels(), PPO(RLOO()), long="drop", **asked), store=tmp_path, machine=machine)


def test_train_sends_an_online_algorithm_to_its_stage(start):
    with pytest.raises(UserError, match=r"Use online\(start, prompts, critic"):
        train(start, Documents(questions(2)), PPO())
