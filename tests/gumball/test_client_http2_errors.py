"""Answers over gRPC that are none: statuses, what stands for them, and messages that are not as they should be."""

import base64

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from gumball import AsyncClient, errors
from http2_frames import END_STREAM, Code
from http2_peer import HEAD, INFO, OK, SAMPLE, STREAM, Asked, Headers, Peer, framed, response
from http2_scripts import LARGE, LOGITS, Script, Scripted, draw, failure, in_time, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_lost")

HTML = (("content-type", "text/html"),)


def then_right(wrong: Script) -> Script:
    """A script that goes wrong once, and is right from then on, on the same connection."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await wrong(peer)
        while True:
            peer.send(peer.answer(await peer.next()))

    return script


def refused(*headers: tuple[str, str], data: bytes = b"", trailers: Headers | None = None) -> Script:
    """An answer of headers alone, or with data, or with trailers."""

    async def wrong(peer: Peer) -> None:
        stream = (await peer.next()).stream
        frames = peer.headers(stream, headers, 0 if data or trailers else END_STREAM)
        frames += peer.data(stream, data, 0 if trailers else END_STREAM) if data else b""
        peer.send(frames + (peer.headers(stream, trailers, END_STREAM) if trailers else b""))

    return then_right(wrong)


async def error_of(script: Script, path: str = INFO) -> tuple[errors.GumballError, Scripted]:
    """What a call by itself is told; the next one is answered on the same connection."""
    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        error = await failure(client.info() if path == INFO else client.sample(LARGE, seed=1))
        await draw(client, 2, LARGE)
        await draw(client, 3)
    assert len(service.peers) == 1
    return error, service


# Statuses.

KINDS = {
    1: errors.Unavailable,
    2: errors.Internal,
    3: errors.InvalidArgument,
    4: errors.DeadlineExceeded,
    7: errors.Unauthenticated,
    8: errors.TooLarge,
    12: errors.NotFound,
    13: errors.Internal,
    14: errors.Unavailable,
    16: errors.Unauthenticated,
}


@pytest.mark.parametrize("form", ["alone", "after headers", "after data"])
@pytest.mark.parametrize("status", range(1, 17))
async def test_a_status_is_read_wherever_it_comes(status, form):
    """In headers that are all of the answer, or in trailers."""
    told = [("grpc-status", str(status)), ("grpc-message", "because")]
    if form == "alone":
        script = refused(*HEAD, *told)
    else:
        script = refused(*HEAD, data=framed(b"") if form == "after data" else b"", trailers=told)
    error, _ = await error_of(script)
    assert type(error) is KINDS.get(status, errors.InvalidAnswer)
    assert error.detail == "because"


@pytest.mark.parametrize(
    "status", ["", "17", "-1", "4294967296", "1.0", "OK", "0x0", "9" * 5000, "\xff"], ids=lambda status: status[:9]
)
async def test_a_status_that_is_none_is_an_error(status):
    """It is not taken for success."""
    error, _ = await error_of(refused(*HEAD, data=framed(b""), trailers=[("grpc-status", status)]))
    assert not isinstance(error, errors.Unavailable)


async def test_a_status_may_come_without_a_message():
    """There are words all the same."""
    error, _ = await error_of(refused(*HEAD, ("grpc-status", "13")))
    assert isinstance(error, errors.Internal)
    assert str(error)


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("a%20b", "a b"),
        ("%C3%A4%e2%82%ac", "ä€"),
        ("100%", "100%"),
        ("%4", "%4"),
        ("%zz%41", "%zzA"),
        ("%FF", "\N{REPLACEMENT CHARACTER}"),
        ("a+b", "a+b"),
        ("%25%32%30", "%20"),
    ],
)
async def test_a_message_is_percent_encoded(told, read):
    """And is read as far as it is, for it may come from anybody."""
    error, _ = await error_of(refused(*HEAD, ("grpc-status", "13"), ("grpc-message", told)))
    assert error.detail == read


def details() -> bytes:
    """What a service says of a call that it refuses."""
    status = Status(code=8, message="?")
    status.details.add().Pack(ErrorInfo(reason="OVERLOADED", domain="gumball", metadata={"field": "tau[3]"}))
    status.details.add().Pack(RetryInfo(retry_delay=Duration(nanos=250_000_000)))
    return status.SerializeToString()


@pytest.mark.parametrize("padding", ["", "="])
@pytest.mark.parametrize("more", [0, 1, 2], ids=["3n", "3n+1", "3n+2"])
async def test_details_are_read_with_and_without_padding(more, padding):
    """Of every length that base64 pads."""
    whole = details()
    unknown = (more - len(whole) - 2) % 3
    whole += bytes([0x22, unknown]) + bytes(unknown)  # a field that nobody knows
    assert len(whole) % 3 == more
    told = base64.b64encode(whole).decode()
    told = told if padding else told.rstrip("=")
    trailers = [("grpc-status", "8"), ("grpc-message", "tau[3]: because"), ("grpc-status-details-bin", told)]
    error, _ = await error_of(refused(*HEAD, trailers=trailers))
    assert (type(error), error.detail, error.field, error.retry_after) == (errors.Overloaded, "because", "tau[3]", 0.25)


@pytest.mark.parametrize("cut", [1, 2, 7, 30, 50, 10**6], ids=lambda cut: f"{cut} cut off")
async def test_details_that_are_cut_short_leave_the_status(cut):
    """A proxy may bound headers."""
    told = base64.b64encode(details()).decode().rstrip("=")
    trailers = [("grpc-status", "14"), ("grpc-status-details-bin", told[: max(len(told) - cut, 0)])]
    error, _ = await error_of(refused(*HEAD, trailers=trailers))
    assert type(error) in (errors.Unavailable, errors.Overloaded)  # the reason may have come whole


async def test_a_time_to_wait_may_be_any():
    """Also one that no timedelta holds."""
    status = Status(code=14, message="later")
    status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=1 << 60)))
    told = base64.b64encode(status.SerializeToString()).decode()
    trailers = [("grpc-status", "14"), ("grpc-message", "later"), ("grpc-status-details-bin", told)]
    error, _ = await error_of(refused(*HEAD, trailers=trailers))
    assert (type(error), error.detail, error.retry_after) == (errors.Unavailable, "later", float(1 << 60))


HTTP_KINDS = {
    200: errors.Internal,
    204: errors.Internal,
    302: errors.Internal,
    400: errors.Internal,
    401: errors.Unauthenticated,
    403: errors.Unauthenticated,
    404: errors.NotFound,
    429: errors.Unavailable,
    431: errors.Internal,
    500: errors.Internal,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
}


@pytest.mark.parametrize("body", [b"", b"<html>"], ids=["alone", "page"])
@pytest.mark.parametrize("status", HTTP_KINDS)
async def test_an_answer_that_is_not_of_grpc_is_read_by_its_http_status(status, body):
    """By gRPC's own table."""
    error, _ = await error_of(refused((":status", str(status)), *HTML, data=body))
    assert type(error) is HTTP_KINDS[status]


