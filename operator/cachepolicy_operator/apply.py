"""Applying an object to which others have added something that makes the sum impossible.

Server-side apply takes back what we own and leaves what others added. Where a list is merged by key, an edit of the
key itself is an addition: a Service whose port somebody changed from 6379 to 6380 has both after our apply, under one
name, and the API server refuses that. No apply can repair it, so the object is deleted, its dependents left alone, and
made anew. That is done only for an object that the API server would accept by itself: what it refuses because of the
CachePolicy stays as it was.
"""

from __future__ import annotations

from cachepolicy_operator import errors
from cachepolicy_operator.kinds import kind_of
from cachepolicy_operator.kube import Json, Kube


async def bring_about(kube: Kube, want: Json, live: Json | None) -> Json:
    """Apply `want` over `live` (None: not there); gives back the object as stored.

    Raises Superseded after a deletion: the object is made anew at the next look, once the old one is gone. Raises
    Invalid with the API server's words when it would refuse `want` by itself.
    """
    try:
        return await kube.apply(want)
    except errors.Invalid:
        if live is None:
            raise
    await kube.apply(_under_another_name(want), dry_run=True)
    metadata = live["metadata"]
    await kube.delete(
        kind_of(want), metadata["namespace"], metadata["name"], uid=metadata["uid"], propagation="Orphan"
    )
    raise errors.Superseded(f"{want['kind']} {metadata['name']} was edited beyond repair: it is made anew")


def _under_another_name(want: Json) -> Json:
    """The same object where nothing is yet, for a trial without effect."""
    return {**want, "metadata": {**want["metadata"], "name": f"{want['metadata']['name']}-trial"}}
