"""Tests that run with the packages of requirements/base.txt."""
