"""What may be given as `ssl=`, `server_hostname=` and `require_close_notify=`, and to
which addresses. Nothing here opens a connection."""

import asyncio
import pickle
import socket
import ssl
import subprocess
import sys

import pytest

import pymux
import pymux.aio

from .inside import connect_settings, listen_settings

HERE = ("127.0.0.1", 0)
SERVER = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CLIENT = ssl.create_default_context()
UNCHECKED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
UNCHECKED.check_hostname = False
with pytest.warns(DeprecationWarning):
    BOTH = ssl.SSLContext(ssl.PROTOCOL_TLS)  # of either side


def refusal(error, call, *args, **options):
    """The text of the error that a call raises."""
    with pytest.raises(error) as info:
        call(*args, **options)
    return str(info.value)


def listens(where, **options):
    """What a call that listens makes of its one address."""
    (settings,) = listen_settings(where, **options)
    return settings


@pytest.fixture
def listening():
    """A listening socket of the standard library's."""
    with socket.create_server(HERE) as sock:
        yield sock


# -- which contexts ----------------------------------------------------------------


def nothing(conn, data):
    """A handler that is never called."""


async def aio_connect(**options):
    await pymux.aio.connect(("localhost", 1), **options)


LISTEN = {
    "Mux.listen": lambda mux, **options: mux.listen(HERE, **options),
    "Server": lambda mux, **options: pymux.Server(nothing, HERE, **options),
    "serve": lambda mux, **options: pymux.serve(nothing, HERE, **options),
    "aio.serve": lambda mux, **options: pymux.aio.serve(nothing, HERE, **options),
}
CONNECT = {
    "Mux.connect": lambda mux, **options: mux.connect(("localhost", 1), **options),
    "connect": lambda mux, **options: pymux.connect(("localhost", 1), **options),
    "aio.connect": lambda mux, **options: asyncio.run(aio_connect(**options)),
    "dial": lambda mux, **options: pymux.dial(("localhost", 1), **options),
}
CALLS = LISTEN | CONNECT


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("value", [False, 1, "cert.pem", ssl, ssl.SSLContext])
def test_what_is_no_context_is_a_type_error(mux, call, value):
    text = refusal(TypeError, call, mux, ssl=value)
    assert text.startswith(f"ssl is {value!r}"[:60])
    assert "ssl.SSLContext" in text


@pytest.mark.parametrize("call", LISTEN.values(), ids=LISTEN)
def test_a_call_that_listens_takes_a_context_alone(mux, call):
    text = refusal(TypeError, call, mux, ssl=True)
    assert text == (
        "ssl is True; to listen, an ssl.SSLContext with a certificate is needed"
    )


@pytest.mark.parametrize("call", LISTEN.values(), ids=LISTEN)
def test_a_clients_context_cannot_listen(mux, call):
    text = refusal(ValueError, call, mux, ssl=CLIENT)
    assert text == (
        "ssl is a context for a client, and this call listens; an "
        "ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) is needed"
    )


@pytest.mark.parametrize("call", CONNECT.values(), ids=CONNECT)
def test_a_servers_context_cannot_connect(mux, call):
    text = refusal(ValueError, call, mux, ssl=SERVER)
    assert text == (
        "ssl is a context for a server, and this call connects; an "
        "ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) is needed"
    )


def test_no_certificate_is_left_unchecked_by_false():
    assert "only a context of yours" in refusal(
        TypeError, pymux.Endpoint, HERE, ssl=0 > 1
    )


def test_a_context_of_either_side_is_taken_by_both():
    assert listens(HERE, ssl=BOTH).ssl is BOTH
    assert connect_settings(("localhost", 1), ssl=BOTH).ssl is BOTH


def test_a_subclass_of_a_context_is_a_context():
    class Context(ssl.SSLContext):
        pass

    context = Context(ssl.PROTOCOL_TLS_SERVER)
    assert listens(HERE, ssl=context).ssl is context


def test_true_is_one_context_that_verifies_certificates_and_names():
    one, other = (connect_settings(("localhost", 1), ssl=True).ssl for _ in "12")
    assert one is other
    assert isinstance(one, ssl.SSLContext)
    assert one.verify_mode is ssl.CERT_REQUIRED
    assert one.check_hostname


def test_no_ssl_is_plain_text():
    for settings in listens(HERE), connect_settings(HERE):
        assert settings.ssl is settings.server_hostname is None
        assert settings.require_close_notify is True


def test_an_import_of_pymux_loads_no_ssl():
    """Most programs need none, and some Pythons have none."""
    text = (
        "import sys, pymux, pymux.aio, pymux.cli.main\n"
        "pymux.Endpoint(('localhost', 1)), pymux.Mux().listen(('127.0.0.1', 0))\n"
        "import asyncio\n"
        "del sys.modules['ssl']\n"  # asyncio itself has loaded it
        "pymux.Mux().listen(('127.0.0.1', 0)).close()\n"
        "sys.exit('ssl' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", text], check=True)


