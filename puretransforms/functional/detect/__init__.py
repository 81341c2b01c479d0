"""Detectors of poisoned image data: small pure functions, one question each."""
