"""A rank without a model: `python -m support.gang_stub ADDRESS RANK`. It is there and answers pings, nothing else.

The rank that the environment variable names refuses its configuration, as one whose machine has too few devices.
"""

import os
import sys
from multiprocessing.connection import Client

from autoglm_serving.engines.gang.messages import Failed, Hello, Loaded, Ping, Pong, refusal
from autoglm_serving.engines.interface import EngineOptionsInvalid

REFUSES = "GANG_STUB_REFUSES"


def main(address: str, rank: int) -> None:
    connection = Client(address, family="AF_UNIX")
    connection.send(Hello(rank))
    connection.recv()
    if os.environ.get(REFUSES) == str(rank):
        error = EngineOptionsInvalid("needs 2 cuda devices here and there are 1")
        connection.send(Failed(f"EngineOptionsInvalid: {error}", refusal(error)))
        return
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
