"""The secret key: taken from the environment or a file, or generated once and stored."""

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MIN_BYTES: Final = 32  # as long as the digest of HS256 (RFC 7518, section 3.2)
_MIN_DISTINCT_CHARACTERS: Final = 8
_WRITE_SECONDS: Final = 5  # for another process to write the key that it generates
# In lower case: common placeholders for a secret, and the sample key of a well-known tutorial.
_PLACEHOLDERS: Final = ("change", "secret", "placeholder", "example", "replace", "09d25e094faa6ca2556c818166b7a956")


def read(given: Mapping[str, str], directory: Path) -> bytes:
    """The key that signs. A generated one is kept in ``directory``. Raises ``ValueError``.

    ``given`` has every setting, those that are not set as empty text.
    """
    key, file = given["SECRET_KEY"], given["SECRET_KEY_FILE"]
    if key and file:
        raise ValueError("SECRET_KEY, SECRET_KEY_FILE: set one of them, not both")
    if key:
        return _checked("SECRET_KEY", key)
    if file:
        return _checked("SECRET_KEY_FILE", _read_file("SECRET_KEY_FILE", Path(file)))
    path = directory / "secret_key"
    try:
        _generate_once(path)
        _wait_for_content(path)
    except OSError as error:
        raise ValueError(
            f"DATA_DIRECTORY: cannot keep a generated secret key in {directory} ({error.strerror}); "
            "set SECRET_KEY or SECRET_KEY_FILE, or name a directory that can be written to"
        ) from error
    return _checked("DATA_DIRECTORY", _read_file("DATA_DIRECTORY", path))


def read_previous(given: Mapping[str, str]) -> bytes:
    """The other key, which only verifies; empty if there is none. Raises ``ValueError``."""
    key = given["SECRET_KEY_PREVIOUS"]
    return _checked("SECRET_KEY_PREVIOUS", key) if key else b""


def _read_file(variable: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"{variable}: cannot read {path} ({reason})") from error


def _checked(variable: str, key: str) -> bytes:
    if len(key.encode()) < MIN_BYTES:
        raise ValueError(f"{variable}: must hold at least {MIN_BYTES} bytes")
    if len(set(key)) < _MIN_DISTINCT_CHARACTERS or any(word in key.lower() for word in _PLACEHOLDERS):
        raise ValueError(f"{variable}: is a placeholder; `openssl rand -hex 32` makes a real one")
    return key.encode()


def _generate_once(path: Path) -> None:
    """Create the file with a new secret unless it exists. Of several processes at once, one creates it.

    A hard link to a complete file would be the other way, but not every volume has hard links.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    try:
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - it has a descriptor, not a path
            file.write(secrets.token_hex(MIN_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def _wait_for_content(path: Path) -> None:
    """Wait while another process writes the file that it has created."""
    deadline = time.monotonic() + _WRITE_SECONDS
    while not path.stat().st_size:
        if time.monotonic() > deadline:
            raise ValueError(f"DATA_DIRECTORY: {path} is empty, its writer was interrupted: delete it")
        time.sleep(0.01)
