"""Torch modules as networks, by way of `torch.export`."""
