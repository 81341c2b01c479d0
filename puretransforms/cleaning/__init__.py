"""Clean a whole dataset: units, atomic writes, manifest, report."""
