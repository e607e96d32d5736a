"""Path segments that are not valid ids: a valid one is a 64-bit positive integer in its canonical form."""

INVALID_IDS = [
    "abc",
    "-1",
    "0",
    "01",
    "007",
    "+1",
    "1.0",
    "1e3",
    "1_0",
    "\u0663",
    "9223372036854775808",
    "99999999999999999999",
    "%00",
]
