"""Targeted poisons: one test image shall be taken for another class."""
