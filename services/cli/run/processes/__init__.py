"""The processes of a run: the bus, the services that are started again, and what they say."""
