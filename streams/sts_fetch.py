"""Fetching an MTA-STS policy file over HTTPS. Imported when the first one is to be had: with it comes aiohttp,
a quarter of what a worker would need to start."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

Addresses = Callable[[str], Awaitable[tuple[str, ...]]]


class Fetcher:
    """One session of a process; it belongs to the event loop that makes it."""

    def __init__(
        self, addresses: Addresses, allow: Callable[[str], bool], context: ssl.SSLContext, port: int
    ) -> None:
        """``addresses``: IPv4 and IPv6 addresses of a host. ``allow``: whether a connection may be made to one."""
        self._port = "" if port == 443 else f":{port}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Guarded(addresses, allow), ssl=context, use_dns_cache=False, force_close=True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "mailsluice", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    async def read(self, domain: str, largest: int) -> str:
        """The policy file's text, at most ``largest`` bytes. Raises ValueError, OSError or TimeoutError."""
        try:
            return await self._read(domain, largest)
        except aiohttp.ClientError as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    async def _read(self, domain: str, largest: int) -> str:
        url = f"https://mta-sts.{domain}{self._port}/.well-known/mta-sts.txt"
        # A redirect must not be followed (RFC 8461 section 3.3): a 3xx is an answer without a policy.
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"the policy host answers {response.status}")
            if response.content_type != "text/plain":
                raise ValueError(f"the policy is of type {response.content_type[:60]}")
            body = b""
            async for chunk in response.content.iter_chunked(8192):
                body += chunk
                if len(body) > largest:
                    raise ValueError(f"the policy is longer than {largest} bytes")
        return body.decode("utf-8")

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()


class _Guarded(AbstractResolver):
    """Only addresses that we may connect to: other people's DNS says where a policy host is."""

    def __init__(self, addresses: Addresses, allow: Callable[[str], bool]) -> None:
        self._addresses, self._allow = addresses, allow

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = [address for address in await self._addresses(host) if self._allow(address)]
        if not found:
            raise OSError("the policy host has no address that we may connect to")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        return None
