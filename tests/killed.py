"""A process that kills itself (SIGKILL) before a file operation of its own, so that no machine is too slow or too fast.

In front of a program, ``killed_before(event, pattern, number)`` ends it before the ``number``-th operation that Python
audits by that name (``"os.rename"``, ``"open"``) and whose first two arguments, with ``"|"`` between them, hold the
pattern: ``source|target``, ``path|mode``.
"""

from __future__ import annotations

_WATCH = """
import os, re, signal, sys
left = {number}
def watch(event, arguments):
    global left
    if event == {event!r} and re.search({pattern!r}, "|".join(map(str, arguments[:2]))):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""


def killed_before(event: str, pattern: str, number: int) -> str:
    """Lines of Python."""
    return _WATCH.format(event=event, pattern=pattern, number=number)
