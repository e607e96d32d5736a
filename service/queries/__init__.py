"""The statements, a constant and a function each."""
