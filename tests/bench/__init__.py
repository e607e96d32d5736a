"""The benchmark: the service and its peers, on one PostgreSQL and under one load. `just bench` runs it."""
