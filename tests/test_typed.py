"""What type checkers say of programs that use the package: mypy, and pyright (or
basedpyright) where one is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import pymux

# Each line that ends with `refused` has an error, and no other line.
PROGRAM = """\
import functools
import socket
import ssl
import sys
from pathlib import Path

import pymux
import pymux.aio
from pymux import Batch, Connection


def function(conn: Connection, data: bytes) -> bytes | None:
    return data


def silent(conn: Connection, data: bytes) -> None:
    pass


def parsed(conn: Connection, data: dict[str, int]) -> bytearray:
    return bytearray(data["size"])


def texts(conn: Connection, data: bytes) -> str:
    return data.decode()


def prefixed(prefix: bytes, conn: Connection, data: bytes) -> bytes:
    return prefix + data


async def coroutine(conn: Connection) -> None:
    async for data in conn:
        conn.send(data)


async def task(conn: pymux.aio.Connection) -> None:
    async with conn:
        await conn.wait_closed()


async def dialling(conn: Connection) -> None:
    await pymux.dial(("127.0.0.1", 8093), ssl=ssl.create_default_context())
    await pymux.dial(("127.0.0.1", 8093), ssl=3)  # refused


async def of_two(conn: Connection, data: bytes) -> None:
    pass


@pymux.batched
def batch(batch: Batch) -> None:
    batch.reply_data(bytes(batch.data).upper())


@pymux.batched(min_messages=2)
def gathered(batch: Batch) -> None:
    batch.reply(batch.messages)


@pymux.batched
def owed(batch: Batch) -> None:
    later: pymux.Later = batch.later()
    later.fail(ValueError("row 0"), 0)
    later.reply_data(bytes(batch.data), batch.offsets, mask=[True] * len(later))
    later.reply([str(id).encode() for id in later.ids.tolist()])
    later.reply(["text"])  # refused


class Called:
    def __call__(self, conn: Connection, data: bytes) -> bytes:
        return data


class Ends:
    def closed(self, conn: Connection, error: OSError | None) -> None:
        pass


class Batches:
    @pymux.batched
    def received(self, batch: Batch) -> None:
        pass


class Rows(Ends):
    def received(self, conn: Connection, data: bytes) -> bytes:
        return data


class Misspelt:
    def recieved(self, conn: Connection, data: bytes) -> bytes:
        return data


def start(handler: pymux.Handler, at: pymux.Address, cut: pymux.Framing | None) -> None:
    pymux.serve(handler, at, framing=cut)
    pymux.Server(handler, [at], framing=cut)
    pymux.aio.serve(handler, at, framing=cut)
    pymux.Server(None, pymux.Endpoint(at, handler=handler, framing=cut))
    with pymux.Mux() as mux:
        mux.listen(at, handler=handler, framing=cut)
        mux.connect(at, handler=handler, framing=cut)
        mux.adopt(socket.socket(), handler=handler, framing=cut)
        mux.adopt(sys.stdin.buffer, handler=handler, framing=cut)


start(function, ("127.0.0.1", 8093), None)
start(silent, ("::1", 8093, 0, 0), pymux.Raw())
start(parsed, "/run/app.sock", pymux.Lines())
start(functools.partial(prefixed, b"> "), Path("/run/app.sock"), pymux.Varint())
start(coroutine, "tcp://127.0.0.1:8093", pymux.Fixed(3))
start(batch, "unix:///run/app.sock", pymux.LengthPrefix())
start(gathered, "/run/app.sock", pymux.Scanner(7))
start(pymux.batched(lambda batch: batch.reply(batch.messages)), "/x", None)
for handler in (Called(), Ends(), Batches(), Rows()):
    pymux.Server(handler)
pymux.serve(lambda conn, data: data.upper())
pymux.aio.serve(task)
pymux.aio.serve(coroutine)
pymux.aio.serve(Rows())

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
pymux.serve(function, ssl=context, require_close_notify=False)
pymux.aio.serve(task, ssl=context)
pymux.Server(function).ssl = context
pymux.Mux().listen(("", 8443), ssl=context).ssl = context
pymux.connect("tls://localhost:8443", ssl=True, server_hostname="example.org")

