"""Which policy document is in force: the mounted file, or the operator's newer copy of it.

The file is looked at through its path, for Kubernetes swaps a mounted ConfigMap by a symbolic link. A document
that cannot be enforced changes nothing: the last good one stays, and one log line says why.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from cachepolicy import capabilities
from cachepolicy.document import DocumentError, Reading, UnsupportedDocumentError, read_document
from cachepolicy.names import FILE_POLICY

_log = logging.getLogger("cachepolicy.policy")

Listener = Callable[[Reading], None]
_Signature = tuple[int, int, int]


class PolicySource:
    """The policy of one directory. Nothing here waits; somebody calls :meth:`look` every so often.

    Attributes:
        refused: why a document that is out there is not in force; None when the newest one is.
        too_old: it takes a newer runtime to enforce that document.
    """

    def __init__(self, directory: Path, known: frozenset[str] = capabilities.ALL) -> None:
        """``known`` are the capabilities of this runtime."""
        self.refused: str | None = None
        self.too_old = False
        self._path = directory / FILE_POLICY
        self._known = known
        self._signature: _Signature | None = None
        self._mounted: Reading | None = None
        self._copied: Reading | None = None
        self._copy_seen: bytes | None = None
        self._current: Reading | None = None
        self._listeners: list[Listener] = []

    @property
    def current(self) -> Reading | None:
        """The policy in force; None where there has been none yet."""
        return self._current

    def subscribe(self, listener: Listener) -> None:
        """Call ``listener`` with every policy that comes into force from now on."""
        self._listeners.append(listener)

    def look(self) -> None:
        """Read the file if it changed. Never raises."""
        try:
            found = os.stat(self._path)
            signature = (found.st_mtime_ns, found.st_ino, found.st_size)
            if signature == self._signature:
                return
            data = self._path.read_bytes()
        except FileNotFoundError:
            self._signature = None
            self._missing()
        except OSError as error:
            self._signature = None
            self._refuse(
                f"{self._path.parent} cannot be read ({error.strerror}): it must be a readable directory"
            )
        else:
            self._signature = signature
            self._take_file(data)

    def offer(self, data: bytes | None) -> None:
        """The operator's copy in Redis, None where there is none. Never raises.

        It counts only beside a file of the same policy object (uid) and only while it is newer (sequence): the
        file is the authority. A copy that cannot be enforced is left to the file, which will say why.
        """
        if data is None or data == self._copy_seen:
            return
        self._copy_seen = data
        try:
            self._copied = read_document(data, known=self._known)
        except DocumentError as error:
            _log.warning("the operator's copy of the policy is not taken: %s", error)
            return
        self._choose()

    def _take_file(self, data: bytes) -> None:
        try:
            self._mounted = read_document(data, known=self._known)
        except DocumentError as error:
            self._refuse(str(error), too_old=isinstance(error, UnsupportedDocumentError))
            return
        self.refused, self.too_old = None, False
        self._choose()

    def _missing(self) -> None:
        if not self._path.parent.is_dir():
            self._refuse(
                f"there is no directory {self._path.parent}: mount the policy there, or change CACHEPOLICY_DIR"
            )
        elif self._mounted is None:
            self._refuse(f"no policy yet: {FILE_POLICY} is not in {self._path.parent}")
        else:
            self._refuse(f"{FILE_POLICY} is gone from {self._path.parent}")

    def _refuse(self, reason: str, *, too_old: bool = False) -> None:
        if reason == self.refused:
            return
        self.refused, self.too_old = reason, too_old
        if self._current is None:
            _log.warning("%s; until there is a policy everything works from memory", reason)
        else:
            _log.warning("%s; revision %s stays in force", reason, self._current.document.revision)

    def _choose(self) -> None:
        chosen = newer(self._mounted, self._copied)
        if chosen is None or chosen == self._current:
            return
        self._current = chosen
        document = chosen.document
        _log.info(
            "policy %s, revision %s: %s", document.policy, document.revision, ", ".join(document.sections)
        )
        if chosen.ignored:
            _log.warning(
                "fields of the policy that this runtime does not know: %s", ", ".join(chosen.ignored)
            )
        for listener in self._listeners:
            listener(chosen)


def newer(mounted: Reading | None, copied: Reading | None) -> Reading | None:
    """The copy where it is a newer version of the mounted document, else the mounted document."""
    if mounted is None or copied is None:
        return mounted
    same = copied.document.uid == mounted.document.uid
    return copied if same and copied.document.sequence > mounted.document.sequence else mounted
