"""Prometheus metrics through Ray's exporter: every node's metrics port shows them, with the prefix `ray_`.

Labels have few, fixed values: route templates and model names, never texts that a client can choose.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge, Histogram

from onceedit_ray.serving.generation_request import GenerationEnd
from onceedit_ray.serving.observing import Account

if TYPE_CHECKING:  # a gateway has no model
    from onceedit_ray.models.local_model import LocalModel

TELL_SECONDS = 1.0
"""How often gauges are set again; Ray reports every 10 s."""
WEIGHTS = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]
TOKEN_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]


class KeptGauge:
    """A gauge that keeps the value that was set last. Ray drops one that is not set again within two of its reports."""

    def __init__(self, name: str, description: str, tags: tuple[str, ...] = ()) -> None:
        self._gauge = Gauge(name, description, tags)
        self._value: float | None = None
        self._tags: dict[str, str] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._tell, name=name, daemon=True).start()

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Set the value; one with other tags that was set before is told no more."""
        with self._lock:
            self._value, self._tags = value, tags or {}
            self._gauge.set(value, self._tags)

    def _tell(self) -> None:
        while True:
            time.sleep(TELL_SECONDS)
            with self._lock:
                if self._value is not None:
                    self._gauge.set(self._value, self._tags)


class Metrics:
    """An `Observer` that updates the metrics."""

    def __init__(self) -> None:
        self._flying = 0
        self._in_flight = KeptGauge("onceedit_requests_in_flight", "Requests under way in this replica")
        self._requests = Counter("onceedit_requests_total", "Requests ended", ("route", "status", "model"))
        self._tokens = Counter("onceedit_tokens_total", "Tokens of prompts and answers", ("model", "direction"))
        self._gate = Counter(
            "onceedit_gate_decisions_total",
            "Answers: fused; alone because the gate was below its threshold; screened: no edited subject in it, "
            "so no plug-in; unedited: the target alone was asked for",
            ("model", "decision"),
        )
        self._weight = Histogram(
            "onceedit_gate_weight", "Gate weights of answers that reached the gate", WEIGHTS, ("model",)
        )
        self._drafts = Counter(
            "onceedit_draft_tokens_total",
            "Tokens drafted by the plug-in, and those the targets kept",
            ("model", "outcome"),
        )
        self._first = Histogram(
            "onceedit_time_to_first_token_seconds",
            "From a request's arrival to its first text, streams",
            SECONDS,
            ("model",),
        )
        self._each = Histogram(
            "onceedit_time_per_token_seconds", "Between tokens of one streamed answer, mean", TOKEN_SECONDS, ("model",)
        )

    def began(self, account: Account) -> None:
        self._fly(1)

    def ended(self, account: Account) -> None:
        self._fly(-1)
        tags = {"route": account.route, "status": str(account.status), "model": account.model}
        self._requests.inc(1, tags)
        for ending in account.endings:
            self._count(ending)
        if account.first is not None:
            self._first.observe(account.first, {"model": account.model})
            tokens = sum(ending.completion_tokens for ending in account.endings)
            if len(account.endings) == 1 and tokens > 1:
                self._each.observe((account.last - account.first) / (tokens - 1), {"model": account.model})

    def _fly(self, by: int) -> None:
        self._flying += by
        self._in_flight.set(self._flying)

    def _count(self, ending: GenerationEnd) -> None:
        model = {"model": ending.target}
        self._gate.inc(1, model | {"decision": decision(ending)})
        if ending.weight:
            self._weight.observe(ending.weight, model)
        for amount, counter, tag in (
            (ending.prompt_tokens, self._tokens, {"direction": "in"}),
            (ending.completion_tokens, self._tokens, {"direction": "out"}),
            (ending.drafted, self._drafts, {"outcome": "drafted"}),
            (ending.accepted, self._drafts, {"outcome": "accepted"}),
        ):
            if amount:
                counter.inc(amount, model | tag)


class CacheMetrics:
    """Shows the KV cache of one model and its sessions."""

    def __init__(self, model: str) -> None:
        self._model = {"model": model}
        self._preempted = 0
        self._bytes = Gauge("onceedit_kv_cache_bytes", "Keys and values of all sessions", ("model",))
        self._limit = Gauge("onceedit_kv_cache_limit_bytes", "The most that they may take", ("model",))
        self._sessions = Gauge(
            "onceedit_sessions", "Sessions: with room in the KV cache, or waiting for it", ("model", "state")
        )
        self._lost = Counter("onceedit_sessions_preempted_total", "Sessions that lost their room to others", ("model",))

    def show(self, model: LocalModel) -> None:
        """Update the metrics."""
        waiting = model.waiting_sessions
        self._bytes.set(model.cache_bytes, self._model)
        self._limit.set(model.cache_limit or 0, self._model)
        self._sessions.set(model.open_sessions - waiting, self._model | {"state": "held"})
        self._sessions.set(waiting, self._model | {"state": "waiting"})
        if model.preempted_sessions > self._preempted:
            self._lost.inc(model.preempted_sessions - self._preempted, self._model)
            self._preempted = model.preempted_sessions


class VersionGauge:
    """Shows which plug-in version is active: 1 for that version, 0 for earlier ones."""

    def __init__(self) -> None:
        self._gauge = KeptGauge("onceedit_version_info", "The active plug-in version", ("version",))
        self._shown = ""

    def show(self, version: str) -> None:
        """Show `version` as the active one."""
        if self._shown and self._shown != version:
            self._gauge.set(0, {"version": self._shown})
        self._gauge.set(1, {"version": version})
        self._shown = version


def decision(ending: GenerationEnd) -> str:
    """The decision of the gate for an answer."""
    if ending.weight is None:
        return "unedited"
    if not ending.alone:
        return "fused"
    return "alone" if ending.weight else "screened"
