"""Request bodies: content types and sizes."""

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TEXT = {"Content-Type": "text/plain"}

MEBIBYTE = 1024 * 1024  # the limit of a body
