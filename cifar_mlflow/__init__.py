"""A published CIFAR-10 study of convolutional networks, as an MLflow project."""
