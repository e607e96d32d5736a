"""A REST backend for accounts and posts."""
