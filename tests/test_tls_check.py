"""The check before adoption, as what it is: nothing that verifies a peer in Python is
passed over, in whichever way it gets into the object, and by whichever call."""

import asyncio
import contextlib
import ssl

import pytest
import truststore

import pymux
import pymux.aio

from . import inside, util
from .tls import secure, set_all
from .tls_peers import tls_peer
from .util import harvest_until, serving, wait_until


class Pinned(ssl.SSLCertVerificationError):
    """What a check in Python raises."""


class Refuses(ssl.SSLObject):
    """An object that refuses each peer behind its handshake."""

    def do_handshake(self):
        super().do_handshake()
        raise Pinned("the pin does not match")


def of_the_instance(papers, side):
    """The class is an attribute of the context."""
    return set_all(getattr(papers, side)(), {"sslobject_class": Refuses})


class WithAClass(ssl.SSLContext):
    sslobject_class = Refuses


class Reclasses(ssl.SSLContext):
    def wrap_bio(self, *args, **options):
        made = super().wrap_bio(*args, **options)
        made.__class__ = Refuses
        return made


class Patches(ssl.SSLContext):
    """The object is of the plain class, and has a method of its own."""

    def wrap_bio(self, *args, **options):
        made = super().wrap_bio(*args, **options)
        shake = made.do_handshake

        def refuse():
            shake()
            raise Pinned("the pin does not match")

        made.do_handshake = refuse
        return made


class Proxy:
    """An object that only stands for one of ssl's."""

    def __init__(self, made):
        self._made = made

    def do_handshake(self):
        self._made.do_handshake()
        raise Pinned("the pin does not match")

    def __getattr__(self, name):
        return getattr(self._made, name)


class Wraps(ssl.SSLContext):
    def wrap_bio(self, *args, **options):
        return Proxy(super().wrap_bio(*args, **options))


def of_a_class(kind):
    """A maker of contexts of a class."""

    def make(papers, side):
        server = side == "server"
        context = kind(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        if server:
            papers.certificate().configure_cert(context)
        else:
            papers.ca.configure_trust(context)
        return context

    make.__name__ = kind.__name__
    return make


def patched_alone(papers, side):
    """A context of the plain class, whose own `wrap_bio` is another."""
    context = getattr(papers, side)()
    wrap = context.wrap_bio

    def wrap_bio(*args, **options):
        return Proxy(wrap(*args, **options))

    context.wrap_bio = wrap_bio
    return context


WAYS = [
    of_the_instance,
    *map(of_a_class, (WithAClass, Reclasses, Patches, Wraps)),
    patched_alone,
]


@pytest.fixture(params=["default", "adopt", "portable"])
def wish(request, monkeypatch):
    """Each value of PYMUX_TLS, and none."""
    monkeypatch.delenv("PYMUX_TLS", raising=False)
    if request.param != "default":
        monkeypatch.setenv("PYMUX_TLS", request.param)
    with inside.tls_chosen_again(monkeypatch):
        yield request.param


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request):
    """Each way by which a check in Python gets into an object."""
    return request.param


def is_refused(server, handler, papers):
    """Assert that a peer that has been refused in Python was not let in."""
    with secure(server.address, papers.client()) as peer:
        with contextlib.suppress(OSError):
            peer.sendall(b"secret")
            assert not peer.recv(1)
        wait_until(lambda: server.stats().tls_failed == 1)
    stats = server.stats()
    assert (stats.tls_handshakes, stats.messages_in) == (0, 0)
    assert handler.open == handler.ended == []


@pytest.mark.usefixtures("wish")
def test_no_handler_sees_a_client_that_is_refused_in_python(way, papers):
    handler = util.Ends()
    with serving(handler, ssl=way(papers, "server")) as server:
        is_refused(server, handler, papers)


@pytest.mark.usefixtures("wish")
def test_a_context_that_is_renewed_is_checked_too(way, papers):
    handler = util.Ends()
    with serving(handler, ssl=papers.server()) as server:
        server.ssl = way(papers, "server")
        is_refused(server, handler, papers)


def by_client(address, context):
    pymux.connect(("localhost", address[1]), ssl=context, timeout=10)


def by_mux(address, context):
    with pymux.Mux() as mux:
        conn = mux.connect(("localhost", address[1]), ssl=context, timeout=10)
        conn.send(b"secret")
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.opened == []
        raise acc.error(conn)


def by_task(address, context):
    async def main():
        await pymux.aio.connect(("localhost", address[1]), ssl=context, timeout=10)

    asyncio.run(main())


def by_dial(address, context):
    caught = []

    async def handler(conn):
        try:
            await pymux.dial(("localhost", address[1]), ssl=context, timeout=10)
        except OSError as error:
            caught.append(error)

    with serving(handler) as server:
        util.everything(server.address, b"")
    raise caught[0]


CALLS = [by_client, by_mux, by_dial] + ([] if util.NO_GUESTS else [by_task])


@pytest.mark.usefixtures("wish")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_server_that_is_refused_in_python_gets_nothing(way, call, papers):
    with (
        tls_peer(papers.server()) as peer,
        pytest.raises(ssl.SSLCertVerificationError, match="the pin does not"),
    ):
        call(peer.address, way(papers, "client"))
    assert peer.names == ["localhost"]


@pytest.mark.usefixtures("wish")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_server_that_truststore_refuses_gets_nothing(call, papers):
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with (
        tls_peer(papers.server()) as peer,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        call(peer.address, context)
    assert peer.names == ["localhost"]


class OfTheUsers(ssl.SSLError):
    """An error whose class takes one argument."""

    def __init__(self, pin):
        super().__init__(f"{pin} is no pin of ours")


class RaisesIt(ssl.SSLObject):
    def do_handshake(self):
        super().do_handshake()
        raise OfTheUsers("0815")


@pytest.mark.usefixtures("wish")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_an_error_of_the_users_comes_out_as_it_is(call, papers):
    context = set_all(papers.client(), {"sslobject_class": RaisesIt})
    with (
        tls_peer(papers.server()) as peer,
        pytest.raises(OfTheUsers, match="0815 is no pin of ours"),
    ):
        call(peer.address, context)


class Remembers(ssl.SSLContext):
    """A context with a `wrap_bio` that does nothing else."""

    def wrap_bio(self, incoming, outgoing, *args, **options):
        self.seen = [*getattr(self, "seen", []), incoming]
        return super().wrap_bio(incoming, outgoing, *args, **options)


@pytest.mark.usefixtures("wish")
def test_a_wrap_bio_of_the_users_is_called_once_a_connection(papers):
    # It may give another object than it has made last: that is never adopted.
    context = of_a_class(Remembers)(papers, "server")
    with serving(lambda conn, data: data, ssl=context) as server:
        for _ in range(3):
            with secure(server.address, papers.client()) as peer:
                peer.sendall(b"x")
                assert peer.recv(1) == b"x"
    assert len(set(map(id, context.seen))) == 3
