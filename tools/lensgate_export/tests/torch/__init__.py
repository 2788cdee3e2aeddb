"""Tests that run with the packages of requirements/torch.txt."""
