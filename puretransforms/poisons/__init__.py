"""Poison generators, one paper a file."""
