"""Framings both ways, against a model: any bytes, cut anywhere."""

import contextlib
import errno
import itertools
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pymux

from .util import Harvested, harvest_until, pair, recv_exactly, until_end

# -- the model ---------------------------------------------------------------------


def encode(framing, payload):
    """One frame as it stands on the wire."""
    if isinstance(framing, pymux.Lines):
        return payload + framing.delimiter
    if isinstance(framing, pymux.LengthPrefix):
        return len(payload).to_bytes(framing.width, framing.byteorder) + payload
    return payload


def decode(framing, stream):
    """(frames, None or the errno that ends the connection) of a whole stream."""
    if isinstance(framing, pymux.Lines):
        frames = stream.split(framing.delimiter)
        if not frames[-1]:
            frames.pop()
        for k, frame in enumerate(frames):
            if len(frame) > framing.max_size:
                return frames[:k], errno.EMSGSIZE
        return frames, None
    frames = []
    while stream:
        head = 0
        size = framing.size if isinstance(framing, pymux.Fixed) else 0
        if isinstance(framing, pymux.LengthPrefix):
            head = framing.width
            if len(stream) < head:
                return frames, errno.EPROTO
            size = int.from_bytes(stream[:head], framing.byteorder)
            if size > framing.max_size:
                return frames, errno.EMSGSIZE
        if len(stream) < head + size:
            return frames, errno.EPROTO
        frames.append(stream[head : head + size])
        stream = stream[head + size :]
    return frames, None


# -- what is generated -------------------------------------------------------------

DELIMITERS = [b"\n", b"\r\n", b"ab", b"aab", b"abab", b"\0", b"0123456789abcdef"]

framings = st.one_of(
    st.builds(pymux.Lines, st.sampled_from(DELIMITERS), st.integers(1, 60)),
    st.builds(
        pymux.LengthPrefix,
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from(["big", "little"]),
        st.integers(1, 60),
    ),
    st.builds(pymux.Fixed, st.integers(1, 20)),
)


@st.composite
def conversations(draw):
    """(framing, pieces): a stream that is often well formed, cut anywhere."""
    framing = draw(framings)
    letters = st.sampled_from([b"a", b"b", b"\r", b"\n", b"\0", b"xyz"])
    payloads = st.one_of(
        st.binary(max_size=70), st.lists(letters, max_size=20).map(b"".join)
    )
    stream = b""
    for payload in draw(st.lists(payloads, max_size=8)):
        if isinstance(framing, pymux.Fixed):
            payload = (payload * framing.size + b"." * framing.size)[: framing.size]
        stream += encode(framing, payload)
    stream += draw(st.one_of(st.just(b""), st.binary(max_size=30)))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    return framing, [piece for piece in pieces if piece]


def talk(mux, framing, pieces, answer):
    """Send the pieces, each harvested by itself; (acc, all the peer got, its errno).

    answer(batch) is called for each batch.
    """
    conn, peer = pair(mux, framing)
    acc = Harvested()

    def harvest(timeout):
        batch = mux.harvest(timeout)
        acc.add(batch)
        answer(batch)

    with peer:
        peer.settimeout(10)
        # The peer of a connection that has ended already cannot send any more.
        with contextlib.suppress(OSError):
            for piece in pieces:
                peer.sendall(piece)
                harvest(0)
            peer.shutdown(socket.SHUT_WR)
        for _ in range(1000):
            if acc.is_closed(conn):
                break
            harvest(1)
        got, error = until_end(peer)
    assert acc.is_closed(conn)
    return acc, got, error


repeated = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@repeated
@given(conversation=conversations())
def test_any_stream_cut_anywhere_is_framed_as_the_model_says(mux, conversation):
    framing, pieces = conversation
    frames, error = decode(framing, b"".join(pieces))
    acc, got, _ = talk(mux, framing, pieces, lambda batch: None)
    assert acc.payloads == frames
    assert [e and e.errno for _, e in acc.closed] == [error]
    assert got == b""


@repeated
@given(conversation=conversations())
def test_every_frame_is_answered_by_one_frame(mux, conversation):
    framing, pieces = conversation
    frames, _ = decode(framing, b"".join(pieces))
    _, got, _ = talk(
        mux, framing, pieces, lambda batch: batch.reply_data(bytes(batch.data))
    )
    assert got == b"".join(encode(framing, frame) for frame in frames)


