"""Who may do what over a worker's HTTP: everybody may read, who shows the token may do more."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web

READS = frozenset({"GET", "HEAD"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded_by(token: str) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """Return the middleware that lets reads pass, and other methods only with `Authorization: Bearer <token>`.

    Args:
        token: setting http_token; empty refuses every other method.
    """
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in READS:
            # aiohttp keeps bytes that are no UTF-8 as surrogates; compare_digest takes as long for any of them.
            shown = request.headers.get("Authorization", "").encode(errors="surrogateescape")
            if not (hmac.compare_digest(shown, expected) and token):
                raise web.HTTPForbidden(text=f"{request.method}: expected GET or HEAD, or the bearer http_token\n")
        if request.body_exists:  # no page has a use for one: nothing is read, so nothing can fill the memory
            raise web.HTTPRequestEntityTooLarge(max_size=0, actual_size=request.content_length or 0)
        return await handler(request)

    return guard
