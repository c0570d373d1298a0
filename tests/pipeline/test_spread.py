"""Shards made by a local Ray of two processes: the same bytes as without, whatever happens to a worker."""

from __future__ import annotations

import dataclasses
import os
import sys

import pytest

from tests.pipeline.dying import Dying, brevity
from trueline import world
from trueline.errors import UserError
from trueline.feedback.judge import judge
from trueline.feedback.rule import Rule
from trueline.machine import Machine, Ray
from trueline.models import pretrained
from trueline.pipeline import make
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.store import using
from trueline.world import MODELS

ALONE = Machine(device="cpu", shard=3)
SPREAD = dataclasses.replace(ALONE, ray=Ray(workers=2))


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'trueline[ray]'")
    path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )  # fmt: skip
    yield ray
    ray.shutdown()


def files(artifact, store):
    with using(store):
        record = artifact.record
        named = {p.name: p.read_bytes() for p in artifact.path.iterdir() if p.name not in ("record.json",)}
        return named, record["counts"], record["notes"]


@pytest.mark.slow
def test_a_policy_s_answers_and_a_critic_s_opinions_are_those_of_one_process(cluster, tmp_path):
    drawn = draw(pretrained(MODELS / "tiny"), world.prompts(8, seed=0), Sampling(n=2, max_tokens=12))
    judged = judge(drawn, Rule(brevity))
    for name, machine in (("alone", ALONE), ("spread", SPREAD)):
        make(judged, store=tmp_path / name, machine=machine)
    for artifact in (drawn, judged):
        assert files(artifact, tmp_path / "alone") == files(artifact, tmp_path / "spread")


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_shard_made_again(cluster, tmp_path):
    """One life is taken at the seventh prompt, which the new worker answers; this process opens no engine."""
    (tmp_path / "life-0").touch()
    prompts = world.prompts(12, seed=0)
    with using(tmp_path / "spread"):
        seventh = list(make(prompts).read())[6].text
    drawn = draw(Dying(str(tmp_path), at=seventh), prompts, Sampling(n=2))
    make(drawn, store=tmp_path / "spread", machine=SPREAD)
    opened = {path.name for path in tmp_path.glob("opened-*")}
    assert not (tmp_path / "life-0").exists() and len(opened) >= 2
    assert f"opened-{os.getpid()}" not in opened
    make(drawn, store=tmp_path / "alone", machine=ALONE)
    assert files(drawn, tmp_path / "alone") == files(drawn, tmp_path / "spread")


@pytest.mark.slow
def test_a_shard_that_kills_twice_stops_the_run_and_a_refusal_arrives_as_it_is(cluster, tmp_path):
    prompts = world.prompts(6, seed=0)
    with using(tmp_path / "store"):
        texts = [p.text for p in make(prompts).read()]
        for number in range(2):
            (tmp_path / f"life-{number}").touch()
        drawn = draw(Dying(str(tmp_path), at=texts[4]), prompts, Sampling())
        with pytest.raises(UserError, match="the one that made it again too"):
            make(drawn, machine=SPREAD)
        make(drawn, machine=ALONE)  # goes on at the shards that were made
        with pytest.raises(UserError, match="another one"):
            make(draw(Dying(str(tmp_path), refused=texts[0]), prompts, Sampling()), machine=SPREAD)


def test_what_cannot_travel_is_refused_before_anything_starts(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Local:
        folder: str = ""
        name = "local"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def generate(self, prompts, sampling):
            return []

        def logprobs(self, prompts, completions):
            return []

    with using(tmp_path / "store"), pytest.raises(UserError, match="defined inside a function"):
        make(draw(Local(), world.prompts(2, seed=0), Sampling()), machine=SPREAD)


def test_without_ray_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with using(tmp_path / "store"), pytest.raises(UserError, match="Ray is not installed"):
        make(draw(world.Teacher(), world.prompts(2, seed=0), Sampling()), machine=SPREAD)


def test_negative_workers_are_refused():
    with pytest.raises(ValueError, match="workers is -1"):
        Ray(workers=-1)
