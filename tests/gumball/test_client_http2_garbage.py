"""Conversations that were right before something happened to their bytes: calls end, by an answer or our error."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from gumball import AsyncClient, GumballError
from http2_frames import ACK, END_STREAM, Kind, Setting, frame, ping, settings, window_update
from http2_peer import HEAD, OK, ROOMY, STREAM, Asked, Peer, framed, response
from http2_scripts import LARGE, LOGITS, answering, draw, in_time, scripted
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("nothing_is_lost")

FIELDS = [*HEAD, ("server", "x" * 50), ("x", "y")]
Mutate = Callable[[list[bytes]], list[bytes]]

conversations = hypothesis_settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def right(peer: Peer, asked: Asked) -> list[bytes]:
    """The frames of an answer, and of what may go on beside it."""
    stream, message = asked.stream, framed(response(asked))
    frames = [
        settings({Setting.MAX_CONCURRENT_STREAMS: 100} | ROOMY),
        frame(Kind.SETTINGS, ACK),
        ping(),
        window_update(0, 1000),
        peer.headers(stream, FIELDS),
        peer.data(stream, message[:20]),
        window_update(stream, 1000),
        peer.data(stream, message[20:]),
    ]
    return frames if asked.path == STREAM else [*frames, peer.headers(stream, OK, END_STREAM)]


def flipped(places: list[tuple[int, int]]) -> Mutate:
    """Bytes that are others."""

    def mutate(frames: list[bytes]) -> list[bytes]:
        data = bytearray(b"".join(frames))
        for place, mask in places:
            data[place % len(data)] ^= mask
        return [bytes(data)]

    return mutate


def flipped_heads(places: list[tuple[int, int, int]]) -> Mutate:
    """Bytes of frames' heads, or the first ones of what they hold."""

    def mutate(frames: list[bytes]) -> list[bytes]:
        changed = [bytearray(each) for each in frames]
        for number, place, mask in places:
            data = changed[number % len(changed)]
            data[place % len(data)] ^= mask
        return list(map(bytes, changed))

    return mutate


def cut(start: int, size: int) -> Mutate:
    """Bytes that are not there."""

    def mutate(frames: list[bytes]) -> list[bytes]:
        data = b"".join(frames)
        at = start % len(data)
        return [data[:at] + data[at + size :]]

    return mutate


def shuffled(order: list[int]) -> Mutate:
    """Frames that come in another order, several times, or never."""
    return lambda frames: [frames[number % len(frames)] for number in order]


def inserted(new: list[tuple[int, bytes]]) -> Mutate:
    """Frames that nobody asked for."""

    def mutate(frames: list[bytes]) -> list[bytes]:
        for place, data in new:
            at = place % (len(frames) + 1)
            frames = [*frames[:at], data, *frames[at:]]
        return frames

    return mutate


numbers = st.integers(0, 1 << 16)
masks = st.integers(1, 255)
any_frame = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from([0, 0x1, 0x4, 0x5, 0x8, 0xD, 0x20, 0x25, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 99]),
    st.one_of(st.binary(max_size=20), st.just(b"\x88"), st.integers(0, 1 << 31).map(lambda n: n.to_bytes(4, "big"))),
)
mutations = st.one_of(
    st.builds(flipped, st.lists(st.tuples(numbers, masks), min_size=1, max_size=5)),
    st.builds(flipped_heads, st.lists(st.tuples(numbers, st.integers(0, 12), masks), min_size=1, max_size=3)),
    st.builds(cut, numbers, st.integers(1, 40)),
    st.builds(shuffled, st.lists(st.integers(0, 8), max_size=15)),
    st.builds(inserted, st.lists(st.tuples(numbers, any_frame), min_size=1, max_size=5)),
)


async def converse(mutate: Mutate, logits: object, size: int) -> None:
    """A call in such a conversation, at the end of which the service closes; and one after it."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        peer.unacknowledged += [{}] * 100  # whatever settings there will be
        await peer.trickle(b"".join(mutate(right(peer, asked))), size)
        peer.end()
        await peer.gone()

    async with scripted(script, answering) as service, AsyncClient(service.address, retries=0) as client:
        with contextlib.suppress(GumballError):
            await in_time(client.sample(logits, seed=1))  # of which the numbers may be others, too
        await service.peers[0].gone()
        await draw(client, 2, logits)


@pytest.mark.parametrize("logits", [LOGITS, LARGE], ids=["stream", "alone"])
@conversations
@given(mutate=mutations, size=st.sampled_from([3, 50, 1 << 20]))
def test_a_call_ends_whatever_its_service_says(logits, mutate, size):
    """And the next one, of another service, is answered."""
    asyncio.run(in_time(converse(mutate, logits, size)))