WITHOUT_SSL = """
import sys

sys.modules["ssl"] = sys.modules["_ssl"] = None  # an import raises ImportError
import pymux

try:
    pymux.connect(("localhost", 1), ssl=True)
except pymux.BackendUnavailable as error:
    assert "without the ssl module" in str(error), error
else:
    raise AssertionError("nothing was raised")
try:
    pymux.connect(("localhost", 1), ssl=object())
except TypeError as error:
    assert "ssl is <object" in str(error), error
else:
    raise AssertionError("nothing was raised")
with pymux.Server(lambda conn, data: data, ("127.0.0.1", 0)) as server:
    with pymux.connect(server.address) as client:
        client.send(b"hello")
        assert client.recv(10) == b"hello"
"""


def test_a_python_without_ssl_says_so_and_serves_plain_text():
    subprocess.run([sys.executable, "-c", WITHOUT_SSL], check=True)


# -- where a context comes from ----------------------------------------------------


def test_the_context_of_an_endpoint_wins_over_that_of_the_call():
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    first, second = listen_settings([pymux.Endpoint(HERE, ssl=other), HERE], ssl=SERVER)
    assert first.ssl is other
    assert second.ssl is SERVER
    mine = pymux.Endpoint(("localhost", 1), ssl=UNCHECKED)
    assert connect_settings(mine, ssl=True).ssl is UNCHECKED


@pytest.mark.parametrize("where", [HERE, "/run/x", "unix:///run/x", "tls://:80"])
def test_an_address_to_listen_on_takes_a_context(where):
    assert listens(where, ssl=SERVER).ssl is SERVER
    assert listens(pymux.Endpoint(where, ssl=SERVER)).ssl is SERVER


def test_a_listening_socket_takes_a_context(listening):
    assert listens(listening, ssl=SERVER).ssl is SERVER
    assert listens(pymux.Endpoint(listening, ssl=SERVER)).ssl is SERVER
    end = pymux.Endpoint(listening, ssl=CLIENT)
    assert "for a client" in refusal(ValueError, listen_settings, end)


def test_a_socket_that_wraps_another_in_tls_is_refused(listening):
    with SERVER.wrap_socket(listening.dup(), server_side=True) as secure:
        text = refusal(ValueError, listen_settings, secure)
    assert text.endswith("give the socket that it wraps, and its context as ssl=")


def test_a_tls_url_means_true_to_connect():
    settings = connect_settings("tls://example.org:443")
    assert settings.ssl is connect_settings(("localhost", 1), ssl=True).ssl
    assert settings.address == ("example.org", 443)
    mine = connect_settings("tls://example.org:443", ssl=CLIENT)
    assert mine.ssl is CLIENT


def test_a_tls_url_needs_a_context_to_listen():
    text = refusal(ValueError, listen_settings, "tls://localhost:8443")
    assert text == (
        "address 'tls://localhost:8443' means TLS, and ssl is None; to listen, an "
        "ssl.SSLContext with a certificate is needed"
    )
    end = pymux.Endpoint("tls://localhost:8443")
    assert refusal(ValueError, listen_settings, end) == text
    assert listens(end, ssl=SERVER).address == ("localhost", 8443)


@pytest.mark.parametrize("url", ["tcp://localhost:80", "ws://localhost:80"])
def test_a_scheme_that_means_plain_text_is_refused_with_tls(url):
    for context, call in (SERVER, listen_settings), (True, connect_settings):
        end = pymux.Endpoint(url, ssl=context)
        assert "means plain text" in refusal(ValueError, call, end)
        assert "means plain text" in refusal(ValueError, call, url, ssl=context)


def test_a_scheme_over_tls_may_be_one_that_is_not_served_yet():
    for call in listen_settings, connect_settings:
        text = refusal(ValueError, call, "wss://localhost:80/chat")
        assert text.endswith("it serves tcp://, tls:// and unix://")


# -- the name ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (("example.org", 443), "example.org"),
        (("example.org.", 443), "example.org"),
        (("LOCALHOST", 443), "LOCALHOST"),
        (("127.0.0.1", 443), "127.0.0.1"),
        (("::1", 443), "::1"),
        (("fe80::1%eth0", 443), "fe80::1"),
        (("fe80::1", 443, 0, 3), "fe80::1"),
        (("müller.example", 443), "müller.example"),
        ("tls://example.org:443", "example.org"),
        ("tls://[fe80::1%25eth0]:443", "fe80::1"),
        (pymux.Endpoint(("example.org", 443)), "example.org"),
    ],
)
def test_the_name_is_the_host_as_given(where, name):
    assert connect_settings(where, ssl=CLIENT).server_hostname == name


def test_a_name_is_given_by_the_endpoint_else_by_the_call():
    end = pymux.Endpoint(HERE, ssl=True, server_hostname="one.example")
    assert connect_settings(end).server_hostname == "one.example"
    two = connect_settings(end, server_hostname="two.example")
    assert two.server_hostname == "one.example"
    call = connect_settings(HERE, ssl=True, server_hostname="two.example")
    assert call.server_hostname == "two.example"


