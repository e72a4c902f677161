"""One thin script for each entry point of MLproject: parse, call, print."""
