"""Lets a program that speaks WebSocket over HTTP/1.1 speak it over HTTP/2 (RFC 8441).

    gateway.py PORT HOST:PORT

It listens on a port of loopback. Each WebSocket that is asked for there is asked for on a connection of its own with
extended CONNECT, by h2; from then on bytes go both ways as they come, an end as an end and a reset as a reset.
"""

import asyncio
import base64
import hashlib
import socket
import struct
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Bytes on their way to us before we have taken any.
WINDOW = 1 << 20
# What goes on in the request and in the answer; the rest is of one hop, or of HTTP/1.1 alone.
ASKED = ("sec-websocket-version", "sec-websocket-extensions", "sec-websocket-protocol", "origin", "user-agent")
ANSWERED = ("sec-websocket-extensions", "sec-websocket-protocol", "server")
ENABLE_CONNECT_PROTOCOL = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL


class Gateway:
    """One WebSocket."""

    def __init__(self, near, far):
        self.near_in, self.near_out = near
        self.far_in, self.far_out = far
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.http = h2.connection.H2Connection(config)
        self.takes = asyncio.get_running_loop().create_future()
        self.answered = asyncio.get_running_loop().create_future()
        self.moved = asyncio.Event()
        self.over = asyncio.Event()
        self.ended = False
        self.stream = None

    async def run(self, path, fields):
        self.http.initiate_connection()
        self.http.increment_flow_control_window(WINDOW)
        self.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self.flush()
        hearing = asyncio.create_task(self.hear())
        try:
            if not await self.takes:
                return self.answer("501 Not Implemented", {})
            self.ask(path, fields)
            status, answer = await self.answered
            if status != "200":
                return self.answer(status, answer)
            accept = base64.b64encode(hashlib.sha1(fields["sec-websocket-key"].encode() + GUID).digest())
            switch = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-accept": accept.decode()}
            self.answer("101 Switching Protocols", switch | {name: answer[name] for name in ANSWERED if name in answer})
            await self.say()
            await self.over.wait()
        finally:
            hearing.cancel()

    def ask(self, path, fields):
        self.stream = self.http.get_next_available_stream_id()
        pseudo = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")]
        target = [(":path", path), (":authority", fields["host"])]
        self.http.send_headers(self.stream, pseudo + target + [(name, fields[name]) for name in ASKED if name in fields])
        self.flush()

    def answer(self, status, fields):
        lines = [f"HTTP/1.1 {status}"] + [f"{name}: {value}" for name, value in fields.items()]
        self.near_out.write("\r\n".join(lines + ["", ""]).encode())

    async def say(self):
        """From the near side to the far one."""
        while content := await self.near_in.read(65536):
            while content and not self.ended:
                room = min(self.http.local_flow_control_window(self.stream), self.http.max_outbound_frame_size)
                if room == 0:
                    self.moved.clear()
                    await self.moved.wait()
                    continue
                self.http.send_data(self.stream, content[:room])
                content = content[room:]
                self.flush()
                await self.far_out.drain()
        if not self.ended:
            self.http.end_stream(self.stream)
            self.flush()

    async def hear(self):
        """From the far side to the near one."""
        while content := await self.far_in.read(65536):
            for event in self.http.receive_data(content):
                await self.take(event)
            self.flush()
        self.broken()

    async def take(self, event):
        if isinstance(event, h2.events.RemoteSettingsChanged):
            said = event.changed_settings.get(ENABLE_CONNECT_PROTOCOL)
            if not self.takes.done():
                self.takes.set_result(said is not None and said.new_value == 1)
            self.moved.set()
        elif isinstance(event, h2.events.ResponseReceived):
            fields = dict(event.headers)
            self.answered.set_result((fields.pop(":status"), fields))
        elif isinstance(event, h2.events.DataReceived):
            self.near_out.write(event.data)
            await self.near_out.drain()
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.WindowUpdated):
            self.moved.set()
        elif isinstance(event, h2.events.StreamEnded):
            self.near_out.write_eof()
            self.over.set()
        elif isinstance(event, h2.events.StreamReset):
            # After an end of both sides it says nothing (RFC 9113 section 8.1).
            if event.error_code != h2.errors.ErrorCodes.NO_ERROR:
                self.broken()
        elif isinstance(event, h2.events.ConnectionTerminated) and event.error_code:
            self.broken()

    def broken(self):
        """The far side is gone otherwise than in good order, which the near one sees as a reset."""
        self.ended = True
        self.moved.set()
        self.over.set()
        for waits in (self.takes, self.answered):
            if not waits.done():
                waits.set_exception(ConnectionResetError())
        if not self.near_out.is_closing():
            linger = struct.pack("ii", 1, 0)
            self.near_out.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.near_out.transport.abort()

    def flush(self):
        self.far_out.write(self.http.data_to_send())


async def head_of(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = dict(line.split(":", 1) for line in lines[1:] if line)
    return lines[0].split(" ")[1], {name.lower(): value.strip() for name, value in fields.items()}


async def serve(port, host, to):
    async def one(reader, writer):
        far = None
        try:
            path, fields = await head_of(reader)
            far = await asyncio.open_connection(host, to)
            await Gateway((reader, writer), far).run(path, fields)
        except (ConnectionError, asyncio.IncompleteReadError):
            # Either side may go at any time, and knows.
            pass
        finally:
            writer.close()
            if far:
                far[1].close()

    async with await asyncio.start_server(one, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    host, to = sys.argv[2].rsplit(":", 1)
    asyncio.run(serve(int(sys.argv[1]), host, int(to)))
