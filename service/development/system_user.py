"""The system user that PostgreSQL runs as, because it does not run as root."""

import os
import pwd
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from service.development.errors import EmbeddedError

FALLBACK: Final = "nobody"


class SystemUser(Struct, frozen=True):
    uid: int
    gid: int
    name: str

    @property
    def popen_arguments(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def for_data(data: Path) -> SystemUser | None:
    """The user for a data directory; ``None`` if this process is not root, and so runs PostgreSQL as its own user.

    It is the owner of the directory, which an earlier version may have given to a user of its own. A new directory
    belongs to ``nobody``, who exists on every system.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (found := data.stat()).st_uid != 0:
        return SystemUser(found.st_uid, found.st_gid, _name(found.st_uid))
    try:
        entry = pwd.getpwnam(FALLBACK)
    except KeyError as error:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and this system has no user {FALLBACK}: "
            "run `just up` as another user, or set DATABASE_URL"
        ) from error
    return SystemUser(entry.pw_uid, entry.pw_gid, FALLBACK)


def let_pass(user: SystemUser, paths: Iterable[Path], announce: Callable[[str], None]) -> None:
    """Let ``user`` reach the paths: the folders above them get ``o+x`` where it is missing, and no other permission."""
    folders = sorted({folder for path in paths for folder in path.parents})
    changed = []
    for folder in folders:
        if not _may_pass(user, found := folder.stat()):
            try:
                folder.chmod(stat.S_IMODE(found.st_mode) | stat.S_IXOTH)
            except OSError as error:
                raise EmbeddedError(
                    f"PostgreSQL does not run as root, and the user {user.name} cannot pass through {folder}, whose "
                    f"mode cannot be changed ({error.strerror}): run `just up` as another user, or set DATABASE_URL"
                ) from error
            changed.append(str(folder))
    if changed:
        announce(f"PostgreSQL does not run as root: the user {user.name} runs it, chmod o+x {' '.join(changed)}")


def _may_pass(user: SystemUser, folder: os.stat_result) -> bool:
    if folder.st_uid == user.uid:
        return bool(folder.st_mode & stat.S_IXUSR)
    if folder.st_gid == user.gid:
        return bool(folder.st_mode & stat.S_IXGRP)
    return bool(folder.st_mode & stat.S_IXOTH)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # the user was deleted
        return str(uid)
