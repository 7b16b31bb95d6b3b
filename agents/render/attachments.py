"""Attachments by reference: fetched once, checked against the size and SHA-256 that the send names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agents.render.cache import Bounded
from agents.render.mime import base64_lines
from agents.render.policy import Refused, check_reference
from schemas.send import Attachment

if TYPE_CHECKING:
    import aiohttp

Opener = Callable[[str, int], Awaitable[bytes]]
"""(https URL, most bytes) -> content, at most one byte more than asked. Raises Refused where there is no
such object, OSError or TimeoutError where the store is unwell."""


class Unwell(Exception):
    """The store does not answer; try again later."""


class Store:
    """Where references lead. ``roots``: directories that file:/// may point into; ``hosts``: host or host:port."""

    def __init__(
        self,
        roots: Sequence[Path] = (),
        hosts: Collection[str] = (),
        opener: Opener | None = None,
        cache: int = 64_000_000,
    ) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        self._hosts = frozenset(hosts) if opener else frozenset()
        self._opener = opener
        self._cache: Bounded[bytes] = Bounded(cache)
        self._under_way: dict[tuple[str, str, str], asyncio.Task[bytes]] = {}

    def kept(self, tenant: str, part: Attachment) -> bytes | None:
        """The base64 lines of an attachment, if they are at hand (inline data always are)."""
        if part.data is not None:
            return base64_lines(part.data)
        return self._cache.get((tenant, part.url, part.sha256))

    async def fetch(self, tenant: str, part: Attachment) -> bytes:
        """The base64 lines of an attachment. Raises Refused (reason attachment) or Unwell.

        Asked for the same object at the same time, it fetches once.
        """
        kept = self.kept(tenant, part)
        if kept is not None:
            return kept
        key = (tenant, part.url, part.sha256)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(key, part))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._over(key, done))
        # Shielded: one mail that goes away with its partition does not take the object from the others.
        return await asyncio.shield(task)

    def _over(self, key: tuple[str, str, str], task: asyncio.Task[bytes]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, so that nobody complains when all who asked have gone away

    async def _fetch(self, key: tuple[str, str, str], part: Attachment) -> bytes:
        kind = check_reference(part.url, self._hosts)
        try:
            if kind == "file":
                data = await asyncio.to_thread(self._read, part.url, part.size)
            else:
                assert self._opener is not None  # without one no host is allowed
                data = await self._opener(part.url, part.size)
        except (OSError, TimeoutError) as error:
            raise Unwell(f"the attachment store does not answer: {type(error).__name__}") from None
        if len(data) != part.size or sha256(data).hexdigest() != part.sha256:
            raise Refused(
                "rejected", "attachment", "a fetched attachment has another size or sha256 than named"
            )
        lines = base64_lines(data)
        self._cache.put(key, lines, len(lines))
        return lines

    def _read(self, url: str, most: int) -> bytes:
        path = Path(urlsplit(url).path).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise Refused("rejected", "attachment", "the file is outside the directories for attachments")
        try:
            if not path.is_file():
                raise FileNotFoundError
            with path.open("rb") as file:
                return file.read(most + 1)
        except (FileNotFoundError, PermissionError):
            raise Refused("rejected", "attachment", "there is no such file, or we may not read it") from None


def http_opener(session: aiohttp.ClientSession, seconds: float = 30.0) -> Opener:
    """An Opener over an aiohttp session. Follows no redirect: that could lead past the list of hosts."""

    async def read(url: str, most: int) -> bytes:
        import aiohttp

        try:
            limit = aiohttp.ClientTimeout(total=seconds)
            plain = {"Accept-Encoding": "identity"}
            async with session.get(url, allow_redirects=False, timeout=limit, headers=plain) as answer:
                if answer.status >= 500 or answer.status == 429:
                    raise OSError(f"status {answer.status}")
                if answer.status != 200:
                    raise Refused("rejected", "attachment", f"the object store answers {answer.status}")
                pieces: list[bytes] = []
                left = most + 1
                async for piece in answer.content.iter_chunked(65_536):
                    pieces.append(piece[:left])
                    left -= len(pieces[-1])
                    if left <= 0:
                        break
                return b"".join(pieces)
        except aiohttp.ClientError as error:
            raise OSError(type(error).__name__) from None

    return read
