"""Pure functions: tables in, numbers or a matplotlib Figure out."""
