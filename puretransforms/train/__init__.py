"""One generator per model: it yields a small named record per step; no prints, no files."""
