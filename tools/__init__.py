"""What a developer of the project runs; no part of the package."""
