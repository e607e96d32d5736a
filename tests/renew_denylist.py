"""Writes the denylist of passwords anew: `uv run --no-project --with zxcvbn python tests/renew_denylist.py`."""

from importlib.metadata import version
from pathlib import Path

from zxcvbn.frequency_lists import FREQUENCY_LISTS  # type: ignore[import-untyped]  # not installed with the project

VERSION = version("zxcvbn")
MIN_LENGTH = 8  # shorter ones are refused in any case
FILE = Path(__file__).parents[1] / "service" / "security" / "common_passwords.txt"
HEADER = f"""\
The most common passwords, of at least {MIN_LENGTH} characters, in lower case and sorted: those among the 30,000 that
zxcvbn {VERSION} lists (MIT licence, copyright (c) 2016 Daniel Wolf), which come from Dropbox's zxcvbn (MIT licence,
copyright (c) 2012-2016 Dan Wheeler and Dropbox, Inc.). tests/renew_denylist.py writes this file.

"""

passwords = sorted({word.lower() for word in FREQUENCY_LISTS["passwords"] if len(word) >= MIN_LENGTH})
FILE.write_text(HEADER + "\n".join(passwords) + "\n", encoding="utf-8")
