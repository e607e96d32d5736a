"""PostgreSQL as this service uses it: the connection pool, batches of statements, migrations."""
