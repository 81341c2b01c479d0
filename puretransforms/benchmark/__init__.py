"""Attack meets defence: measured cases and their reports."""
