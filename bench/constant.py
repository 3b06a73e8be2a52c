"""A constant answer from Litestar and granian, set up as the api sets them up: `PORT`."""

from __future__ import annotations

import sys

from granian.constants import Interfaces, Loops
from granian.server import Server
from litestar import Litestar, MediaType, get


@get("/constant", media_type=MediaType.JSON)
async def constant() -> bytes:
    return b'{"items":[],"next_cursor":null}'


def load() -> Litestar:
    return Litestar([constant], logging_config=None, openapi_config=None)


if __name__ == "__main__":
    Server(
        "constant",
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface=Interfaces.ASGI,
        workers=1,
        loop=Loops.uvloop,
        websockets=False,
        log_enabled=False,
    ).serve(target_loader=load, wrap_loader=False)
