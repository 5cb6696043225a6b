"""`wirespan plan`: what to run for how many nodes."""
