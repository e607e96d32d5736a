"""uvicorn, as this service runs it: connections, load shedding, drain, and several workers."""
