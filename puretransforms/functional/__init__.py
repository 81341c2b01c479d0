"""Pure tensor functions: tensors in, tensors out; no ``nn.Module``, no I/O, no global random state."""
