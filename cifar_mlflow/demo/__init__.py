"""A page in which people try a model: one HTML file that needs neither a server nor a network."""
