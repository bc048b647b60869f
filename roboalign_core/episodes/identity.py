"""Which recording an episode is, whatever camera saw it."""

from __future__ import annotations

import hashlib

import numpy as np

from roboalign_core.episodes import tables
from roboalign_core.episodes.store import EpisodeStore


def identities(store: EpisodeStore) -> list[str]:
    """A text for each episode, the same for all cameras that saw it: its source and a digest of its actions.

    Of its first frame where the actions are all zero and so tell nothing.
    """
    if not len(store):
        return []
    actions = np.concatenate(
        [tables.read_data(store.file("data", group), store.spec)["action"] for group in range(len(store.info.groups))]
    )
    found: list[str] = []
    first = 0
    for number, length in enumerate(store.lengths):
        rows = actions[first : first + length]
        first += length
        content = rows if rows.any() else store[number].frames[0]
        digest = hashlib.sha256(np.ascontiguousarray(content).tobytes()).hexdigest()[:16]
        found.append(f"{store.spec.source}:{digest}")
    return found
