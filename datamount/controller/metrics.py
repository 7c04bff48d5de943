"""What Prometheus reads, each metric with its unit. Labels are few and bounded: no user, no pod, no course.

One registry a process: a replica counts what it did itself, and Prometheus adds the replicas up. Leases live is a
gauge that every replica sets from what the databases hold, so take its maximum, not its sum.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
_LONG_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600)
_AGE_SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)


class Metrics:
    """The counters of one controller."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.admissions = Counter(
            "datamount_admissions_total", "AdmissionReviews answered, by what was done.", ["outcome"], registry=registry
        )
        self.admission_seconds = Histogram(
            "datamount_admission_seconds", "Time to answer an AdmissionReview.", buckets=_SECONDS, registry=registry
        )
        self.launches = Counter("datamount_launches_total", "Pods that got data mounts.", registry=registry)
        self.leases = Counter(
            "datamount_leases_total", "Leases by source and what was done.", ["kind", "action"], registry=registry
        )
        self.leases_live = Gauge(
            "datamount_leases_live",
            "Accounts of sessions in the databases.",
            ["credential"],
            registry=registry,
        )
        self.refusals = Counter(
            "datamount_refusals_total", "Requests refused, by reason.", ["reason"], registry=registry
        )
        self.reaped = Counter(
            "datamount_reaped_total", "Accounts the reaper dropped, by reason.", ["reason"], registry=registry
        )
        self.reaper_failures = Counter(
            "datamount_reaper_failures_total", "Passes of the reaper that could not look everywhere.", registry=registry
        )
        self.reaper_last = Gauge(
            "datamount_reaper_last_success_timestamp_seconds", "When a pass last looked everywhere.", registry=registry
        )
        self.dataset_seconds = Histogram(
            "datamount_dataset_seconds",
            "Time to deliver a dataset, as its session reports it.",
            ["kind"],
            buckets=_LONG_SECONDS,
            registry=registry,
        )
        self.dataset_bytes = Counter(
            "datamount_dataset_bytes_total", "Bytes delivered, as sessions report them.", ["kind"], registry=registry
        )
        self.datasets = Counter(
            "datamount_datasets_total", "Datasets by the state that sessions report.", ["state"], registry=registry
        )
        self.saves = Counter("datamount_saves_total", "Saves committed or refused.", ["outcome"], registry=registry)
        self.save_bytes = Counter("datamount_save_bytes_total", "Bytes of committed saves.", registry=registry)
        self.save_age = Histogram(
            "datamount_save_age_seconds",
            "Time since the workspace's last version when a save is committed.",
            buckets=_AGE_SECONDS,
            registry=registry,
        )
        self.policy_valid = Gauge(
            "datamount_policy_valid",
            "1, or 0 after a broken edit of the policy file.",
            registry=registry,
        )

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class MetricsServer:
    """Serves the metrics over plain HTTP on a port of their own, which a NetworkPolicy can keep sessions from: they
    tell how many work here and how often one was refused, and the sessions' port is open to every notebook."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._metrics, self._host, self._port = metrics, host, port

    def start(self) -> None:
        self._server, self._thread = start_http_server(self._port, self._host, self._metrics.registry)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
