"""PostgreSQL, as this service uses it: the pool, statements that are sent together, the schema."""
