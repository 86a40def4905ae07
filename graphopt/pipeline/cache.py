"""Results of opaque passes on disk, by the digest of everything that decides them."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

import platformdirs

from graphopt.leftovers import scratch_folder

_LIMIT = 2 << 30
_GRACE_SECONDS = 600
_DONE = "complete"


class DiskCache:
    """Folders by key. Written all or nothing, safe between processes, bounded in size.

    Args:
        root: Where to keep them. By default ``$GRAPHOPT_CACHE``, else the user's cache folder;
            ``GRAPHOPT_CACHE=off`` switches the cache off.
        limit: Bytes above which the least recently used results go.

    Attributes:
        problem: Why nothing can be stored, if that is so.
    """

    def __init__(self, root: Path | None = None, *, limit: int = _LIMIT) -> None:
        chosen = os.environ.get("GRAPHOPT_CACHE", "")
        self._off = root is None and chosen.lower() in ("off", "0", "no")
        self._root = root or Path(chosen or platformdirs.user_cache_dir("graphopt"))
        self._limit = limit
        self.problem: str | None = None

    def describe(self) -> str:
        """Where results are kept, for people."""
        return "off" if self._off else f"{self._root}, at most {self._limit >> 20} MiB"

    def get(self, key: str) -> Path | None:
        """The folder stored under ``key``; it stays for at least ten minutes from now."""
        if self._off:
            return None
        folder = self._root / key[:2] / key
        marker = folder / _DONE
        try:
            os.utime(marker)
        except OSError:
            return None
        return folder

    def put(self, key: str, folder: Path) -> None:
        """Store a copy of ``folder`` under ``key``; the first of two writers wins."""
        if self._off or self.get(key) is not None:
            return
        target = self._root / key[:2] / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder(self._root, ".new-", young=_GRACE_SECONDS) as scratch:
                shutil.copytree(folder, scratch, dirs_exist_ok=True)
                (scratch / _DONE).touch()
                if target.exists():
                    shutil.rmtree(target, ignore_errors=True)
                os.rename(scratch, target)
            self._trim()
        except OSError as error:
            self.problem = f"results are not cached: {error.strerror or error} ({self._root})"

    def _trim(self) -> None:
        entries: list[tuple[float, int, Path]] = []
        for marker in self._root.glob(f"*/*/{_DONE}"):
            with contextlib.suppress(FileNotFoundError):
                size = sum(f.stat().st_size for f in marker.parent.rglob("*") if f.is_file())
                entries.append((marker.stat().st_mtime, size, marker))
        total = sum(size for _, size, _ in entries)
        for used, size, marker in sorted(entries):
            if total <= self._limit or time.time() - used < _GRACE_SECONDS:
                return
            # Without its marker the entry is no longer found, so nobody reads it half removed.
            marker.unlink(missing_ok=True)
            shutil.rmtree(marker.parent, ignore_errors=True)
            total -= size
