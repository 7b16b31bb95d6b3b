"""What is wrong with a file that an operator wrote: every place in one error, so that it is mended in one go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


class Faulty(ValueError):
    """The text is wrong; ``faults`` names every place."""

    def __init__(self, where: str, faults: Sequence[str]) -> None:
        super().__init__(f"{where} has {len(faults)} fault(s):\n- " + "\n- ".join(faults))
        self.faults = list(faults)


def only(found: Iterable[str], known: Collection[str], where: str, faults: list[str]) -> None:
    """A fault for each name in ``found`` that is not one of ``known``."""
    faults += [f"{where}{key!r} is not known, only {', '.join(known)}" for key in found if key not in known]
