"""What somebody wants to buy: gRPC, over Redis (TLS). Without SHOP_REDIS it remembers by itself.

Messages are JSON: the shop needs no compiler.
"""

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import redis

store = redis.Redis.from_url(os.environ["SHOP_REDIS"]) if os.environ.get("SHOP_REDIS") else None
remembered: Counter[str] = Counter()


def add(request: dict[str, str], context: grpc.ServicerContext) -> dict[str, int]:
    """Put a product into a user's cart; return how many there are."""
    del context
    user, product = request["user"], request["product"]
    if store is not None:
        return {"items": store.hincrby(f"cart:{user}", product, 1)}
    remembered[user] += 1
    return {"items": remembered[user]}


if __name__ == "__main__":
    method = grpc.unary_unary_rpc_method_handler(
        add, request_deserializer=json.loads, response_serializer=lambda answer: json.dumps(answer).encode()
    )
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Cart", {"Add": method})])
    server.add_insecure_port(os.environ["SHOP_LISTEN"])
    server.start()
    server.wait_for_termination()
