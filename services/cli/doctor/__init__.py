"""`wirespan doctor`: what this machine can do for Wirespan, one check a module."""
