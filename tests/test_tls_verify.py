"""Whom TLS refuses: nothing that is sent before reaches the peer's handler, and the
error says what is wrong with its certificate."""

import ssl
import threading

import pytest
import truststore

from . import util
from .tls import NAME, Papers, accept, secure, set_all
from .util import harvest_until, serving, wait_until

pytestmark = pytest.mark.usefixtures("secured_by")


@pytest.fixture(scope="module")
def stranger():
    """Another authority, which nobody trusts."""
    return Papers()


def self_signed():
    """A server's context whose certificate is an authority's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = Papers().ca
    with (
        authority.cert_pem.tempfile() as certificate,
        authority.private_key_pem.tempfile() as key,
    ):
        context.load_cert_chain(certificate, key)
    return context


class Caller:
    """A mux that connects, to a server that must not get anything from it."""

    def __init__(self, mux):
        self.mux = mux
        self.got = []

    def error(self, ours, theirs, name=NAME, server_fails=True):
        """The error of a connection by `theirs` to a server with `ours`."""

        def note(conn, data):
            self.got.append(data)

        with serving(note, ssl=ours) as server:
            conn = self.mux.connect(server.address, ssl=theirs, server_hostname=name)
            conn.send(b"secret")
            acc = harvest_until(self.mux, lambda acc: acc.is_closed(conn))
            wait_until(lambda: server.stats().connections == 0)
            assert server.stats().tls_failed == server_fails
        assert acc.opened == []
        assert self.got == []
        assert self.mux.stats().tls_failed == 1
        return acc.error(conn)


@pytest.fixture
def caller(mux):
    return Caller(mux)


def assert_refused(error, code, text):
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert isinstance(error, OSError)
    assert (error.reason, error.library) == ("CERTIFICATE_VERIFY_FAILED", "SSL")
    assert error.verify_code == code
    assert text in error.verify_message
    assert error.verify_message in str(error)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)


def test_a_wrong_name_is_refused(caller, papers):
    ours = papers.server(papers.certificate("other.example"))
    error = caller.error(ours, papers.client(), "right.example")
    assert_refused(error, 62, "certificate is not valid for 'right.example'")


def test_a_wrong_address_is_refused(caller, papers):
    ours = papers.server(papers.certificate("127.0.0.2"))
    error = caller.error(ours, papers.client(), "127.0.0.1")
    assert_refused(error, 64, "certificate is not valid for '127.0.0.1'")


def test_an_expired_certificate_is_refused(caller, papers):
    error = caller.error(papers.server(papers.expired()), papers.client())
    assert_refused(error, 10, "certificate has expired")


def test_a_self_signed_certificate_is_refused(caller, papers):
    error = caller.error(self_signed(), papers.client())
    assert_refused(error, 18, "self-signed certificate")


def test_an_unknown_authority_is_refused(caller, papers, stranger):
    error = caller.error(stranger.server(), papers.client())
    assert_refused(error, 20, "unable to get local issuer certificate")


def test_the_default_context_trusts_no_stranger(caller, stranger):
    error = caller.error(stranger.server(), True)
    assert isinstance(error, ssl.SSLCertVerificationError)


def test_a_context_that_verifies_nothing_takes_everybody(mux, stranger, papers):
    theirs = papers.client(check_hostname=False, verify_mode=ssl.CERT_NONE)
    with serving(lambda conn, data: data, ssl=stranger.server()) as server:
        conn = mux.connect(server.address, ssl=theirs, server_hostname=NAME)
        conn.send(b"hello")
        acc = harvest_until(mux, lambda acc: acc.messages)
        assert acc.payloads == [b"hello"]
        assert conn.tls.peer_certificate() == {}
        assert conn.tls.peer_certificate(True)[:1] == b"\x30"


def test_the_peer_that_refuses_us_is_not_heard_of(papers, mux):
    with util.listening() as listener:
        theirs = Papers().server()
        thread = threading.Thread(target=refused_server, args=(listener, theirs))
        thread.start()
        conn = mux.connect(
            listener.getsockname(), ssl=papers.client(), server_hostname=NAME
        )
        harvest_until(mux, lambda acc: acc.is_closed(conn))
        thread.join()


def refused_server(listener, context):
    with pytest.raises(ssl.SSLError) as caught:
        accept(listener, context)
    assert "UNKNOWN_CA" in caught.value.reason


# --- no version, no cipher -----------------------------------------------------------


def test_without_a_common_version_the_alert_is_the_error(caller, papers):
    ours = papers.server(minimum_version=ssl.TLSVersion.TLSv1_3)
    theirs = papers.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    error = caller.error(ours, theirs)
    assert type(error) is ssl.SSLError
    assert error.library == "SSL"
    assert error.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


# --- certificates of clients ---------------------------------------------------------


@pytest.fixture
def demanding(papers):
    """A server's context that wants a certificate of each client."""
    context = papers.server(verify_mode=ssl.CERT_REQUIRED)
    papers.ca.configure_trust(context)
    return context


