"""``python -m puretransforms``."""

from .cli import app

app()
