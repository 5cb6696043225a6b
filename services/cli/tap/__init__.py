"""`wirespan tap`: the records that pass on the bus, that passed lately, or that are in a file; those that are asked for."""
