"""CIFAR-10: its name, its classes, and the digest of its arrays.

Krizhevsky, Nair, Hinton: "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

NAME = "CIFAR-10"
STAND_IN = f"a stand-in for {NAME}"  # other data in its format
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)
# SHA-256 of the four arrays, as `dataset.content_digest` computes it; the files' own sums are published at URL.
CIFAR10_DIGEST = "757badef4aaef0dde1248f247c84a74933f68f0db1a17c0f1b73080d64e260f7"
URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
