"""Fault injection: the service under load while its database or its clients fail. ``just faults`` runs it."""
