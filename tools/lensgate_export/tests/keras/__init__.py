"""Tests that run with the packages of requirements/keras.txt."""
