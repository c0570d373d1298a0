"""Some hundred requests of all kinds, one in fifty malformed, one in fifty left: no wrong answer, and nothing grows."""

from __future__ import annotations

from benchmarks.serve import soak


def test_a_soak_leaves_the_server_as_it_was(server):
    soak(server.port, server.process.pid, 50)  # what is made on first use is made by now
    found = soak(server.port, server.process.pid, 300)
    assert found["counts"] == {"answered": 288, "malformed, 400": 6, "left": 6}
    held = found["memory"]
    assert held[300] - held[0] < 16, held
    assert server.until("trueline_rows", 0) and server.until("trueline_requests_in_flight", 0)
