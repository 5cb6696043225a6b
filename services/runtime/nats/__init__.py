"""The bus, over NATS JetStream. Only this package knows the NATS client."""

from services.runtime import footprint

with footprint.without("aiohttp"):  # The client makes web sockets of it, which nobody here has: a quarter of a second to load.
    import nats as nats
