"""The tests: the real app over HTTP on a real PostgreSQL."""
