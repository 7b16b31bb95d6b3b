"""Opens and clicks that no person made: prefetching proxies and gateways that follow every link."""

from __future__ import annotations

_ROBOTS = (
    "bot", "spider", "crawl", "scanner", "preview", "headless", "python", "curl/", "wget", "go-http", "java/",
    "libwww", "okhttp", "mimecast", "proofpoint", "barracuda", "safelinks", "symantec", "trendmicro", "sophos",
    "fireeye", "urldefense", "checkpoint", "forcepoint",
)  # fmt: skip


def is_machine(agent: str, address: str) -> bool:
    """Whether a User-Agent is a prefetching proxy's or a scanning gateway's.

    Apple's privacy proxy says ``Mozilla/5.0`` and nothing else; Gmail's prefetch claims Chrome 42 and Edge
    12.246. Gmail's image cache (GoogleImageProxy) fetches when somebody reads: a person's.
    """
    name = agent.strip().lower()
    if name in ("", "mozilla/5.0") or address.startswith("17."):  # Apple's own /8
        return True
    if "chrome/42.0.2311.135" in name and "edge/12.246" in name:
        return True
    return any(map(name.partition("googleimageproxy")[0].__contains__, _ROBOTS))
