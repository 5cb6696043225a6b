"""The wire contract of Wirespan: flow batches, their columns, and the names on the bus. Imports no service."""
