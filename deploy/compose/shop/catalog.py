"""What there is to buy: HTTP/1, over Postgres (TLS). Without SHOP_POSTGRES it knows its products by heart."""

import os
import time

import psycopg
from faults import is_made
from flask import Flask
from psycopg_pool import ConnectionPool
from werkzeug.serving import ThreadedWSGIServer

PICTURE = os.urandom(256 * 1024)
DELAY_SECONDS = 0.4
BACKLOG = 64

app = Flask("catalog")
pool: ConnectionPool | None = None


@app.get("/products/<int:number>")
def product(number: int) -> dict[str, object]:
    """Return name and price."""
    if pool is None:
        return {"name": f"product {number}", "price": 100 + number}
    with pool.connection() as database:
        work = "pg_sleep(%s)" if is_made("slow-database") else "%s::text"
        name, price, _ = database.execute(
            f"SELECT name, price, {work} FROM products WHERE id = %s",  # noqa: S608 - of two constants
            (DELAY_SECONDS, number),
        ).fetchone()
        if is_made("exhausted-pool"):
            time.sleep(DELAY_SECONDS)  # the answer is there, the connection is not given back
    return {"name": name, "price": price}


@app.get("/pictures/<int:number>")
def picture(number: int) -> bytes:
    """Return something large."""
    del number
    return PICTURE


class Server(ThreadedWSGIServer):
    """A thread for each connection."""

    def service_actions(self) -> None:
        """Do what the server does between two connections: nothing, or no more."""
        if is_made("full-accept-queue"):
            self.socket.listen(1)
            while is_made("full-accept-queue"):
                time.sleep(0.1)
            self.socket.listen(BACKLOG)


def stocked(database: str) -> ConnectionPool:
    """Return connections to a database that has the products."""
    with psycopg.connect(database) as first:
        first.execute("CREATE TABLE IF NOT EXISTS products (id int PRIMARY KEY, name text, price int)")
        first.execute(
            "INSERT INTO products SELECT n, 'product ' || n, 100 + n FROM generate_series(1, 100) n ON CONFLICT DO NOTHING"
        )
    return ConnectionPool(database, min_size=2, max_size=2, timeout=10, open=True)


if __name__ == "__main__":
    if os.environ.get("SHOP_POSTGRES"):
        pool = stocked(os.environ["SHOP_POSTGRES"])
    address, port = os.environ["SHOP_LISTEN"].split(":")
    Server(address, int(port), app).serve_forever()
