"""The routes: parse, one query call, answer."""
