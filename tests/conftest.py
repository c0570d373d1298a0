"""Fixtures shared by all tests. Real public data lies beside the checkout and is optional: without it a test skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# CI draws the same examples each time, so that a landing never fails on luck; at home they are new in every run.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("home", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "home")

# Hubs are never asked in tests: what a test loads is local or made by the test.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data and small real models: $TRUELINE_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("TRUELINE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real public data is not at {folder}; set TRUELINE_DATA to run this test")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules first, the tour before all: a module goes to one process whole, and two should end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_tour.py", item.path not in slow))
