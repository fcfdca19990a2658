"""A TCP server on this machine that plays faults: each play is one exchange, in plain HTTP or over TLS.

A server goes through its plays, one per exchange, and stays with the last. A play sees its end of the connection and
does to it what it likes; what it leaves open serves the next exchange. Everything that was sent is remembered.
"""

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from select import select
from threading import Event, Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Received:
    """One request as it came in; header names in lower case, each value that was sent."""

    method: str
    path: str
    headers: dict[str, list[str]]
    body: bytes


class Gone(Exception):
    """The other side has closed, or the server is to stop."""


class Peer:
    """The server's end of one connection. TLS begins when the first byte is read or sent."""

    def __init__(self, connection: socket.socket, server: "FaultServer") -> None:
        self.raw = connection
        self.server = server
        self._is_shaken = server.tls is None
        self._buffer = b""

    def start_tls(self) -> None:
        if self.server.tls is not None and not self._is_shaken:
            self.raw = self.server.tls.wrap_socket(self.raw, server_side=True)
            self._is_shaken = True

    def receive(self) -> None:
        """Wait until there is something more to read."""
        self.start_tls()
        received = self.raw.recv(65536)
        if not received:
            raise Gone
        self.server.bytes_received += len(received)
        self._buffer += received

    def wait(self) -> None:
        """Wait for the first byte of a request, without taking it."""
        if not self._buffer:
            self.receive()

    def read_request(self) -> Received:
        """Read one request to its end, and remember it."""
        while b"\r\n\r\n" not in self._buffer:
            self.receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), []).append(value.strip())
        length = int(headers.get("content-length", ["0"])[0])
        while len(self._buffer) < length:
            self.receive()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        method, path, _ = first.split(" ")
        request = Received(method, path, headers, body)
        self.server.requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        self.start_tls()
        self.raw.sendall(data)

    def trickle(self, data: bytes, seconds: float = 0.04) -> None:
        """Send byte by byte, each before a reader's patience with a single read ends."""
        for position in range(len(data)):
            self.send(data[position : position + 1])
            self.pause(seconds)

    def pause(self, seconds: float) -> None:
        if self.server.stopped.wait(seconds):
            raise Gone

    def hang(self) -> None:
        """Say nothing more, and leave the connection open until the other side or the server ends it."""
        while True:
            self.receive()

    def close(self) -> None:
        with suppress(OSError):
            self.raw.shutdown(socket.SHUT_RDWR)
        self.raw.close()

    def reset(self) -> None:
        """Break the connection off with a TCP reset."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.raw.close()

    @property
    def is_closed(self) -> bool:
        return self.raw.fileno() < 0


Play = Callable[[Peer], None]


@dataclass
class FaultServer:
    """The server. Listens from the start unless told to be late; `with` ends it with all its threads.

    `holds` is how many bytes may wait for a play to read them; 0 leaves that to the system.
    """

    plays: Sequence[Play]
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    port: int = 0
    listens_after: float = 0.0
    holds: int = 0
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    bytes_received: int = 0
    stopped: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.holds:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.holds)
        self._listener.bind((self.host, self.port))
        self.port = self._listener.getsockname()[1]
        self._played = 0
        self._peers: list[Peer] = []
        if not self.listens_after:
            self._listener.listen()
        self._threads = [Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def __enter__(self) -> "FaultServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._threads[0].join(5)
        self._listener.close()
        for peer in self._peers:
            with suppress(OSError):
                peer.raw.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(5)

    def _accept(self) -> None:
        if self.listens_after:
            self.stopped.wait(self.listens_after)
            self._listener.listen()
        with suppress(OSError):
            while not self.stopped.is_set():
                connection, _ = self._listener.accept()
                self.connections += 1
                peer = Peer(connection, self)
                self._peers.append(peer)
                thread = Thread(target=self._serve, args=(peer,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, peer: Peer) -> None:
        try:
            self._next()(peer)
            while not peer.is_closed and not self.stopped.is_set():
                peer.wait()
                self._next()(peer)
        except (Gone, OSError):
            pass
        finally:
            peer.close()

    def _next(self) -> Play:
        play = self.plays[min(self._played, len(self.plays) - 1)]
        self._played += 1
        return play


def http(status: int, body: bytes = b"", *headers: str, length: int | None = None, version: str = "HTTP/1.1") -> bytes:
    """Write an answer out. `length` is the Content-Length told; -1 tells none."""
    told = len(body) if length is None else length
    lines = [f"{version} {status} whatever", *([f"Content-Length: {told}"] if told >= 0 else []), *headers]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body


def answers(status: int, body: bytes = b"", *headers: str) -> Play:
    """Read the request and answer it properly."""
    return says(http(status, body, *headers), keep=True)


def says(*parts: bytes, keep: bool = False) -> Play:
    """Read the request, send these bytes, and close the connection unless it is to be kept."""

    def play(peer: Peer) -> None:
        peer.read_request()
        for part in parts:
            peer.send(part)
        if not keep:
            peer.close()

    return play


def says_and_hangs(data: bytes) -> Play:
    """Read the request, send these bytes, and then nothing."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(data)
        peer.hang()

    return play