@repeated
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=10),
    how=st.sampled_from(["reply", "reply_data", "send"]),
)
def test_raw_streams_pass_unchanged(mux, pieces, how):
    def answer(batch):
        if how == "reply":
            batch.reply(batch.messages)
        elif how == "reply_data":
            batch.reply_data(batch.data)
        else:
            for conn, data in batch:
                conn.send(data)

    acc, got, error = talk(mux, pymux.Raw(), pieces, answer)
    assert b"".join(acc.payloads) == b"".join(pieces)
    assert b"" not in acc.payloads
    assert got == b"".join(pieces)
    assert error is None


@st.composite
def outputs(draw):
    """(framing, payloads that fit it)."""
    framing = draw(
        st.one_of(
            st.builds(pymux.Raw),
            st.builds(pymux.Lines, st.sampled_from(DELIMITERS)),
            st.builds(
                pymux.LengthPrefix,
                st.sampled_from([1, 2, 4, 8]),
                st.sampled_from(["big", "little"]),
            ),
            st.builds(pymux.Fixed, st.integers(1, 20)),
        )
    )
    size = framing.size if isinstance(framing, pymux.Fixed) else None
    small = st.binary(min_size=size or 0, max_size=size or 40)
    return framing, draw(st.lists(small, max_size=12))


@repeated
@given(output=outputs(), data=st.data())
def test_what_is_sent_is_framed_as_the_model_says(mux, output, data):
    framing, payloads = output
    conn, peer = pair(mux, framing)
    with peer:
        for payload in payloads:
            kind = data.draw(st.sampled_from([bytes, bytearray, memoryview, list]))
            if kind is list:
                mux.send_many([conn], payload)
            else:
                conn.send(kind(payload))
            if data.draw(st.booleans()):
                mux.harvest(0)
        conn.close()
        mux.harvest(0)
        got, error = until_end(peer)
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert got == b"".join(encode(framing, payload) for payload in payloads)
    assert error is None


@settings(repeated, max_examples=40)
@given(
    framing=framings,
    sizes=st.lists(st.integers(0, 4000), min_size=1, max_size=6),
    max_messages=st.integers(1, 5),
)
def test_frames_over_many_small_harvests_keep_their_order(
    backend, framing, sizes, max_messages
):
    if isinstance(framing, pymux.Fixed):
        sizes = [framing.size] * len(sizes)
    elif isinstance(framing, pymux.Lines):
        framing = pymux.Lines(framing.delimiter)
    else:
        framing = pymux.LengthPrefix(framing.width, framing.byteorder)
        sizes = [min(size, 255) for size in sizes]
    payloads = [bytes([65 + k]) * size for k, size in enumerate(sizes)]
    stream = b"".join(encode(framing, payload) for payload in payloads)
    frames, error = decode(framing, stream)
    with pymux.Mux(backend, max_messages=max_messages) as mux:
        acc, _got, _ = talk(mux, framing, [stream], lambda batch: None)
    assert acc.payloads == frames
    assert [e and e.errno for _, e in acc.closed] == [error]


# -- each promise by itself --------------------------------------------------------


def fate(mux, framing, stream):
    """(frames, errno) of a stream sent in one piece."""
    acc, _, _ = talk(mux, framing, [stream] if stream else [], lambda batch: None)
    ((_, error),) = acc.closed
    return acc.payloads, error and error.errno


def test_the_default_framing_is_raw(mux):
    conn, peer = pair(mux, None)
    with peer:
        peer.sendall(b"a\nb")
        acc = harvest_until(mux, lambda acc: acc.received(conn) == b"a\nb")
        assert acc.payloads == [b"a\nb"]


def test_lines_deliver_an_unterminated_last_line(mux):
    assert fate(mux, pymux.Lines(), b"a\nb") == ([b"a", b"b"], None)


def test_lines_deliver_a_last_line_that_ends_inside_the_delimiter(mux):
    assert fate(mux, pymux.Lines(b"\r\n"), b"a\r\nb\r") == ([b"a", b"b\r"], None)


def test_lines_end_without_an_empty_last_line(mux):
    assert fate(mux, pymux.Lines(), b"a\n") == ([b"a"], None)


