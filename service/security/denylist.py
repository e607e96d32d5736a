"""Passwords that are refused because they are guessed first."""

from pathlib import Path
from typing import Final

from service.errors import FaultyField, InvalidFields

FILE: Final = Path(__file__).with_name("common_passwords.txt")
MIN_PART_LENGTH: Final = 4  # characters of a name that a password must not contain


class Denylist:
    """Refuses the most common passwords, and those that contain the user's name. Case does not matter.

    The list is kept as one text, which takes a fifth of the memory of a set. A search takes some microseconds.
    """

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        # An empty line ends the head of the file.
        self._passwords = b"\n" + FILE.read_bytes().partition(b"\n\n")[2] if is_on else b""

    def check(self, pointer: str, password: str, *, username: str, email: str) -> None:
        """Raise ``InvalidFields`` for a password that must not be used. ``pointer`` names its field."""
        if not self._is_on:
            return
        lowered = password.lower()
        if f"\n{lowered}\n".encode() in self._passwords:
            raise InvalidFields([FaultyField(pointer, "is one of the most common passwords")])
        parts = {"username": username, "part of the e-mail address before the @": email.rpartition("@")[0]}
        for name, part in parts.items():
            if len(part) >= MIN_PART_LENGTH and part.lower() in lowered:
                raise InvalidFields([FaultyField(pointer, f"must not contain the {name}")])
