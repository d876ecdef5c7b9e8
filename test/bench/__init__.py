"""Measuring hauls beside what else moves containers."""
