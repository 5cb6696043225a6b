"""Whose a socket is: control groups, containers, processes."""
