"""Faults on purpose, too slow or too rough for the tests; docs/faults.md has what they printed."""
