"""The system user that PostgreSQL runs as, because it does not run as root."""

import os
import pwd
import shlex
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
        if not _allowed(user, found := folder.stat(), os.X_OK):
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


def check_readable(user: SystemUser, folders: Iterable[Path]) -> None:
    """Raise ``EmbeddedError`` if ``user`` cannot read what is in the folders, for example after ``umask 077``."""
    for folder in folders:
        paths = (path for path in (folder, *folder.rglob("*")) if "__pycache__" not in path.parts)
        if not all(_allowed(user, path.stat(), os.R_OK) for path in paths):
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and the user {user.name} cannot read its programs: "
                f"run `chmod -R o+rX {shlex.quote(str(folder))}`, or `just up` as another user, or set DATABASE_URL"
            )


def _allowed(user: SystemUser, found: os.stat_result, permission: int) -> bool:
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
    return bool(found.st_mode >> shift & permission)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # the user was deleted
        return str(uid)