def trickles(data: bytes, before: bytes = b"") -> Play:
    """Read the request, send what stands before at once, and the rest byte by byte."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(before)
        peer.trickle(data)

    return play


def repeats(data: bytes, before: bytes = b"", every: float = 0.0) -> Play:
    """Read the request, and go on with the same for as long as anybody listens."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(before)
        while True:
            peer.send(data)
            peer.pause(every)

    return play


def resets_after_reading(peer: Peer) -> None:
    """Take the request, and break the connection off."""
    peer.read_request()
    peer.reset()


def resets_before_reading(peer: Peer) -> None:
    """Let the first bytes come in, and break the connection off without taking them."""
    select([peer.raw], [], [], 5)
    peer.reset()


def closes_after_reading(peer: Peer) -> None:
    """Take the request, and close the connection in good order."""
    peer.read_request()
    peer.close()


def reads_nothing(peer: Peer) -> None:
    """Leave the connection standing: no byte read, none sent, no handshake."""
    peer.server.stopped.wait(60)


def trickles_its_handshake(peer: Peer) -> None:
    """Begin a TLS record that comes byte by byte and does not end."""
    peer.raw.recv(65536)
    for byte in b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb\x03\x03" + bytes(4000):
        peer.raw.sendall(bytes([byte]))
        peer.pause(0.04)


def speaks_no_tls(peer: Peer) -> None:
    """Answer the handshake with something else."""
    peer.raw.recv(65536)
    peer.raw.sendall(http(400, b"this is not TLS"))
    peer.close()


def resets_in_handshake(peer: Peer) -> None:
    """Break off when the client has begun to shake hands."""
    peer.raw.recv(65536)
    peer.reset()


@contextmanager
def black_hole(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Give a port where connections are neither taken nor refused: its queue is full."""
    with ExitStack() as stack:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listener.getsockname()[:2])
        time.sleep(0.02)
        yield listener.getsockname()[1]


@contextmanager
def refusing_port() -> Iterator[int]:
    """Give a port that is taken but where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate with its key, made for one test run, and what to trust it with."""

    path: Path

    @classmethod
    def make(cls, path: Path, name: str = "127.0.0.1", valid_for: timedelta = timedelta(days=1)) -> "Certificate":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made for a test")])
        try:
            alternative: x509.GeneralName = x509.IPAddress(ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)  # signs, also certificates
        began = datetime.now(UTC) - timedelta(days=2)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(datetime.now(UTC) + valid_for)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        return cls(path)

    def serve(self) -> ssl.SSLContext:
        """Return the context of a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        return context

    def trust(self) -> ssl.SSLContext:
        """Return the context of a client that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.path))
