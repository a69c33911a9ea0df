"""Twisted: its protocols, its line receiver, its reactor's default."""

from common import HOST, announce, arguments
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.basic import LineOnlyReceiver

args = arguments(backlog=50)  # what listenTCP does by itself


class Backpressure:
    """Reads no more while the peer does not: the transport's own producer."""

    def connectionMade(self):
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self.transport, True)

    def connectionLost(self, reason):
        self.transport.unregisterProducer()


class Raw(Backpressure, Protocol):
    def dataReceived(self, data):
        self.transport.write(data.upper())


class Echo(Backpressure, Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


class Lines(Backpressure, LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 65536

    def lineReceived(self, line):
        self.sendLine(line.upper())


PROTOCOLS = {"upper": Raw, "echo": Echo}
factory = Factory.forProtocol(
    Lines if args.framing == "lines" else PROTOCOLS[args.payload]
)
factory.noisy = False
port = reactor.listenTCP(args.port, factory, backlog=args.backlog, interface=HOST)
announce((HOST, port.getHost().port))
reactor.run(installSignalHandlers=False)
