"""Distributed training of Wasserstein GANs on sharded image data."""
