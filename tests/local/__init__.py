"""Tests of the embedded AWS, through real clients of the served process."""
