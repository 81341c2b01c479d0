"""``python -m puretransforms``."""

from .cli.main import app

app()
