"""What is removed from the text of a log record, and what stays."""

import logging
import sys
import time

import pytest

from service.observability.logs import TextFormatter
from service.observability.redaction import redact

ADDRESS = "alice.o'neil+news@mail.example.com"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Key (email)=(a@b.example) already exists.", "Key (email)=[removed]"),
        ("Key (username, email)=(x (y), z) already exists.", "Key (username, email)=[removed]"),
        ("Key (user_id)=(7) is not present in table", "Key (user_id)=[removed]"),
        ("Failing row contains (1, alice, hunter2hunter2).", "Failing row contains [removed]"),
        (
            "invalid input for query argument $3: 'hunter (2)' (expected str, got int)",
            "invalid input for query argument $3: [removed] (expected str, got int)",
        ),
        ('invalid input syntax for type integer: "hunter2"', "invalid input syntax for type integer: [removed]"),
        ("UserCreate(username='alice', password='hun ter2')", "UserCreate(username='alice', password=[removed])"),
        ("{'new_password': \"it's\", 'id': 1}", "{'new_password': [removed], 'id': 1}"),
        ('{"refresh_token":"abc","id":1}', '{"refresh_token":[removed],"id":1}'),
        ("username=alice&password=hunter2&x=1", "username=alice&password=[removed]&x=1"),
        ("Authorization: Bearer abc.def", "Authorization: [removed]"),
        ("the header b'Bearer abcdefghij' is wrong", "the header b'Bearer [removed]' is wrong"),
        ("read eyJhbGciOi.eyJpc3Mi.Zm9v_x now", "read [removed] now"),
        ("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA+/x", "[removed]"),
        ("postgresql://app:hunter2@db.example/app", "postgresql://app:[removed]@db.example/app"),
        ("<alice@example.com> and bob%40example.com", "<[removed]> and [removed]"),
        ("to ünï@exämple.com,", "to [removed],"),
        ('relation "posts" does not exist', 'relation "posts" does not exist'),
        ("no token was sent, 3 passwords wait", "no token was sent, 3 passwords wait"),
        ("GET /posts/7 failed request_id=a-1", "GET /posts/7 failed request_id=a-1"),
        ("Set POSTGRES at db.example:5432", "Set POSTGRES at db.example:5432"),
    ],
)
def test_secrets_are_removed(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a-",
        "-eyJ",
        "eyJ.",
        "Key (",
        "Key (a)=(",
        "password ",
        "token-",
        "a.",
        "a@",
        "x://",
        "basic ",
        "$argon2",
        "'",
    ],
)
def test_a_long_text_takes_little_time(piece: str) -> None:
    begun = time.process_time()

    redact(piece * (100_000 // len(piece)))

    assert time.process_time() - begun < 10  # quadratic time would be more than a minute


def test_no_text_can_pass_for_a_record() -> None:
    record = logging.makeLogRecord(
        {"name": "service", "levelname": "INFO", "msg": "%s", "args": ("a\n2026-11-26 INFO forged\r\x1b[2J\u2028b",)}
    )

    lines = TextFormatter().format(record).splitlines()

    assert len(lines) == 2
    assert lines[0].endswith("INFO    service: a")
    assert lines[1] == r"  2026-11-26 INFO forged\r\x1b[2J\u2028b"


def test_a_traceback_has_its_frames_and_no_secret() -> None:
    try:
        int(ADDRESS)
    except ValueError:
        record = logging.LogRecord("service", logging.ERROR, "", 1, "failed", None, sys.exc_info())

    text = TextFormatter().format(record)

    assert "in test_a_traceback_has_its_frames_and_no_secret" in text
    assert "ValueError: invalid literal for int() with base 10: " in text
    assert "example.com" not in text
