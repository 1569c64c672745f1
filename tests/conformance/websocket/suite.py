"""Autobahn's test suite for WebSockets: the side with the cases, and the side that is tested, each as client or server.

    suite.py cases                                 prints the numbers of all cases
    suite.py fuzz-server PORT OUT                  serves cases, as /NUMBER
    suite.py echo-client URL OUT CASES...          answers each of them
    suite.py echo-server PORT OUT                  echoes
    suite.py fuzz-client URL OUT CASES...          asks it the cases
    suite.py ... --at-once N                       of CASES

What happened in each case goes to the file OUT, a line of JSON as it ends. The side with the cases judges by the suite's
own rules; both say what frames came.
"""

import argparse
import hashlib
import json
import struct

import python2
from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
    connectWS,
)
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet import reactor

# The suite waits for one second in most cases, which a busy machine does not keep.
PATIENCE = 3
# Backstops of the protocol's own, seconds. The second is reached in case 6.4.4, after which the side that echoes cannot
# read the other one's Close any more.
BACKSTOPS = {"openHandshakeTimeout": 30, "closeHandshakeTimeout": 6}
CLOSE = 8
# So many frames of a connection are told one by one; all of them are in the digest.
TOLD = 20


class Recorded:
    """A connection that remembers which frames came, and says how it ended."""

    def begin(self, number, out):
        self.number = number
        self.out = out
        self.frames = []
        self.count = 0
        self.digest = hashlib.sha256()
        self.txFrameStats = {}

    def logRxFrame(self, header, payload):
        # What else comes once this side has failed the connection is read or not, as it comes in one piece or in more.
        # A Close is told by what it says.
        if self.failedByMe or header.opcode == CLOSE:
            return
        content = b"".join(payload)
        self.count += 1
        self.digest.update(struct.pack("!BBBQ", header.opcode, header.fin, header.rsv, len(content)))
        self.digest.update(content)
        if len(self.frames) < TOLD:
            self.frames.append([header.opcode, header.fin, header.rsv, len(content)])

    def logTxFrame(self, header, payload, repeat_length, chop_size, sync):
        self.txFrameStats[header.opcode] = self.txFrameStats.get(header.opcode, 0) + 1

    def echo(self, payload, isBinary):
        # What comes behind the end of a connection has nowhere to go.
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.sendMessage(payload, isBinary)

    def told(self):
        told = {"case": self.number, "count": self.count, "frames": self.frames, "digest": self.digest.hexdigest()}
        if self.failedByMe:
            return told | {"failed_with": self.localCloseCode}
        close = {"clean": self.wasClean} if self.closedByMe else {}
        return told | close | {"code": self.remoteCloseCode, "reason": self.remoteCloseReason}

    def end(self, told):
        self.out.write(json.dumps(told) + "\n")
        self.out.flush()


class Fuzzing(Recorded):
    """The side with a case: what the suite's cases call their protocol."""

    createWirelog = False
    connectionWasOpen = False

    def take(self, number, out):
        self.begin(number, out)
        # The only cases that take apart what they get.
        self.gets_bytes = number.startswith(("12.", "13."))
        self.run = CASES[number](self)

    def enableWirelog(self, _):
        pass

    def onOpen(self):
        self.connectionWasOpen = True
        self.run.onOpen()

    def onMessage(self, payload, isBinary):
        self.run.onMessage(payload if self.gets_bytes else python2.text(payload), isBinary)

    def onPong(self, payload):
        self.run.onPong(python2.text(payload))

    def onClose(self, wasClean, code, reason):
        self.run.onClose(wasClean, code, reason)

    def sendFrame(self, opcode, payload=b"", **others):
        super().sendFrame(opcode, python2.octets(payload), **others)

    def sendMessage(self, payload, isBinary=False, **others):
        if self.state == WebSocketProtocol.STATE_OPEN:
            super().sendMessage(python2.octets(payload), isBinary, **others)

    def sendMessageFrameData(self, payload, sync=False):
        return super().sendMessageFrameData(python2.octets(payload), sync)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        super().sendCloseFrame(code, reasonUtf8 and python2.octets(reasonUtf8), isReply)

    def continueLater(self, delay, then, tag=None):
        self.later(delay, then)

    def killAfter(self, delay):
        self.later(delay, self._fail_connection)

    def closeAfter(self, delay):
        self.later(delay, self.sendClose)

    def later(self, delay, then):
        reactor.callLater(delay * PATIENCE, lambda: self.state == WebSocketProtocol.STATE_CLOSED or then())

    def told(self):
        told = super().told()
        # A Close by which the other side fails the connection is lost if its TCP has not read all that was sent to it:
        # it resets the connection then. The suite has both for good.
        if not self.closedByMe:
            told.pop("code", None), told.pop("reason", None)
        return told | {"closed_by_me": self.closedByMe}

    def judged(self):
        self.run.onConnectionLost(self.failedByMe)
        received = [
            [hashlib.sha256(python2.octets(part)).hexdigest() if isinstance(part, (str, bytes)) else part for part in event]
            for event in self.run.received
        ]
        judgement = {"behavior": self.run.behavior, "close": self.run.behaviorClose, "received": received}
        reasons = {"result": self.run.result, "result_close": self.run.resultClose}
        self.end(self.told() | judgement | reasons)


