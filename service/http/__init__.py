"""Litestar, as this service uses it: routes, requests, responses and errors."""
