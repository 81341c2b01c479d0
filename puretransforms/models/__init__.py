"""Networks only: tensors in, tensors out; sizes come in by argument."""