def test_a_client_shows_its_certificate(demanding, papers, backend):
    seen = []

    def handler(conn, data):
        seen.append(conn.tls)
        return data

    theirs = papers.client()
    papers.certificate("client.example").configure_cert(theirs)
    with (
        serving(handler, backend, ssl=demanding) as server,
        secure(server.address, theirs) as peer,
    ):
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
    (view,) = seen
    names = view.peer_certificate()["subjectAltName"]
    assert names == (("DNS", "client.example"),)
    assert ssl.DER_cert_to_PEM_cert(view.peer_certificate(binary=True))


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_no_handler_sees_a_client_without_a_certificate(version, demanding, papers):
    handler = util.Ends()
    theirs = papers.client(maximum_version=ssl.TLSVersion[version])
    with serving(handler, ssl=demanding) as server:
        with pytest.raises(ssl.SSLError), secure(server.address, theirs) as peer:
            peer.sendall(b"secret")  # from TLS 1.3 on the client learns of it late
            peer.recv(1)
        wait_until(lambda: server.stats().tls_failed == 1)
        assert server.stats().tls_handshakes == 0
        assert server.stats().messages_in == 0
    assert handler.open == []


def test_our_client_certificate_is_shown(mux, demanding, papers):
    theirs = papers.client()
    papers.certificate("client.example").configure_cert(theirs)
    with serving(lambda conn, data: data, ssl=demanding) as server:
        conn = mux.connect(server.address, ssl=theirs, server_hostname=NAME)
        conn.send(b"hello")
        assert harvest_until(mux, lambda acc: acc.messages).payloads == [b"hello"]


# --- the check of the class ----------------------------------------------------------


class Refuses(ssl.SSLObject):
    """An object of a user's, which verifies its peer in Python."""

    def do_handshake(self):
        super().do_handshake()
        raise ssl.SSLCertVerificationError("the pin does not match")


class Agrees(ssl.SSLObject):
    """The same, of which every peer is right."""

    shaken = 0

    def do_handshake(self):
        super().do_handshake()
        type(self).shaken += 1


def test_what_a_subclass_refuses_reaches_no_handler(papers, backend):
    handler = util.Ends()
    ours = papers.server(sslobject_class=Refuses)
    with serving(handler, backend, ssl=ours) as server:
        with secure(server.address, papers.client()) as peer:
            peer.sendall(b"secret")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                peer.recv(1)
        wait_until(lambda: server.stats().tls_failed == 1)
        assert server.stats().tls_handshakes == 0
        assert server.stats().messages_in == 0
    assert handler.open == []


def test_what_a_subclass_refuses_is_the_error_of_a_connect(mux, papers):
    theirs = set_all(papers.client(), {"sslobject_class": Refuses})
    # its peer has seen the whole handshake by then
    error = Caller(mux).error(papers.server(), theirs, server_fails=False)
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert "the pin does not match" in str(error)


def test_the_methods_of_a_subclass_are_called(mux, papers):
    theirs = set_all(papers.client(), {"sslobject_class": Agrees})
    before = Agrees.shaken
    with serving(lambda conn, data: data, ssl=papers.server()) as server:
        conn = mux.connect(server.address, ssl=theirs, server_hostname=NAME)
        conn.send(b"hello")
        assert harvest_until(mux, lambda acc: acc.messages).payloads == [b"hello"]
    assert Agrees.shaken == before + 1


def test_what_truststore_refuses_reaches_nobody(caller, papers):
    theirs = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    error = caller.error(papers.server(), theirs)
    assert isinstance(error, ssl.SSLCertVerificationError)


class Raises(ssl.SSLContext):
    """A context of a user's that makes no object."""

    def wrap_bio(self, *args, **options):
        raise KeyError("no object today")


def test_a_context_that_makes_no_object_ends_the_connection_with_the_cause(mux, papers):
    theirs = Raises(ssl.PROTOCOL_TLS_CLIENT)
    with util.listening() as listener:
        conn = mux.connect(listener.getsockname(), ssl=theirs, server_hostname=NAME)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    error = acc.error(conn)
    assert isinstance(error, OSError)
    assert repr(error.__cause__) == "KeyError('no object today')"


def test_a_server_whose_context_makes_no_object_goes_on(papers):
    ours = Raises(ssl.PROTOCOL_TLS_SERVER)
    with serving(lambda conn, data: data, ssl=ours) as server:
        for count in (1, 2):
            with util.connect(server.address) as peer:
                assert util.until_end(peer)[0] == b""
            wait_until(lambda count=count: server.stats().tls_failed == count)
