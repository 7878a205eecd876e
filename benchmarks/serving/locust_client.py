"""locust as the client, in a process of its own: it asks for the same work as ``client``, and prints the same as JSON.

    python -m benchmarks.serving.locust_client URL '{"requests": 8, "tokens": 64, "first": 0, "characters": 300}'

Each request is a user of locust's, who leaves after it. Connections, HTTP and scheduling are locust's (geventhttpclient, gevent); the lines
of an answer are kept with the time when they came, and read when the last has come.
"""

from __future__ import annotations

import itertools
import json
import sys
import time

import attrs
import gevent
from gevent.lock import BoundedSemaphore
from geventhttpclient.client import HTTPClientPool
from locust import FastHttpUser, task
from locust.env import Environment
from locust.exception import StopUser

from benchmarks.serving.figures import Run
from benchmarks.serving.seen import run_of, seen_in_lines
from benchmarks.serving.work import Work

#: Seconds after which an answer that sends nothing has failed.
_SILENCE = 600.0

#: When a request was sent, the status of its answer, when that ended, and its lines.
Found = tuple[float, int, float, list[tuple[float, bytes]]]


def main(url: str, work: Work) -> Run:
    """Do the work, and tell what came of it."""
    found: list[Found] = []
    user = users(url, work, found)
    environment = Environment(user_classes=[user], catch_exceptions=False)
    runner = environment.create_local_runner()
    cpu = time.process_time()
    runner.start(work.requests, spawn_rate=work.requests, wait=True)
    while len(found) < work.requests:
        gevent.sleep(0.01)
    cpu = time.process_time() - cpu
    runner.quit()
    seen = [seen_in_lines(began, status, ended, lines) for began, status, ended, lines in sorted(found)]
    return attrs.evolve(run_of(seen, work), client_cpu=cpu)


def users(url: str, work: Work, found: list[Found]) -> type[FastHttpUser]:
    """A class of users, each of whom sends one request of the work when it is due."""
    bodies, places = work.bodies(), itertools.count()
    seats = BoundedSemaphore(work.most)
    began = time.perf_counter()

    class Asking(FastHttpUser):
        host = url
        client_pool = HTTPClientPool(concurrency=work.requests)
        network_timeout = connection_timeout = _SILENCE

        @task
        def ask(self) -> None:
            place = next(places)
            gevent.sleep(max(0.0, began + work.due(place) - time.perf_counter()))
            with seats:
                sent, lines = time.perf_counter(), list[tuple[float, bytes]]()
                answer = self.client.post("/v1/completions", data=bodies[place], headers={"Content-Type": "application/json"}, stream=True)
                while line := answer.stream.readline(b"\n"):
                    lines.append((time.perf_counter(), bytes(line).rstrip(b"\n")))
                found.append((sent, answer.status_code, time.perf_counter(), lines))
            raise StopUser

    return Asking


if __name__ == "__main__":
    print(json.dumps(attrs.asdict(main(sys.argv[1], Work(**json.loads(sys.argv[2]))))))
