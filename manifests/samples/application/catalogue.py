"""The catalogue: what there is, as JSON, counted in the database."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ITEMS = ("tea", "coffee", "cocoa")


def ask(*words):
    """Asks the database one thing, in its own protocol (RESP)."""
    request = b"*%d\r\n" % len(words)
    for word in words:
        request += b"$%d\r\n%s\r\n" % (len(word), word.encode())
    with socket.create_connection(("database", 6379), timeout=5) as connection:
        connection.sendall(request)
        answer = connection.makefile("rb").readline()
    if not answer.startswith(b":"):
        raise OSError(f"the database answered {answer!r}")
    return int(answer[1:])


class Catalogue(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, {"state": "well"})
        if self.path == "/admin":
            return self.answer(200, {"admin": True})
        if self.path != "/api/items":
            return self.answer(404, {"error": "there is only /api/items"})
        try:
            self.answer(200, {item: ask("INCR", f"asked:{item}") for item in ITEMS})
        except OSError as error:
            self.answer(503, {"error": str(error)})

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.answer(200, {"state": "taken"})

    def answer(self, status, what):
        body = json.dumps(what).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


class Server(ThreadingHTTPServer):
    """Over both families, where there are both."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET


Server(("", 8080), Catalogue).serve_forever()
