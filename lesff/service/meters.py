"""What a service counts, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Meters:
    """Counters of one service; nothing is shared with others of the process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lesff_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "lesff_request_seconds",
            "Time from a request to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "lesff_batch_seconds", "Time of a batch.", buckets=_SECONDS, registry=registry
        )
        self.batch_structures = Histogram(
            "lesff_batch_structures",
            "Structures computed together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.batches = Counter("lesff_batches", "Batches computed.", registry=registry)
        self.atoms = Counter("lesff_atoms", "Atoms computed.", registry=registry)
        self.waiting = Gauge("lesff_waiting", "Structures in line.", registry=registry)
        self.tasks = Gauge(
            "lesff_tasks", "Relaxations and SMILES under way.", ["kind"], registry=registry
        )

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