@pytest.mark.parametrize("status", ["200", "404", "503"])
async def test_a_grpc_status_goes_before_that_of_http(status):
    """Whoever knows gRPC knows better."""
    error, _ = await error_of(refused((":status", status), *HEAD[1:], ("grpc-status", "3"), ("grpc-message", "no")))
    assert (type(error), error.detail) == (errors.InvalidArgument, "no")


@pytest.mark.parametrize("kind", [(), HTML, (("content-type", "application/json"),)], ids=["none", "html", "json"])
async def test_another_content_type_is_no_answer(kind):
    """Even if the status is well."""
    message = framed(b"\x0a\x01x")
    await error_of(refused((":status", "200"), *kind, data=message, trailers=[*OK]))


async def test_a_page_of_any_length_is_not_kept():
    """Nor does it stop other calls."""
    await error_of(refused((":status", "502"), *HTML, data=b"x" * 16_000, trailers=[("x", "y")]))


# Streams that are reset.

RESETS = {
    Code.REFUSED_STREAM: errors.Unavailable,
    Code.CANCEL: errors.Unavailable,
    Code.ENHANCE_YOUR_CALM: errors.TooLarge,  # RESOURCE_EXHAUSTED
    12: errors.Unauthenticated,  # INADEQUATE_SECURITY
}


@pytest.mark.parametrize("after", ["nothing", "headers", "half a message", "a message"])
@pytest.mark.parametrize("code", [*Code, 10, 12, 13, 0xFFFFFFFF])
async def test_a_reset_is_read_by_its_code(code, after):
    """By gRPC's own table, however much of the answer has come."""

    async def wrong(peer: Peer) -> None:
        again = code == Code.REFUSED_STREAM and after == "nothing"  # it is asked for again, and refused again
        for _ in range(1 + again):
            asked = await peer.next()
            message = framed(response(asked))
            frames = b"" if after == "nothing" else peer.begin(asked.stream)
            if "message" in after:
                frames += peer.data(asked.stream, message[: -1 if "half" in after else None])
            peer.send(frames + peer.reset(asked.stream, code))

    error, _ = await error_of(then_right(wrong))
    assert type(error) is RESETS.get(code, errors.Internal)