@pytest.mark.parametrize("where", ["/run/x", "unix:///run/x", "unix://@x"])
def test_a_path_has_no_name_to_check(where):
    if "@" in where and not sys.platform.startswith("linux"):
        pytest.skip("Linux has abstract names")
    text = refusal(ValueError, connect_settings, where, ssl=True)
    assert text.startswith("server_hostname is None, and the certificate is to be")
    assert text.endswith("a name is needed")
    named = connect_settings(where, ssl=True, server_hostname="app.example")
    assert named.server_hostname == "app.example"
    assert connect_settings(where, ssl=UNCHECKED).server_hostname is None


@pytest.mark.parametrize("call", CONNECT.values(), ids=CONNECT)
@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (b"a", TypeError, "server_hostname is b'a'; a str or None"),
        (7, TypeError, "server_hostname is 7"),
        ("", ValueError, "server_hostname is ''"),
        (".example", ValueError, "it begins with a dot"),
        ("a\0b", ValueError, "it holds a NUL"),
        ("ü" * 64 + ".example", ValueError, "label"),
    ],
)
def test_what_is_no_name_is_refused(mux, call, name, error, words):
    assert words in refusal(error, call, mux, ssl=True, server_hostname=name)


def test_a_host_that_no_certificate_has_is_refused():
    text = refusal(ValueError, connect_settings, (".example", 443), ssl=True)
    assert text == (
        "the host is '.example', which no certificate has: it begins with a dot"
    )


# -- options of TLS without TLS ----------------------------------------------------


@pytest.mark.parametrize("call", CONNECT.values(), ids=CONNECT)
def test_a_name_is_refused_without_tls(mux, call):
    text = refusal(ValueError, call, mux, server_hostname="example.org")
    assert text == (
        "server_hostname is 'example.org', which cannot apply here: only TLS has it, "
        "and ssl is None"
    )


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_end_without_close_notify_is_only_spoken_of_with_tls(mux, call):
    text = refusal(ValueError, call, mux, require_close_notify=False)
    assert text.startswith("require_close_notify is False, which cannot apply here")


def test_an_endpoint_of_plain_text_has_no_option_of_tls():
    end = pymux.Endpoint(HERE, require_close_notify=False)
    for call in listen_settings, connect_settings:
        assert "ssl is None" in refusal(ValueError, call, end)
    end = pymux.Endpoint(HERE, server_hostname="example.org")
    assert "ssl is None" in refusal(ValueError, connect_settings, end)


def test_a_name_is_refused_by_a_call_that_listens():
    end = pymux.Endpoint(HERE, ssl=SERVER, server_hostname="example.org")
    assert "a call that listens" in refusal(ValueError, listen_settings, end)


def test_an_end_without_close_notify_is_an_error_unless_the_call_or_endpoint_says_so():
    assert listens(HERE, ssl=SERVER).require_close_notify is True
    lax = {"require_close_notify": False}
    assert listens(HERE, ssl=SERVER, **lax).require_close_notify is False
    assert connect_settings(HERE, ssl=True, **lax).require_close_notify is False
    end = pymux.Endpoint(HERE, ssl=SERVER, **lax)
    assert listens(end).require_close_notify is False
    strict = pymux.Endpoint(HERE, ssl=SERVER)
    assert listens(strict, **lax).require_close_notify is True
    silent = pymux.Endpoint(HERE, ssl=SERVER, require_close_notify=None)
    assert listens(silent, **lax).require_close_notify is False


def test_what_the_call_says_of_tls_is_for_the_addresses_that_have_it(listening):
    plain, secure = listen_settings(
        [HERE, pymux.Endpoint(listening, ssl=SERVER, require_close_notify=None)],
        require_close_notify=False,
    )
    assert (plain.ssl, secure.ssl) == (None, SERVER)
    assert secure.require_close_notify is False


# -- errors ------------------------------------------------------------------------


def test_the_error_of_a_handshake_names_the_address_and_keeps_its_reason():
    settings = connect_settings(("localhost", 443), ssl=True)
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 18, "self-signed certificate"
    named = settings.not_connected(error)
    assert type(named) is ssl.SSLCertVerificationError
    assert str(named) == "localhost:443: certificate verify failed"
    assert named.filename == "localhost:443"
    assert (named.errno, named.verify_code) == (1, 18)
    assert named.verify_message == "self-signed certificate"


def test_an_endpoint_with_a_context_is_no_more_pickled_than_the_context():
    if sys.implementation.name == "cpython":  # PyPy's contexts can be pickled
        with pytest.raises(TypeError, match="SSLContext"):
            pickle.dumps(pymux.Endpoint(HERE, ssl=SERVER))
    end = pymux.Endpoint(HERE, ssl=True)
    assert pickle.loads(pickle.dumps(end)) == end