def test_lines_keep_empty_lines(mux):
    assert fate(mux, pymux.Lines(), b"\n\na\n\n") == ([b"", b"", b"a", b""], None)


def test_lines_keep_a_carriage_return(mux):
    assert fate(mux, pymux.Lines(), b"a\r\n") == ([b"a\r"], None)


def test_lines_do_not_search_replies(mux):
    conn, peer = pair(mux, pymux.Lines())
    with peer:
        conn.send(b"one\ntwo")
        mux.harvest(0)
        assert recv_exactly(peer, 8) == b"one\ntwo\n"


@pytest.mark.parametrize("delimiter", DELIMITERS, ids=repr)
def test_a_line_of_max_size_passes_and_one_more_does_not(mux, delimiter):
    framing = pymux.Lines(delimiter, max_size=10)
    fits, long = b"x" * 10, b"x" * 11
    assert fate(mux, framing, fits + delimiter) == ([fits], None)
    assert fate(mux, framing, long + delimiter) == ([], errno.EMSGSIZE)
    assert fate(mux, framing, fits) == ([fits], None)
    assert fate(mux, framing, long) == ([], errno.EMSGSIZE)


def test_a_line_that_never_ends_is_cut_off_at_max_size(mux):
    conn, peer = pair(mux, pymux.Lines(max_size=1000))
    with peer:
        peer.sendall(b"x" * 1100)  # no delimiter, and no end of stream
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.EMSGSIZE


@pytest.mark.parametrize("byteorder", ["big", "little"])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_prefix_has_its_width_and_order(mux, width, byteorder):
    framing = pymux.LengthPrefix(width, byteorder, max_size=200)
    stream = (3).to_bytes(width, byteorder) + b"abc"
    _conn, peer = pair(mux, framing)
    with peer:
        peer.sendall(stream)
        batch = mux.harvest(5)
        assert batch.messages == [b"abc"]
        batch.reply([b"abc"])
        mux.harvest(0)
        assert recv_exactly(peer, len(stream)) == stream


@pytest.mark.parametrize("byteorder", ["big", "little"])
@pytest.mark.parametrize("width", [2, 4, 8])
def test_a_prefix_of_every_bit_is_too_long_not_negative(mux, width, byteorder):
    framing = pymux.LengthPrefix(width, byteorder, max_size=200)
    assert fate(mux, framing, b"\xff" * width) == ([], errno.EMSGSIZE)


def test_a_prefix_of_max_size_passes_and_one_more_does_not(mux):
    framing = pymux.LengthPrefix(2, max_size=10)
    assert fate(mux, framing, b"\0\12" + b"x" * 10) == ([b"x" * 10], None)
    assert fate(mux, framing, b"\0\13" + b"x" * 11) == ([], errno.EMSGSIZE)


def test_a_claim_over_max_size_ends_the_connection_at_once(mux):
    conn, peer = pair(mux, pymux.LengthPrefix())
    with peer:
        peer.sendall(b"\x7f\xff\xff\xff")  # nothing of the payload
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.EMSGSIZE


def test_the_error_of_one_connection_leaves_the_others(mux):
    bad, bad_peer = pair(mux, pymux.LengthPrefix())
    good, good_peer = pair(mux, pymux.LengthPrefix())
    with bad_peer, good_peer:
        bad_peer.sendall(b"\xff\xff\xff\xff")
        good_peer.sendall(b"\0\0\0\2ok")
        acc = harvest_until(mux, lambda acc: acc.closed and acc.messages)
        assert acc.is_closed(bad)
        assert acc.messages == [(good, b"ok")]


@pytest.mark.parametrize(
    "framing, stream",
    [
        (pymux.LengthPrefix(), b"\0\0"),
        (pymux.LengthPrefix(), b"\0\0\0\5abcd"),
        (pymux.LengthPrefix(), b"\0\0\0\5"),
        (pymux.Fixed(3), b"abcde"),
        (pymux.Fixed(3), b"ab"),
    ],
)
def test_a_stream_that_ends_inside_a_frame_is_a_protocol_error(mux, framing, stream):
    frames, error = fate(mux, framing, stream)
    assert frames == decode(framing, stream)[0]
    assert error == errno.EPROTO


