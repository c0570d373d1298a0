"""Policies to serve, and one server for all tests that leave it as it was."""

from __future__ import annotations

import pytest

from tests.sample import given
from tests.serve.running import running
from trueline.heads import Head, Layer


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A policy with two heads, a bare one with a long context, one whose head reads a layer, a reward model."""
    root = tmp_path_factory.mktemp("served")
    given.with_heads(root / "ranker")
    given.with_heads(root / "judge", Head(("quality",)), seed=1)
    given.with_heads(root / "layered", Head(("deep",), aggregate=Layer(1)), seed=2)
    given.llama(root / "bare", max_position_embeddings=8192)
    return root


@pytest.fixture(scope="session")
def server(folders):
    """Patience of two seconds, so that tests of it take no longer; what asks for the best is told."""
    also = [f"{name}={folders / name}" for name in ("bare", "layered")]
    words = ("--also", *also, "--reward-model", str(folders / "judge"), "--best", "Good. ")
    with running(folders / "ranker", *words, "--limits.patience", "2", "--limits.max-tokens", "8000") as found:
        yield found
