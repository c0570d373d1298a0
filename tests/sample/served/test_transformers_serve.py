"""Against a server that is not ours: `transformers serve` on the town's small model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import trueline.world
from trueline.errors import UserError
from trueline.feedback.protocol import metering
from trueline.models import pretrained
from trueline.pipeline import make
from trueline.records import Prompt
from trueline.sample.hf import HF
from trueline.sample.named import engine
from trueline.sample.protocol import Sampling
from trueline.sample.served import Connection, OpenAI
from trueline.store import using

pytestmark = pytest.mark.slow

MODEL = Path(trueline.world.__file__).parent / "models" / "small"
ASKED = [Prompt.of("Who bakes bread?"), Prompt.of("Where does the miller live?")]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [str(program), "serve", str(MODEL), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path_factory.mktemp("serve") / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def store(tmp_path):
    with using(tmp_path / "store") as made:
        yield made


def test_it_says_what_the_model_says_here(url):
    """Greedily, text for text what our own decoding writes; ended, cut and stopped where that is."""
    settings = [{"max_tokens": 24}, {"max_tokens": 3}, {"max_tokens": 24, "stop": (".",)}]
    settings = [Sampling(temperature=0, **more) for more in settings]
    with metering() as metered, engine(f"{url}#{MODEL}", Connection(timeout_s=120)) as there:
        served = [there.generate(ASKED, sampling) for sampling in settings]
    with HF(make(pretrained(MODEL))) as here:
        local = [here.generate(ASKED, sampling) for sampling in settings]
    assert [[(c.text, c.stopped) for (c,) in of] for of in served] == [
        [(c.text, c.stopped) for (c,) in of] for of in local
    ]
    assert metered["calls"] == 6 and metered["prompt_tokens"] > 6 and metered["completion_tokens"] > 6


def test_drawing_where_it_is_told_to(url):
    """It decodes greedily whatever the temperature, unless its own settings say otherwise: that shows in `repeated`."""
    connection = Connection(url, concurrency=2, timeout_s=120)
    sampling = Sampling(n=3, max_tokens=24, seed=1)
    with metering() as metered, OpenAI(str(MODEL), connection) as plain:
        plain.generate(ASKED, sampling)
    assert metered["repeated"] == 4
    told = json.loads((MODEL / "generation_config.json").read_text()) | {"do_sample": True}
    with OpenAI(str(MODEL), connection, extra={"generation_config": json.dumps(told)}) as drawing:
        answers = drawing.generate(ASKED, sampling)
    assert all(len({c.text for c in said}) > 1 for said in answers)


def test_the_completion_protocol_and_what_it_refuses(url):
    connection = Connection(url, timeout_s=120)
    with OpenAI(str(MODEL), connection, protocol="completion") as continuing:
        ((said,),) = continuing.generate([Prompt.of("The baker of the town is")], Sampling(temperature=0, max_tokens=8))
        assert said.text.startswith(" ") and said.stopped == "length"
        with pytest.raises(UserError, match="does not echo log-probs"):
            continuing.logprobs([Prompt.of("The baker")], [[said]])
    with OpenAI(str(MODEL), connection) as chatting:
        with pytest.raises(UserError, match="status 422: Unexpected fields in the request"):
            chatting.generate(ASKED, Sampling(top_k=3))
        with pytest.raises(UserError, match="no log-probs of first tokens"):
            chatting.first_logprobs(ASKED, ("a",))
    with OpenAI("no/such", connection) as nobody, pytest.raises(UserError, match="status 400: Server is pinned"):
        nobody.generate(ASKED, Sampling())
