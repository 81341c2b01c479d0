"""Purifiers as torchvision v2 transforms, one idea a file; every module here is imported, so that it registers."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
