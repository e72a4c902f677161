"""CIFAR-10: find, verify, split."""
