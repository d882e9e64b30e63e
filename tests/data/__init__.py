"""Tests of mcir.data."""
