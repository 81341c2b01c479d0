"""Availability poisons: what is trained on them learns a shortcut and nothing of the images."""
