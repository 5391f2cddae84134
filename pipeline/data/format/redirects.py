"""The rules for redirects of web servers, for the libraries that read s3:// and gs:// addresses with aiohttp.

Both libraries let aiohttp follow any redirect. Here each one is looked at first, and refused as a web server's would
be: it must stay on its host or lead to one of data.remote.redirect_hosts, and never from https to http. Only the IP
address that a name leads to is not looked at, because the libraries make their own connections: a listed host that has
an internal address is reached. The library for s3:// also asks the endpoint of another region if a bucket is there,
whose host it derives from the region's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipeline.data.format.web import Trip

if TYPE_CHECKING:
    from aiohttp import ClientSession, TraceConfig, TraceRequestRedirectParams


def redirect_rule(hosts: Sequence[str]) -> TraceConfig:
    """What makes aiohttp raise DataError instead of following a redirect that is not allowed."""
    import aiohttp

    async def check(
        session: ClientSession, context: SimpleNamespace, found: TraceRequestRedirectParams
    ) -> None:
        url = str(found.url)
        if not hasattr(context, "trip"):
            context.trip = Trip(url, hosts)
        context.trip.follow(url, found.response.headers.get("Location", ""))

    rule = aiohttp.TraceConfig()
    rule.on_request_redirect.append(check)
    rule.freeze()
    return rule


def s3_session(hosts: Sequence[str]) -> type[Any]:
    """The kind of HTTP session that the library for s3:// uses, with this rule."""
    from aiobotocore.httpsession import AIOHTTPSession

    rule = redirect_rule(hosts)

    class CarefulSession(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            if rule not in session.trace_configs:
                session.trace_configs.append(rule)
            return session

    return CarefulSession
