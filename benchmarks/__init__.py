"""What is fast, against what a user would write instead."""