pymux.serve(function, ssl=True)  # refused
pymux.Server(function).ssl = "cert.pem"  # refused
pymux.connect(("127.0.0.1", 8443), ssl="ca.pem")  # refused
pymux.serve(function, framming=3)  # refused
pymux.serve(function, framing=3)  # refused
pymux.serve(function, ("127.0.0.1", "8093"))  # refused
pymux.Server(function, limitts=pymux.Limits())  # refused
pymux.Server(function, on_error=print, spin="fast")  # refused
pymux.aio.serve(function, framming=3)  # refused
pymux.aio.serve(function, spin=0.1)  # refused
pymux.connect(("127.0.0.1", 8093), framming=3)  # refused
pymux.Endpoint("/run/app.sock", handler=3)  # refused
pymux.Mux().listen("/run/app.sock", handler=texts)  # refused
pymux.Mux().adopt(socket.socket(), handler=texts)  # refused
pymux.Mux().adopt(3)  # refused
pymux.Mux().adopt(sys.stdin)  # refused
pymux.serve(texts)  # refused
pymux.serve(of_two)  # refused
pymux.serve(task)  # refused
pymux.serve(Misspelt())  # refused
pymux.serve(Rows)  # refused
pymux.serve(3)  # refused


@pymux.batched  # refused
def returning(batch: Batch) -> list[bytes]:
    return batch.messages
"""
LINES = PROGRAM.splitlines()
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
REFUSED = [number for number, line in enumerate(LINES, 1) if line.endswith("refused")]


def by_mypy(paths, folder):
    """[(path, line, text)] of what mypy says of programs; it may write in a folder."""
    api = pytest.importorskip("mypy.api")
    settings = ["--strict", "--cache-dir", str(folder / "cache"), "--no-color-output"]
    settings += ["--disable-error-code=import-not-found"]
    settings += ["--disable-error-code=import-untyped"]
    out, errors, _ = api.run([*settings, *map(str, paths)])
    assert errors == ""
    found = re.findall(r"^(.*\.py):(\d+): error: (.*)$", out, re.M)
    assert found or "Success" in out, out
    return [(Path(path), int(line), text) for path, line, text in found]


def pyright(*arguments, **options):
    """What pyright says as JSON, read."""
    command = shutil.which("basedpyright") or shutil.which("pyright")
    if command is None:
        pytest.skip("neither basedpyright nor pyright is installed")
    done = subprocess.run(
        [command, "--outputjson", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        **options,
    )
    return json.loads(done.stdout)


def by_pyright(paths, folder):
    """The same of pyright."""
    settings = {
        "include": [str(path) for path in paths],
        "extraPaths": [str(Path(pymux.__file__).parents[1])],
        "typeCheckingMode": "standard",
        "reportMissingImports": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    said = pyright("--pythonpath", sys.executable, "-p", folder)
    assert said["summary"]["filesAnalyzed"] >= len(paths)
    return [
        (Path(one["file"]), one["range"]["start"]["line"] + 1, one["message"])
        for one in said["generalDiagnostics"]
        if one["severity"] == "error"
    ]


CHECKERS = {"mypy": by_mypy, "pyright": by_pyright}


@pytest.fixture(scope="module", params=CHECKERS)
def said(request, tmp_path_factory):
    """{line: what a type checker says} of the program."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "program.py").write_text(PROGRAM)
    found = CHECKERS[request.param]([folder / "program.py"], folder)
    return {line: text for _, line, text in found}


@pytest.mark.timeout(240)
def test_a_type_checker_finds_each_mistake_and_nothing_else(said):
    assert sorted(said) == REFUSED, said


@pytest.mark.timeout(240)
def test_a_misspelt_option_is_named(said):
    line = LINES.index("pymux.serve(function, framming=3)  # refused") + 1
    assert "framming" in said[line]


@pytest.mark.skipif(not EXAMPLES, reason="not a checkout: no examples")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_finds_nothing_in_the_examples(tmp_path, checker):
    assert CHECKERS[checker](EXAMPLES, tmp_path) == []


@pytest.mark.timeout(240)
def test_every_type_of_the_package_is_known(tmp_path):
    venv.create(tmp_path, symlinks=True)
    (site,) = tmp_path.glob("lib/*/site-packages")
    (site / "pymux").symlink_to(Path(pymux.__file__).parent)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    said = pyright(
        *("--verifytypes", "pymux", "--ignoreexternal"),
        env=os.environ | {"PATH": path, "VIRTUAL_ENV": str(tmp_path)},
        cwd=tmp_path,
    )["typeCompleteness"]
    missing = [
        (one["name"], part["message"])
        for one in said["symbols"]
        for part in one["diagnostics"]
        # One that is not known makes all that hold it partially so.
        if part["severity"] == "error" and "partially" not in part["message"]
    ]
    assert missing == []
    assert said["completenessScore"] == 1
