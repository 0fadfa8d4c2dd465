"""OpenTelemetry traces from publish to score, for a share of the events: where did this one spend its time?

    publish browse ─▶ work browse (until its state is committed) ─▶ send score

The context travels in the record's header `traceparent` (W3C), and on in the score's. It needs the extra `otel`; where the spans go is said by
OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, …). Without the setting `trace_share` nothing here is imported.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from features.errors import InputError

if TYPE_CHECKING:  # a publisher needs none of them
    from faust.types import TP
    from opentelemetry.trace import Span, Tracer

    from streams.inflow import Record
    from streams.pipeline import Outlet
    from streams.records import Outgoing

TRACEPARENT: Final = "traceparent"


class _Named(msgspec.Struct):
    user_id: str
    event_id: str


class _Scored(msgspec.Struct):
    score_id: str


_named = msgspec.json.Decoder(_Named)
_scored = msgspec.json.Decoder(_Scored)


@contextmanager
def tracer(service: str) -> Iterator[Tracer]:
    """Yield a tracer whose spans are sent in the background, and to their last when the block ends. Raises InputError without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise InputError("setting 'trace_share' needs OpenTelemetry: pip install 'headstart[otel]'") from None
    resource = Resource({SERVICE_NAME: service}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider.get_tracer("headstart")
    finally:
        provider.shutdown()


class Published:
    """Begins a trace for a share of what is published."""

    def __init__(self, made: Tracer, share: float, *, draw: Callable[[], float] = random.random) -> None:
        self._tracer, self._share, self._draw = made, share, draw

    def begin(self, kind: str, key: bytes | None) -> tuple[tuple[tuple[str, bytes], ...], Callable[[], None]] | None:
        """Return the headers that a record is to have, and what to call when the broker has it; None for one that is not traced."""
        if self._draw() >= self._share:
            return None
        from opentelemetry.trace import SpanKind

        about = {"messaging.system": "kafka", "messaging.destination.name": kind, "messaging.kafka.message.key": (key or b"").decode(errors="replace")}
        span = self._tracer.start_span(f"publish {kind}", kind=SpanKind.PRODUCER, attributes=about)
        return ((TRACEPARENT, _written(span)),), span.end


class Followed:
    """Follows traced records through a worker: from the poll to the commit, with the sending of the score between."""

    def __init__(self, made: Tracer) -> None:
        self._tracer = made
        self._open: dict[str, Span] = {}  # by score_id

    def follow(self, kind: str, tp: TP, records: Sequence[Record], ack: Callable[[], Any]) -> Callable[[], Any]:
        """Begin a span for each traced record of a batch; the ack to call in place of the given one ends them."""
        begun = [name for record in records if record.headers and (name := self._begin(kind, tp, record, len(records))) is not None]
        if not begun:
            return ack

        def acked() -> Any:
            for name in begun:
                self._end(name)
            return ack()

        return acked

    def _begin(self, kind: str, tp: TP, record: Record, together: int) -> str | None:
        context = next((value for name, value in record.headers if name == TRACEPARENT), None)
        if context is None:
            return None
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        try:
            event = _named.decode(record.value or b"")
            parent = TraceContextTextMapPropagator().extract({TRACEPARENT: context.decode("ascii")})
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None  # it will be refused
        name = f"{event.user_id}:{event.event_id}"
        self._end(name)  # a partition that started over reads it again
        about: dict[str, str | int] = {
            "messaging.system": "kafka", "messaging.destination.name": tp.topic, "messaging.destination.partition.id": str(tp.partition),
            "messaging.kafka.offset": record.offset, "messaging.batch.message_count": together,
        }  # fmt: skip
        self._open[name] = self._tracer.start_span(f"work {kind}", context=parent, kind=SpanKind.CONSUMER, attributes=about)
        return name

    def _end(self, name: str) -> None:
        span = self._open.pop(name, None)
        if span is not None:
            span.end()

    def outlet(self, outlet: Outlet) -> Outlet:
        """Return an outlet that puts the context on the scores of followed events, and a span for their sending under theirs."""
        return _TracedOutlet(outlet, self._tracer, self._open)


class _TracedOutlet:
    def __init__(self, outlet: Outlet, made: Tracer, followed: dict[str, Span]) -> None:
        self._outlet, self._tracer, self._followed = outlet, made, followed

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Return when the broker has all of them."""
        if not self._followed:
            await self._outlet.deliver(records)
            return
        from opentelemetry.trace import SpanKind, set_span_in_context

        spans, sent = [], []
        for record in records:
            parent = self._followed.get(_scored.decode(record.value or b"").score_id) if record.topic == "scores" else None
            if parent is not None:
                span = self._tracer.start_span("send score", context=set_span_in_context(parent), kind=SpanKind.PRODUCER)
                spans.append(span)
                record = msgspec.structs.replace(record, headers=(*record.headers, (TRACEPARENT, _written(span))))
            sent.append(record)
        try:
            await self._outlet.deliver(sent)
        finally:
            for span in spans:
                span.end()


def _written(span: Span) -> bytes:
    """A span's context as the header holds it."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}".encode()
