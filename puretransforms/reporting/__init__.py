"""Pages, charts and tables: how results are shown, whatever they are about."""
