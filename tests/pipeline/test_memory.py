"""What a stage needs of a device: counted from a model's files, held against the machine and against the truth."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks import memory as benchmark
from trueline import world
from trueline.cli import main
from trueline.errors import UserError
from trueline.feedback.judge import judge
from trueline.feedback.reward import Reward
from trueline.machine import Machine, Ray, read
from trueline.models import LoRA, pretrained
from trueline.pipeline import memory, plan
from trueline.pipeline.memory import Demand, Measures, demand, parsed, shape_at, shortage
from trueline.sample.draw import draw
from trueline.sample.protocol import Sampling
from trueline.store import using
from trueline.train.objectives.sft import SFT
from trueline.train.stage import train
from trueline.train.views import Demonstrations
from trueline.world import MODELS

CPU = Machine(device="cpu")


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store"):
        yield


def taught(**settings):
    start = pretrained(MODELS / "small")
    drawn = draw(start, world.prompts(64, seed=0), Sampling(n=2))
    return train(start, Demonstrations(drawn), SFT(), **settings)


def test_a_plan_says_what_each_stage_needs(tmp_path):
    """The small model has 2,028,480 numbers in tied tables: four bytes each, and eight more for AdamW's two slots."""
    found = {row.artifact.stage: row.memory for row in plan(taught()).rows}
    assert found["pretrained"] is None and found["world.prompts"] is None
    learning, drawing = found["train"], found["draw"]
    n = shape_at(MODELS / "small").parameters
    assert (learning.parameters, learning.gradients, learning.optimiser) == (4 * n, 4 * n, 8 * n)
    assert learning.cache == 0 < learning.activations
    # 64 rows of 256 + 128 + 1 tokens, rounded up to 448, and 32 prompts of 256 read ahead, held twice for a moment.
    assert drawing.cache == (64 * 448 + 2 * 8192) * 2 * 4 * 192 * 4
    assert (drawing.parameters, drawing.gradients) == (4 * n, 0)
    shown = " ".join(str(plan(taught())).split())
    assert "KV cache" in shown and "optimiser" in shown
    assert plan(taught()).json()["artifacts"][-1]["memory"]["total"] == learning.total


def test_a_shape_is_read_without_its_weights(tmp_path):
    """The headers of the town's small model, and a config alone, counted as transformers counts them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(MODELS / "small")
    count = AutoModelForCausalLM.from_config(config).num_parameters()
    assert shape_at(MODELS / "small").parameters == count == Measures.of(config.to_dict()).parameters
    assert shape_at(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    assert shape_at(tmp_path) is None


def test_what_does_not_train_takes_no_gradients():
    lora, full = demand(taught(lora=LoRA(r=4)), CPU), demand(taught(), CPU)
    # Per layer: q, k, v, o of 192 x 192, gate, up, down between 192 and 512; r (rows + columns) numbers each.
    adapters = 4 * 4 * (4 * (192 + 192) + 3 * (192 + 512))
    assert lora.gradients == 4 * adapters and lora.optimiser == 8 * adapters
    assert lora.parameters == full.parameters + 4 * adapters
    assert demand(taught(), dataclasses.replace(CPU, gradient_checkpointing=True)).activations < full.activations


def test_a_critic_s_model_counts_and_a_critic_without_one_does_not():
    start = pretrained(MODELS / "tiny")
    drawn = draw(world.Teacher(), world.prompts(4, seed=0), Sampling())
    assert demand(drawn, CPU) is None
    assert demand(judge(drawn, Reward(start)), CPU).parameters == 4 * shape_at(MODELS / "tiny").parameters


def test_what_does_not_fit_is_said_before_the_run():
    """An estimate may be a quarter too high: between that and what there is, it is said; above, refused."""
    needs = Demand(parameters=2 << 30, activations=6 << 30, tokens=8192)
    whole = needs.total + memory.PROCESS
    assert shortage(needs, dataclasses.replace(CPU, memory=str(whole))) == ""
    close = dataclasses.replace(CPU, memory=str(int(whole / 1.2)))
    assert shortage(needs, close).startswith("may not fit into")
    memory.check("sft", needs, close)
    far = dataclasses.replace(CPU, memory="4GB")
    with pytest.raises(UserError, match=r"does not fit into 4 GB.*(?s:.*)[Ll]ower --machine.micro-tokens \(now 8192\)"):
        memory.check("sft", needs, far)
    memory.check("sft", needs, dataclasses.replace(CPU, memory="any"))
    assert "for 2 processes" in shortage(needs, dataclasses.replace(far, processes=2))
    with pytest.raises(UserError, match='bytes such as "80GB"'):
        parsed("a lot")


def test_on_a_small_machine_nothing_begins(tmp_path, capsys):
    words = ["rank", "--policy", str(MODELS / "tiny"), "--prompts", str(tmp_path / "p.jsonl"), "--by", "logprob"]
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "Who bakes?"}) + "\n")
    (tmp_path / "small.toml").write_text('device = "cpu"\nmemory = "100MB"\n[ray]\nworkers = 0\n')
    on = ["--on", str(tmp_path / "small.toml")]
    assert main(["plan", *words, *on]) == 0
    assert "does not fit into 100 MB" in " ".join(capsys.readouterr().out.split())
    assert main(["make", *words, *on]) == 2
    assert "--machine.memory any" in capsys.readouterr().err
    assert main(["make", *words, *on, "--machine.memory", "any"]) == 0


def test_a_machine_s_file(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text('processes = 4\n[ray]\naddress = "auto"\nworkers = 2\ngpus = 1\n')
    assert read(path)[("machine", "ray", "gpus")] == 1.0
    machine = Machine(processes=4, ray=Ray("auto", 2, gpus=1.0))
    assert Machine.of(dataclasses.asdict(machine)) == machine
    for text, said in (("proceses = 4", "Did you mean"), ('processes = "4"', "a value like 1"), ("=", "TOML")):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read(path)
    with pytest.raises(UserError, match="--on"):
        read(tmp_path / "none.toml")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["SFT 2M, town's small model", "SFT 34M"])
def test_estimates_are_within_a_quarter_of_what_is_measured(case):
    """The highest resident size of a process at work, above what it held before."""
    said, real = benchmark.foretold(benchmark.CASES[case]).total, benchmark.measured(case)
    assert 0.75 < said / real < 1.25, (said, real)
