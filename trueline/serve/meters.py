"""What is counted, for Prometheus: requests, seconds, tokens, candidates, and how full the server is."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Meters:
    """The numbers of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        at = self.registry
        self.requests = Counter("trueline_requests", "Requests answered.", ("route", "status"), registry=at)
        self.seconds = Histogram(
            "trueline_request_seconds",
            "From a request to its end.",
            ("route",),
            buckets=SECONDS,
            registry=at,
        )
        self.first = Histogram(
            "trueline_first_piece_seconds",
            "From a request to its first piece.",
            buckets=SECONDS,
            registry=at,
        )
        self.tokens = Counter("trueline_tokens", "Tokens read and written.", ("kind",), registry=at)
        self.candidates = Counter("trueline_candidates", "Candidates written.", registry=at)
        self.gone = Counter("trueline_disconnects", "Clients that left before their answer was whole.", registry=at)
        self.in_flight = Gauge("trueline_requests_in_flight", "Requests that wait or are being answered.", registry=at)
        self.rows = Gauge("trueline_rows", "Answers that are being written.", registry=at)

    def watch(self, in_flight: Callable[[], float], rows: Callable[[], float]) -> None:
        """Where the gauges are read off."""
        self.in_flight.set_function(in_flight)
        self.rows.set_function(rows)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
