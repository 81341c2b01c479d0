"""Files, local and remote, written whole or not at all."""
