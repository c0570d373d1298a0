"""The page at /, in a real browser: candidates side by side, ordered, with their numbers; mistakes in words."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from urllib.parse import quote

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--dump-dom",
    "--virtual-time-budget=15000",
)  # fmt: skip


@pytest.fixture
def seen(server, tmp_path):
    """The page's document after its scripts have run, by what stands behind the #."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("there is no chromium here: the page is tested in a real browser")

    def look(given: str) -> str:
        command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
        ran = subprocess.run([*command, f"{server.url}/#{given}"], capture_output=True, text=True, timeout=120)
        return ran.stdout

    return look


def test_candidates_stand_side_by_side_the_best_first(seen, server):
    """Two policies: both sides by the head of the one that has one, and each side is what the server would choose."""
    question = "Who bakes the bread?"
    page = seen(f"prompt={quote(question)}&n=4&seed=3&tokens=10")
    sides = re.findall(r'<section class="side">.*?</section>', page, re.DOTALL)
    assert [re.search("<h2>(.*?)</h2>", side)[1] for side in sides] == ["bare", "ranker"]
    for side in sides:
        scores = [float(x) for x in re.findall(r'class="score">(-?[\d.]+)<', side)]
        assert len(scores) == 4 and scores == sorted(scores, reverse=True)
        assert side.count("log-prob per token") == 4 and side.count('class="chosen"') == 1
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 10, "seed": 3, "best_of": 4}
    choice = server.ask("/v1/chat/completions", body)[1]["choices"][0]
    first = re.search(r'<article class="chosen".*?<p[^>]*>(.*?)</p>', sides[1], re.DOTALL)[1]
    assert html.unescape(first).split() == choice["message"]["content"].replace("\0", "").split()
    assert f">{choice['scores']['ranker/reward']:.3f}<" in sides[1]
    assert "8 candidates, ordered by ranker/reward." in page


def test_a_mistake_is_told_on_the_page(seen):
    page = seen("prompt=" + quote("word " * 300))
    assert re.search(r'id="state"[^>]*class="wrong"[^>]*>The prompt has \d+ tokens', page)


def test_nothing_comes_from_elsewhere_and_nothing_is_written_as_markup(server):
    """No address but the server's own; answers and names go into the page as text."""
    page = server.ask("/")[1]
    assert "http://" not in page and "https://" not in page and "innerHTML" not in page
    assert not re.search(r"""(src|href)=["'](?!data:,)""", page)