@pytest.mark.parametrize("path", [INFO, SAMPLE])
async def test_a_refused_call_is_made_again_at_once(path):
    """It was not looked at; who called does not learn of it."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.send(peer.reset((await peer.next()).stream, Code.REFUSED_STREAM))
        peer.send(peer.answer(await peer.next()))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await in_time(client.info()) if path == INFO else await draw(client, 1, LARGE)
    (peer,) = service.peers
    assert [asked.path for asked in peer.asked] == [path, path]


@pytest.mark.parametrize("code", [Code.REFUSED_STREAM, Code.CANCEL, Code.INTERNAL_ERROR, Code.NO_ERROR])
async def test_calls_of_a_stream_that_is_reset_are_made_again(code):
    """By themselves, or on another stream."""

    async def wrong(peer: Peer) -> None:
        peer.send(peer.reset((await peer.next()).stream, code))

    async with scripted(then_right(wrong)) as service, AsyncClient(service.address) as client:
        await draw(client, 1)
        await draw(client, 2)
    assert service.seeds.count(1) == 2
    assert len(service.peers) == 1


# Messages.


def answered(make) -> Script:
    """The first call by the data that are made of the right message, and a status that says that all is well."""

    async def wrong(peer: Peer) -> None:
        asked = await peer.next()
        data = make(response(asked))
        peer.send(peer.begin(asked.stream) + (peer.data(asked.stream, data) if data else b""))
        if not peer.calls[asked.stream].over:
            peer.send(peer.headers(asked.stream, OK, END_STREAM))

    return then_right(wrong)


WRONG = {
    "no message": lambda message: b"",
    "two messages": lambda message: framed(message) * 2,
    "two messages in pieces": lambda message: framed(message) + framed(message)[:7],
    "longer than told": lambda message: framed(message) + b"x",
    "shorter than told": lambda message: framed(message)[:-1],
    "a length alone": lambda message: framed(message)[:5],
    "half a length": lambda message: framed(message)[:3],
    "the longest": lambda message: b"\0\xff\xff\xff\xff" + message,
    "compressed": lambda message: framed(message, compressed=True),
    "an unknown flag": lambda message: b"\x80" + framed(message)[1:],
    "not of protobuf": lambda message: framed(b"\xff" * len(message)),
    "cut within": lambda message: framed(message[:-1]),
}


@pytest.mark.parametrize("path", [INFO, SAMPLE])
@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
async def test_an_answer_that_is_not_one_message_is_an_error(make, path):
    """Though its status says that all is well; it is told, and no other call suffers."""
    error, _ = await error_of(answered(make), path)
    assert isinstance(error, errors.Internal | errors.InvalidAnswer)
    assert error.detail


async def test_an_empty_message_is_one():
    """All of it is as by default."""
    async with scripted(answered(lambda message: framed(b""))) as service, AsyncClient(service.address) as client:
        assert (await in_time(client.info()))["version"] == ""


@pytest.mark.parametrize("make", [WRONG[name] for name in WRONG if name not in ("no message", "two messages")])
async def test_calls_of_a_stream_whose_messages_are_wrong_get_right_answers_all_the_same(make):
    """By being made again, for the answers of a stream that cannot be read are told by nobody."""
    async with scripted(answered(make)) as service, AsyncClient(service.address) as client:
        await draw(client, 1)
        await draw(client, 2)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("3", errors.InvalidArgument),
        ("7", errors.Unauthenticated),
        ("14", errors.Unavailable),
        ("0", errors.Unavailable),
    ],
)
@pytest.mark.parametrize("form", ["alone", "after headers"])
async def test_a_stream_that_ends_is_not_waited_for(status, kind, form):
    """Its calls fail with a status of Unavailable, or where there is none; else each learns by itself what is wrong."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        while True:
            asked: Asked = await peer.next()
            told = [("grpc-status", status), ("grpc-message", "so it is")]
            if form == "alone":
                peer.send(peer.headers(asked.stream, [*HEAD, *told], END_STREAM))
            else:
                peer.send(peer.begin(asked.stream) + peer.headers(asked.stream, told, END_STREAM))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        error = await failure(client.sample(LOGITS), kind)
    assert status == "0" or error.detail == "so it is"
    paths = [asked.path for asked in service.peers[0].asked]
    assert paths == ([STREAM] if kind is errors.Unavailable else [STREAM, SAMPLE])
