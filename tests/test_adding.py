"""The examples of docs/adding.md, run from the page itself: one file each, under 40 lines, nothing else is edited."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "adding.md"


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The page's files, written out and importable."""
    folder = tmp_path_factory.mktemp("adding")
    for name, body in re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(), re.S):
        assert body.count("\n") < 40, f"{name} is too long to be an example"
        (folder / name).write_text(body)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def load(examples, name):
    return importlib.import_module(name)


def test_the_objective_gives_the_worked_number(examples):
    """beta 0.5, log-ratios (1, -1): margin 0.5 * 2 = 1, hinge 0; with the preference turned round 1 + 1 = 2."""
    torch = pytest.importorskip("torch")
    hinge = load(examples, "hinge").Hinge(beta=0.5)
    batch = SimpleNamespace(
        chosen_P=torch.tensor([0]), rejected_P=torch.tensor([1]), p_P=torch.tensor([1.0]),
        reference_logps_N=torch.tensor([-3.0, -3.0]),
    )  # fmt: skip
    outputs = SimpleNamespace(logps_N=torch.tensor([-2.0, -4.0]))
    assert hinge(outputs, batch).sum.item() == 0.0
    batch.p_P = torch.tensor([0.0])
    assert hinge(outputs, batch).sum.item() == 2.0
    assert hinge.weight(batch) == 1.0


def test_the_advantage_rule_measures_against_the_mean(examples):
    """Rewards 1 and 5 of answers of 2 tokens and 1: mean 3, so -2, -2 and 2."""
    import numpy as np

    from tests.train.online.told import rollout
    from trueline.train.online.ppo import PPO

    rule = load(examples, "reinforce").Reinforce()
    found = rule(np.array([0.5, 0.5, 5.0]), rollout([2, 1], [0, 0]))
    assert found.advantages_E.tolist() == [-2, -2, 2]
    assert PPO(rule).name == "reinforce"


def test_the_critics_judge_and_their_biases_cancel(examples, tmp_path):
    from trueline.feedback.compare import Compare
    from trueline.feedback.rule import Rule
    from trueline.records import Completion, Group, Prompt
    from trueline.store import Store, using

    brevity = load(examples, "brevity")
    group = Group(Prompt.of("Who?"), (Completion("Ada"), Completion("It was Ada")))
    with using(Store(tmp_path / "store")):
        (scored,) = Rule(brevity.brevity)([group])
        (compared,) = Compare(by=brevity.Shorter())([group])
    assert scored.scores() == [0.5, 0.25]
    # 1 + 3 = 4 against 1 + 10 = 11 characters: the shorter one wins with 11 / 15 in either order.
    assert compared.preferences[0].p == pytest.approx(11 / 15)


def test_the_view_orders_by_length(examples):
    from trueline.records import Completion, Group, Prompt

    groups = SimpleNamespace(
        read=lambda: iter([Group(Prompt.of("Who?"), (Completion("It was Ada"), Completion("Ada")))])
    )
    (example,) = load(examples, "extremes").ShortestOverLongest(groups).examples()
    assert [answer.text for answer in example.answers] == ["Ada", "It was Ada"]


def test_the_condition_describes_and_asks(examples):
    """Three words are brief, nine are not; what is learned and what is asked for are rendered alike."""
    from trueline.conditions.protocol import Condition, asking
    from trueline.records import Completion, Group, Prompt
    from trueline.train.conditioned import Conditioned

    lengths = load(examples, "lengthy").Lengths()
    assert isinstance(lengths, Condition)
    group = Group(Prompt.of("Who?"), (Completion("Ada bakes it."), Completion("Ada " * 9)))
    found = list(Conditioned((SimpleNamespace(read=lambda: iter([group])),), lengths).examples())
    assert [e.condition for e in found] == ["Brief: ", "Middling: "]
    assert [asking(lengths, k).ask(group.prompt) for k in range(3)] == ["Brief: ", "Middling: ", "Long: "]


def test_the_benchmark_reads_refuses_and_is_scored(examples, tmp_path):
    """Longest: "a map" (5 characters) beats "a" and is right; two answers of 4 tie, one half: 3/4 of two riddles."""
    from trueline.errors import UserError
    from trueline.evaluate.metrics import outcomes, summarize
    from trueline.evaluate.readers.longest import Longest
    from trueline.fingerprint import fingerprint

    riddles = load(examples, "riddles").Riddles
    file = tmp_path / "riddles.jsonl"
    rows = [
        '{"riddle": "Seas without water?", "answers": ["a", "a map"], "right": 1}\n',
        '{"riddle": "Keys without locks?", "answers": ["lute", "flat"], "right": 0, "hard": true}\n',
    ]
    file.write_text("".join(rows))
    items = list(riddles(tmp_path).items())
    found = summarize(outcomes(items, Longest().read(None, items)), riddles(file).metrics)
    assert found.metric("accuracy").interval.mean == 0.75
    assert {group: metric.interval.mean for group, metric in found.groups.items()} == {"easy": 1.0, "hard": 0.5}
    assert fingerprint(riddles(tmp_path)) == fingerprint(riddles(file))
    file.write_text(rows[0] + rows[1].replace('"right": 0', '"right": 2'))
    with pytest.raises(UserError, match=r"riddles.jsonl line 2: the label is 2; 0 to 1"):
        list(riddles(file).items())


def test_the_reader_finds_the_least_likely_token(examples, tmp_path):
    """Of each option's token log-probs, by a plain forward, the least one; the order of the options is kept."""
    from tests.evaluate.items import passage, plainly
    from tests.folders import folder
    from trueline import models

    opened = models.load(folder(tmp_path / "m"))
    read = list(load(examples, "weakest").Weakest().read(opened, passage(2)))
    for item, scores in zip(passage(2), read, strict=True):
        assert list(scores.values) == pytest.approx([float(x.min()) for x in plainly(opened, item)], rel=1e-4)


def test_the_recipe_with_the_engine_runs_from_the_command_line(examples, tmp_path):
    command = [
        sys.executable,
        "-m",
        "trueline.cli",
        "make",
        "study.py:study",
        "--prompts",
        "3",
        "--store",
        str(tmp_path / "store"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=examples)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "store" / "groups").glob("judge-*/groups.jsonl")
    assert made.read_text().count('"p":0.5') == 3  # a parrot repeats itself: identical answers tie
