"""A trace from publish to score, received as a collector receives it: over HTTP, in OpenTelemetry's own protocol."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from features.errors import InputError
from features.events import KINDS, encode
from streams import tracing
from streams.settings import as_environment, with_changes
from streams.tracing import TRACEPARENT, Published
from tests.integration.harness import Live, read_records, wait_until
from tests.integration.test_live import browsing

Span = dict[str, Any]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Span]]:
    """Spans that came in, from all processes; the environment says where to send them."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in request.resource_spans:
                service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    spans.append({"service": service, "name": span.name, "trace": span.trace_id, "id": span.span_id, "parent": span.parent_span_id,
                                  "began": span.start_time_unix_nano, "ended": span.end_time_unix_nano})  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield spans
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_trace_goes_from_publish_to_score(collector: list[Span], quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """`headstart publish` begins it, the worker goes on with it until the state is committed, the sending of the score lies within, and the score carries it on."""
    with Live(quick_trunk, broker, redis_url, tmp_path, trace_share=1.0) as job:
        job.prepare()
        (worker,) = job.start_ready(1)
        log = tmp_path / "events.jsonl"
        chosen = [(kind, event) for kind, event in browsing(("books",), users=5)]
        log.write_bytes(b"\n".join(encode(event)[:-1] + f',"kind":"{kind}"}}'.encode() for kind, event in chosen) + b"\n{}\n")
        publishing = with_changes(job.settings, redis="")
        done = subprocess.run(
            [sys.executable, "-m", "streams.cli", "publish", str(log)], env={**os.environ, **as_environment(publishing)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "published 5 events" in done.stdout, done.stderr
        job.wait_for_scores(5)
        wait_until(lambda: len(collector) >= 15, "all spans came", log=job.log)
        assert job.stop(worker) == 0

        by_id = {span["id"]: span for span in collector}
        sent = [span for span in collector if span["name"] == "send score"]
        assert len(sent) == 5 and len(collector) == 15
        for span in sent:
            work = by_id[span["parent"]]
            publish = by_id[work["parent"]]
            assert (publish["name"], work["name"], publish["parent"]) == ("publish browse", "work browse", b"")
            assert (publish["service"], work["service"]) == ("headstart-publisher", "headstart-worker")
            assert span["trace"] == work["trace"] == publish["trace"]
            assert publish["began"] <= work["began"] <= span["began"] <= span["ended"] <= work["ended"]
        told = {dict(record.headers)[TRACEPARENT][:-3] for record in read_records(job.settings, "scores")}
        assert told == {f"00-{span['trace'].hex()}-{span['id'].hex()}".encode() for span in sent}


def test_a_share_is_traced() -> None:
    """The share of the events that the setting says, by draw."""
    draws = iter([0.05, 0.5, 0.099, 0.1, 0.9])

    class Fake:
        def start_span(self, *_: Any, **__: Any) -> Any:
            return type("S", (), {"get_span_context": lambda _: type("C", (), {"trace_id": 1, "span_id": 2, "trace_flags": 1}), "end": lambda _: None})()

    published = Published(Fake(), 0.1, draw=lambda: next(draws))  # type: ignore[arg-type]
    traced = [published.begin(KINDS[0], b"u") for _ in range(5)]
    assert [trace is not None for trace in traced] == [True, False, True, False, False]
    assert traced[0] is not None and traced[0][0] == ((TRACEPARENT, b"00-00000000000000000000000000000001-0000000000000002-01"),)


def test_without_the_extra_the_setting_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, no traceback."""
    importing = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return importing(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"headstart\[otel\]"), tracing.tracer("x"):
        pass