class FuzzingClient(Fuzzing, WebSocketClientProtocol):
    def connectionLost(self, reason):
        WebSocketClientProtocol.connectionLost(self, reason)
        self.judged()


class FuzzingServer(Fuzzing, WebSocketServerProtocol):
    run = None

    def onClose(self, wasClean, code, reason):
        # A connection without a handshake looks whether somebody listens.
        if self.run:
            super().onClose(wasClean, code, reason)

    def onConnect(self, request):
        self.take(request.path.removeprefix("/"), self.factory.out)

    def connectionLost(self, reason):
        WebSocketServerProtocol.connectionLost(self, reason)
        if self.run:
            self.judged()


class EchoClient(Recorded, WebSocketClientProtocol):
    def onMessage(self, payload, isBinary):
        self.echo(payload, isBinary)

    def connectionLost(self, reason):
        WebSocketClientProtocol.connectionLost(self, reason)
        self.end(self.told())


class EchoServer(Recorded, WebSocketServerProtocol):
    number = None

    def onConnect(self, request):
        self.begin(request.path.removeprefix("/"), self.factory.out)

    def onMessage(self, payload, isBinary):
        self.echo(payload, isBinary)

    def connectionLost(self, reason):
        WebSocketServerProtocol.connectionLost(self, reason)
        if self.number:
            self.end(self.told())


def accept_offer(offers):
    deflate = (offer for offer in offers if isinstance(offer, PerMessageDeflateOffer))
    return next((PerMessageDeflateOfferAccept(offer) for offer in deflate), None)


def accept_response(response):
    return PerMessageDeflateResponseAccept(response) if isinstance(response, PerMessageDeflateResponse) else None


def serve(protocol, port, out, **options):
    factory = WebSocketServerFactory(f"ws://localhost:{port}")
    factory.protocol = protocol
    factory.out = out
    factory.logFrames = True
    factory.setProtocolOptions(failByDrop=False, **BACKSTOPS, **options)
    reactor.listenTCP(port, factory)


class Asking(WebSocketClientFactory):
    """One connection for one case; then the next one of those that remain."""

    def __init__(self, url, number, made, then, options):
        super().__init__(f"{url}/{number}")
        self.number, self.made, self.then = number, made, then
        self.logFrames = True
        self.setProtocolOptions(failByDrop=False, serverConnectionDropTimeout=30, **BACKSTOPS, **options)

    def buildProtocol(self, _):
        protocol = self.made()
        protocol.factory = self
        (protocol.take if isinstance(protocol, Fuzzing) else protocol.begin)(self.number, OUT)
        return protocol

    def clientConnectionLost(self, connector, reason):
        self.then()

    def clientConnectionFailed(self, connector, reason):
        OUT.write(json.dumps({"case": self.number, "not_connected": reason.getErrorMessage()}) + "\n")
        self.then()


def ask(made, url, numbers, at_once, **options):
    remaining = iter(numbers)
    running = 0

    def following():
        nonlocal running
        number = next(remaining, None)
        if number is not None:
            connectWS(Asking(url, number, made, following, options))
            return
        running -= 1
        if running == 0:
            reactor.stop()

    for _ in range(min(at_once, len(numbers))):
        running += 1
        reactor.callWhenRunning(following)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("at", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--at-once", type=int, default=1)
    return parser.parse_args()


CASES = python2.cases()

if __name__ == "__main__":
    asked = arguments()
    if asked.part == "cases":
        print("\n".join(CASES))
    else:
        OUT = open(asked.out, "a")
        if asked.part == "fuzz-server":
            serve(FuzzingServer, int(asked.at), OUT)
        elif asked.part == "echo-server":
            serve(EchoServer, int(asked.at), OUT, perMessageCompressionAccept=accept_offer)
        elif asked.part == "fuzz-client":
            ask(FuzzingClient, asked.at, asked.cases, asked.at_once)
        elif asked.part == "echo-client":
            deflate = {"perMessageCompressionOffers": [PerMessageDeflateOffer()]}
            accept = {"perMessageCompressionAccept": accept_response}
            ask(EchoClient, asked.at, asked.cases, asked.at_once, **deflate, **accept)
        reactor.run()
