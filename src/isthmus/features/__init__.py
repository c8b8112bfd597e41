"""Stored patches: encode each picture once, train many times (DESIGN 5.11)."""
