"""Random histories of connections, checked against a model of the server (``just fuzz-connections``)."""
