"""Backdoors: a trigger on an image makes a network say what the attacker wants."""
