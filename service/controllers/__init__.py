"""The routes: each parses a request, calls a query and returns its result."""
