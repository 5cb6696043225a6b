"""The `wirespan` command."""
