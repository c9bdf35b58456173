"""Pretrained GHNs that travel with the package."""
