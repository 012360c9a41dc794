"""A rank without a model: `python -m support.gang_stub ADDRESS RANK`. It is there and answers pings, nothing else."""

import sys
from multiprocessing.connection import Client

from autoglm_serving.engines.gang.messages import Hello, Loaded, Ping, Pong


def main(address: str, rank: int) -> None:
    connection = Client(address, family="AF_UNIX")
    connection.send(Hello(rank))
    connection.recv()
    connection.send(Loaded(1000 + rank))
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if isinstance(message, Ping):
            connection.send(Pong())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
