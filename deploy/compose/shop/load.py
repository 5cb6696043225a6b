"""Customers: a few at a time, each of whom asks, waits for the answer, and thinks for a moment."""

import os
import random
import time
from threading import Thread

import requests

CUSTOMERS = int(os.environ.get("SHOP_CUSTOMERS", "4"))
THINK_SECONDS = float(os.environ.get("SHOP_THINK_SECONDS", "0.5"))


def customer() -> None:
    """Buy for ever."""
    issuer = f"{os.environ['SHOP_CERTIFICATES']}/client.pem"
    with requests.Session() as session:
        while True:
            number = random.randint(1, 100)  # noqa: S311 - which product is no secret
            try:
                session.get(f"https://{os.environ['SHOP_FRONTEND']}/checkout/{number}", verify=issuer, timeout=30)
            except requests.RequestException as error:
                print(error, flush=True)  # noqa: T201 - the log
            time.sleep(THINK_SECONDS)


if __name__ == "__main__":
    for _ in range(CUSTOMERS):
        Thread(target=customer).start()
