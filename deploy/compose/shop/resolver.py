"""The shop's DNS: one address for every name that SHOP_HOSTS has (`catalog=10.0.0.7 ...`), or that this host can resolve."""

import os
import socket
import time
from threading import Thread

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from faults import is_made

DELAY_SECONDS = 0.4
HOSTS = dict(pair.split("=") for pair in os.environ.get("SHOP_HOSTS", "").split())


def answer(listener: socket.socket, question: bytes, client: tuple[str, int]) -> None:
    """Answer one question."""
    if is_made("slow-resolver"):
        time.sleep(DELAY_SECONDS)
    message = dns.message.make_response(dns.message.from_wire(question), recursion_available=True)
    asked = message.question[0]
    name = asked.name.to_text(omit_final_dot=True)
    try:
        address = HOSTS.get(name) or socket.gethostbyname(name)
        message.answer.append(dns.rrset.from_text(asked.name, 0, "IN", "A", address))
    except OSError:
        message.set_rcode(dns.rcode.NXDOMAIN)
    listener.sendto(message.to_wire(), client)


if __name__ == "__main__":
    address, port = os.environ["SHOP_LISTEN"].split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((address, int(port)))
        while True:
            question, client = listener.recvfrom(512)
            Thread(target=answer, args=(listener, question, client), daemon=True).start()
