"""The bodies of requests and responses, with their limits."""
