"""Pages: /live, /ready and /metrics, and the token for methods other than GET and HEAD."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from streams.worker.worker import Worker

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
        if request.body_exists:  # no page reads a body, so that none can fill the memory
            raise web.HTTPRequestEntityTooLarge(max_size=0, actual_size=request.content_length or 0)
        return await handler(request)

    return guard


def declare_pages(app: Any, worker: Callable[[], Worker]) -> None:
    """Serve /live, /ready and /metrics.

    Args:
        app: Faust's application.
        worker: returns the worker; it exists before the first page is served.
    """

    @app.page("/live")
    async def live(self: Any, request: Any) -> Any:
        return self.json({"live": True})

    @app.page("/ready")
    async def ready(self: Any, request: Any) -> Any:
        reason = worker().not_ready_reason
        is_ready = worker().ready and not app.rebalancing and reason is None
        page = {
            "ready": is_ready,
            "reason": None if is_ready else reason or "partitions are being assigned",
            "degraded": worker().degraded,
        }
        return self.json(page, status=200 if is_ready else 503)

    @app.page("/metrics")
    async def metrics(self: Any, request: Any) -> Any:
        return self.bytes(worker().observe(), content_type="text/plain; version=0.0.4")
