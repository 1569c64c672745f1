"""An application that echoes, for Hypercorn, which speaks WebSocket over HTTP/1.1 and over HTTP/2.

What it heard of each WebSocket goes to the file that TOLD names, a line of JSON at its end.
"""

import hashlib
import json
import os


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    assert scope["type"] == "websocket", scope
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    digest, count = hashlib.sha256(), 0
    while (event := await receive())["type"] == "websocket.receive":
        content = event.get("bytes")
        text = event.get("text")
        digest.update(b"text" + text.encode() if text is not None else b"bytes" + content)
        count += 1
        await send({"type": "websocket.send", "bytes": content, "text": text})
    told = {"case": scope["path"].removeprefix("/"), "version": scope["http_version"], "count": count}
    told |= {"digest": digest.hexdigest(), "code": event.get("code")}
    with open(os.environ["TOLD"], "a") as out:
        out.write(json.dumps(told) + "\n")
