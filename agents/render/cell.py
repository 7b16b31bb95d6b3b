"""The process in which a template is rendered that might never end: ``python -m agents.render.cell``.

It takes requests on its standard input and answers on its standard output, one after the other. What needs
more processor time than allowed is ended by the system's own timer, even inside the engine: the process is
gone then, and ``agents.render.guard`` starts another one. So is what needs more memory. It ends with its input.
"""

from __future__ import annotations

import resource
import signal
import sys
from typing import Any, BinaryIO

import minijinja
import orjson

from agents.render.cache import Bounded
from agents.render.policy import Refused
from agents.render.template import Source, Template

COMPILING = 10.0
"""Times the seconds of a rendering that compiling may take: it is done once."""
NO_MEMORY = 3
"""Exit code where Python itself found no memory (the engine aborts)."""


def answer(
    request: dict[str, Any], templates: Bounded[Template], seconds: float, fuel: int, size: int
) -> Any:
    """[subject, html, text], or [outcome, reason, detail] of a refusal under ``refused``."""
    source = Source(*request["source"])
    context = request["context"]
    for name in request["safe"]:
        context[name] = minijinja.safe(context[name])
    try:
        template = templates.get(source)
        if template is None:
            signal.setitimer(signal.ITIMER_PROF, seconds * COMPILING)
            template = Template(source, fuel, bounded=False)
            templates.put(source, template, template.weight)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        parts = template.render(context)
    except Refused as refused:
        return {"refused": [refused.outcome, refused.reason, refused.detail]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    length = sum(map(len, parts))
    if length > size:
        detail = f"the template makes {length} characters for this recipient, at most {size} are allowed"
        return {"refused": ["rejected", "size", detail]}
    return {"parts": tuple(parts)}


def serve(source: BinaryIO, sink: BinaryIO, seconds: float, memory: int, fuel: int, size: int) -> None:
    """Answer until the input ends. ``memory``: bytes of address space, where the system can limit it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker; its end is ours
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    templates: Bounded[Template] = Bounded(16_000_000)
    while head := source.read(4):
        request = orjson.loads(source.read(int.from_bytes(head)))
        found = orjson.dumps(answer(request, templates, seconds, fuel, size))
        sink.write(len(found).to_bytes(4) + found)
        sink.flush()


if __name__ == "__main__":
    try:
        limits = (int(text) for text in sys.argv[2:5])
        serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]), *limits)
    except MemoryError:
        sys.exit(NO_MEMORY)
