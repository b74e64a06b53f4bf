"""`/v1/workers`: join and exchange."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence

import msgspec

from task_server.errors import Invalid, NoCommonProtocol, RequestError, TooLarge
from task_server.protocol.payload import check_keys, check_payload, check_payloads
from task_server.protocol.tasks import Error, ErrorKind
from task_server.protocol.workers import (
    PROTOCOL,
    SANDBOX_LEVELS,
    Exchange,
    Join,
    Joined,
    Order,
    Report,
)
from task_server.server.http import Call, Reply, check_json, check_object, decode, encode
from task_server.server.routing import USER, WORKER, Route
from task_server.server.service import assignments
from task_server.server.service.views import moment
from task_server.server.state import State
from task_server.store.attempts import DONE, AttemptReport, Decided, LeaseKey, Used
from task_server.store.sessions import (
    UNSTARTED,
    ExchangeRequest,
    ExchangeResult,
    JoinRequest,
    WorkerFacts,
)
from task_server.store.states import Encoding

_joins = msgspec.json.Decoder(Join)
_exchanges = msgspec.json.Decoder(Exchange)
MAXIMUM_SLOTS = 4096
TOGETHER_SECONDS = 0.25
"""Long parked exchanges end at multiples of that: one that comes alone, as every 18 ms from 1,000
workers, finds empty caches and costs three times as much as one among others."""
LONG_SECONDS = 5.0
"""What parks shorter ends when it said."""
NO_LEASE = LeaseKey(0, 0, bytes(16))


async def join(state: State, call: Call) -> Reply:
    """A worker presents itself."""
    check_json(call)
    body = await call.body(state.settings.plain_body_bytes)
    check_object(body)
    asked = decode(body, _joins)
    check_keys(body)
    low, high = asked.protocol
    if not low <= PROTOCOL <= high:
        raise NoCommonProtocol(
            f"this server speaks versions {PROTOCOL} to {PROTOCOL} of the worker protocol,"
            f" the worker {low} to {high}; upgrade the older of the two"
        )
    if not 1 <= asked.slots <= MAXIMUM_SLOTS:
        raise Invalid(f"slots is a number from 1 to {MAXIMUM_SLOTS}", field="slots")
    facts = WorkerFacts(
        name=asked.name[:200],
        slots=asked.slots,
        pythons=tuple(asked.pythons),
        labels=asked.labels,
        cpu=asked.cpu,
        memory=None if asked.memory is None else _bytes(asked.memory),
        gpu=_bytes(asked.gpu),
        platform=asked.platform[:200],
        sandbox=asked.sandbox,
        version=asked.version[:50],
    )
    session = secrets.token_hex(16)
    worker = await state.store.join(JoinRequest(asked.worker, call.caller.token, facts, session))
    state.refusals.joined(worker)
    lease_seconds = state.store.lease_seconds
    return Reply(encode(Joined(worker, session, PROTOCOL, lease_seconds, lease_seconds / 3)))


async def exchange(state: State, call: Call) -> Reply:
    """Decide reports, renew, and hand out tasks; parks while there is nothing to tell."""
    check_json(call)
    body = await call.body(state.settings.body_bytes)
    check_object(body)
    asked = decode(body, _exchanges)
    worker = call.params["id"]
    reports = _reports(state, asked.reports)
    wait = 0.0 if state.is_stopping else _wait(asked, state.store.lease_seconds / 3)
    request = ExchangeRequest(
        worker,
        asked.session,
        call.caller.token,
        asked.number,
        asked.seen,
        asked.want,
        _wait_until(state.clock(), wait),
        asked.draining,
        reports,
        asked.held,
        asked.environments,
        is_patient=asked.decisions_within > 0.0,
    )
    state.refusals.note(worker, asked)
    parked = state.store.exchange(request)
    result = await call.while_there(parked) if wait else await parked
    if asked.orders:
        await state.orders.note(worker, asked.orders, now=state.clock())
    orders = state.orders.news(worker, is_listing=asked.held is not None)
    return Reply(_reply(state, asked, result, orders))


def _wait(asked: Exchange, longest: float) -> float:
    is_patient = asked.reports and asked.decisions_within > 0.0
    wait = min(asked.wait, asked.decisions_within) if is_patient else asked.wait
    return min(max(wait, 0.0), longest)


def _wait_until(now: float, wait: float) -> float:
    """Until when an exchange may park; long ones that would end one after the other end at once."""
    until = now + wait
    return until - until % TOGETHER_SECONDS if wait > LONG_SECONDS else until


def _reply(
    state: State, asked: Exchange, result: ExchangeResult, orders: Sequence[Order] | None
) -> bytes:
    stop, give_back = _ending(result.stop) if result.stop else (b"[]", b"[]")
    prepare = b'"prepare":[]'
    if orders is not None:
        digests = list(dict.fromkeys(each.environment for each in orders if each.environment))
        prepare = b'"prepare":%s,"orders":%s' % (encode(digests), encode(orders))
    return b'{"number":%d,"decisions":%s,"stop":%s,"give_back":%s,%s,"drain":%s,"tasks":%s}' % (
        asked.number,
        _decisions(asked.reports, result.decisions),
        stop,
        give_back,
        prepare,
        encode(result.drain),
        assignments.as_json(state, result.tasks),
    )


def _ending(told: Sequence[tuple[str, str]]) -> tuple[bytes, bytes]:
    """What is to stop, and what is asked for if it has not started."""
    stop = [{"lease": lease, "why": why} for lease, why in told if why != UNSTARTED]
    return encode(stop), encode([lease for lease, why in told if why == UNSTARTED])


def _decisions(reports: Sequence[Report], decisions: Sequence[Decided]) -> bytes:
    if reports and decisions.count(DONE) == len(decisions):
        # What is the same for all of them is put between their leases, and not encoded for each.
        leases = encode([report.lease for report in reports])
        between = leases[2:-2].replace(b'","', b'","status":200},{"lease":"')
        return b'[{"lease":"%s","status":200}]' % between
    return encode(
        [
            {"lease": report.lease, "status": decided.status, "duplicate": True}
            if decided.duplicate
            else {"lease": report.lease, "status": decided.status}
            for report, decided in zip(reports, decisions, strict=True)
        ]
    )


def _reports(state: State, reports: Sequence[Report]) -> list[AttemptReport]:
    answers = [bytes(report.answer) for report in reports]
    try:
        check_payloads(answers, "answer")
        is_checked = True
    except RequestError:  # one of them is to be refused: which?
        is_checked = False
    return [
        _report(state, report, answer, is_checked=is_checked)
        for report, answer in zip(reports, answers, strict=True)
    ]


def _report(state: State, report: Report, answer: bytes, *, is_checked: bool) -> AttemptReport:
    try:
        encoding, answer = _outcome(report, answer, is_checked=is_checked)
    except RequestError as error:
        report = _refused(report, error)
        encoding, answer = _outcome(report, b"", is_checked=True)
    # By position, and without calls for what is absent: a thousand may come at once.
    return AttemptReport(
        LeaseKey.parse(report.lease) or NO_LEASE,
        report.outcome,
        encoding,
        answer,
        report.error.kind if report.error else "",
        report.unfit,
        report.pause,
        _used(report) if _has_run(report) else None,
        _log(state, report.log) if report.log else b"",
    )


def _has_run(report: Report) -> bool:
    """Whether it started, as far as its worker tells."""
    return report.outcome in ("succeeded", "failed") or report.usage is not None


def _refused(report: Report, error: RequestError) -> Report:
    """An answer that cannot be kept: the attempt failed."""
    kind: ErrorKind = "too_big" if isinstance(error, TooLarge) else "not_serialisable"
    told = Error(kind=kind, type=kind, message=error.message)
    return msgspec.structs.replace(report, outcome="failed", error=told, blob=None)


def _used(report: Report) -> Used:
    usage, resolved = report.usage, report.resolved
    if usage is None:
        return Used()
    return Used(
        usage.run_seconds,
        usage.install_seconds,
        usage.import_seconds,
        usage.cpu_seconds,
        usage.peak_bytes,
        None if resolved is None else {"module": resolved.module, "rule": resolved.rule},
        None,
        usage.sandbox if usage.sandbox in SANDBOX_LEVELS else 0,
    )


def _bytes(count: int) -> int:
    """A count that a database column holds."""
    return min(max(count, 0), 2**62)


def _log(state: State, text: str) -> bytes:
    try:
        return base64.b64decode(text)[: state.settings.log_bytes + 200]
    except ValueError:
        return text.encode(errors="replace")[: state.settings.log_bytes]


def _outcome(report: Report, answer: bytes, *, is_checked: bool) -> tuple[Encoding, bytes]:
    if report.outcome != "succeeded":
        return Encoding.ERROR, encode(report.error) if report.error else b""
    is_pickle = report.encoding == "pickle"
    if report.blob is not None:
        return Encoding.PICKLE_BLOB if is_pickle else Encoding.JSON_BLOB, report.blob.encode()
    if len(answer) > MAXIMUM_ANSWER:
        raise TooLarge("an answer of that size is uploaded as a blob first")
    if not is_checked:
        check_payload(answer, "answer")
    return Encoding.PICKLE if is_pickle else Encoding.JSON, answer or b"null"


MAXIMUM_ANSWER = 1 << 20
"""Answers above 64 KiB come as blobs; this leaves room for base64 and for careless workers."""


async def listed(state: State, call: Call) -> Reply:
    """The workers there are and were."""
    call.query()
    rows = await state.store.workers()
    live = {session.worker: session for session in await state.store.sessions()}
    shown = []
    for row in rows:
        session = live.get(row.worker)
        shown.append(
            {
                "id": row.id,
                "name": row.facts.name,
                "state": "live" if session else "lost",
                "slots": row.facts.slots,
                "running": session.running if session else 0,
                "pythons": list(row.facts.pythons),
                "labels": row.facts.labels,
                "cpu": row.facts.cpu,
                "memory": row.facts.memory,
                "gpu": row.facts.gpu,
                "platform": row.facts.platform,
                "version": row.facts.version,
                "sandbox": row.facts.sandbox,
                "environments": session.environments if session else {},
                "joined_at": moment(row.joined_at),
                "seen_at": moment(row.seen_at),
            }
        )
    return Reply(encode({"workers": shown, "next": None}))


ROUTES = [
    Route("POST", "/v1/workers/{id}/exchange", exchange, WORKER),
    Route("POST", "/v1/workers", join, WORKER),
    Route("GET", "/v1/workers", listed, USER),
]