@pytest.mark.parametrize(
    "framing", [pymux.Lines(), pymux.LengthPrefix(), pymux.Fixed(3), pymux.Raw()]
)
def test_a_stream_without_a_byte_ends_without_an_error(mux, framing):
    assert fate(mux, framing, b"") == ([], None)


@pytest.mark.parametrize(
    "framing, good, bad",
    [
        (pymux.Lines(max_size=10), b"a\nb\n", b"x" * 20),
        (pymux.LengthPrefix(2, max_size=10), b"\0\1a\0\1b", b"\xff\xff"),
    ],
)
def test_answers_to_earlier_frames_are_flushed_first(mux, framing, good, bad):
    answer = b"A" * 9
    _, got, _ = talk(
        mux, framing, [good + bad], lambda batch: batch.reply([answer] * len(batch))
    )
    assert got == encode(framing, answer) * 2


def test_answers_are_flushed_before_a_protocol_error_too(mux):
    acc, got, _ = talk(
        mux,
        pymux.Fixed(2),
        [b"abcde"],
        lambda batch: batch.reply([b"OK"] * len(batch)),
    )
    assert got == b"OKOK"
    assert acc.closed[0][1].errno == errno.EPROTO


def test_a_large_answer_is_flushed_before_the_error(mux):
    _conn, peer = pair(mux, pymux.Lines(max_size=10))
    with peer:
        peer.sendall(b"a\n" + b"x" * 50_000)
        answered, got = False, bytearray()
        peer.setblocking(False)
        for _ in range(20_000):
            batch = mux.harvest(0.001)
            if len(batch):
                batch.reply([b"A" * 6_000_000])
                answered = True
            try:
                piece = peer.recv(1 << 20)
            except BlockingIOError:
                continue
            except ConnectionError:
                break
            got += piece
            if not piece:
                break
        assert answered
        assert len(got) == 6_000_001


def test_frames_of_a_fixed_size_are_cut_to_it(mux):
    assert fate(mux, pymux.Fixed(3), b"abcdef") == ([b"abc", b"def"], None)


@pytest.mark.parametrize("data", [b"", b"ab", b"abcd"])
def test_a_fixed_send_of_another_length_is_refused(mux, data):
    conn, peer = pair(mux, pymux.Fixed(3))
    with peer:
        with pytest.raises(ValueError, match="3"):
            conn.send(data)
        conn.send(b"abc")
        mux.harvest(0)
        assert recv_exactly(peer, 3) == b"abc"


def test_a_send_too_long_for_its_prefix_is_refused(mux):
    conn, peer = pair(mux, pymux.LengthPrefix(1, max_size=255))
    with peer:
        with pytest.raises(ValueError, match="256"):
            conn.send(b"x" * 256)
        conn.send(b"ok")
        mux.harvest(0)
        assert recv_exactly(peer, 3) == b"\2ok"


def test_max_size_does_not_bound_what_is_sent(mux):
    conn, peer = pair(mux, pymux.LengthPrefix(2, max_size=10))
    with peer:
        conn.send(b"x" * 300)
        mux.harvest(0)
        assert recv_exactly(peer, 302) == b"\1\x2c" + b"x" * 300


def test_an_empty_frame_is_a_message(mux):
    conn, peer = pair(mux, pymux.LengthPrefix(1, max_size=255))
    with peer:
        peer.sendall(b"\0\0\1x")
        assert mux.harvest(5).messages == [b"", b"", b"x"]
        conn.send(b"")
        mux.harvest(0)
        assert recv_exactly(peer, 1) == b"\0"


def test_a_frame_behind_an_error_is_not_delivered(mux):
    frames, error = fate(
        mux, pymux.LengthPrefix(1, max_size=4), b"\2ok" + b"\5xxxxx" + b"\2no"
    )
    assert (frames, error) == ([b"ok"], errno.EMSGSIZE)


def test_a_half_open_connection_ends_with_the_error_too(mux):
    conn, peer = pair(mux, pymux.Fixed(2), half_open=True)
    with peer:
        peer.sendall(b"abc")
        peer.shutdown(socket.SHUT_WR)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.payloads == [b"ab"]
        assert acc.errno(conn) == errno.EPROTO
