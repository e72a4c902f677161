"""Train one network: configuration and images in, weights out."""
