"""The service while what is around it fails: ``just faults``."""
