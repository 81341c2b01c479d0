"""The purifiers as torchvision v2 transforms."""
