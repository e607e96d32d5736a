"""SQL: a constant and a function for each statement."""
