"""Tests by the packages they need; `tools/test-models.sh` runs each with its own."""
