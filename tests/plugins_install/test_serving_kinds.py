"""A placement, a guard, an access control and a server come as wheels, work by being named, and are gone after they are uninstalled."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.wheels

SERVED = """
import hashlib, json, socket, sys
import llmasos

open("keys.toml", "w").write(f"[keys.reader]\\nsha256 = '{hashlib.sha256(b'the key').hexdigest()}'\\ntenant = 'library'\\n")
config = {
    "model": {"source": sys.argv[1]},
    "loader": "counting",
    "scheduler": "lifo",
    "access": {"use": "file", "log": "audit.jsonl"},
    "server": [{"use": "lines", "port": 0}],
}

def ask(endpoint, **line):
    with socket.create_connection((endpoint.host, endpoint.port), timeout=60) as client, client.makefile("rb") as lines:
        client.sendall(json.dumps(line).encode() + b"\\n")
        found = [json.loads(next(lines))]
        while "text" in found[-1]:
            found.append(json.loads(next(lines)))
        return "".join(each.get("text", "") for each in found), found[-1]

with llmasos.Pipeline.from_config(config) as pipeline, llmasos.Servers(pipeline) as servers:
    (endpoint,) = servers.endpoints
    print(json.dumps([ask(endpoint, prompt="abc", key="the key", max_new_tokens=4), ask(endpoint, prompt="abc")[1]]))
print(json.dumps([json.loads(line)["outcome"] for line in open("audit.jsonl")]))
"""


def named(environment, kind):
    return {component["name"] for component in environment.listed()["components"] if component["kind"] == kind}


@pytest.fixture
def run(checkpoint, counting_lifo):
    return ("run", "abc", "--model", str(checkpoint), "--loader", "counting", "--scheduler", "lifo", "--max-new-tokens", "4")


def test_an_external_guard_comes_works_by_name_and_goes(environment, wheels, run):
    table = ("--set", "guard[0].use=words", "--set", 'guard[0].words=["ef"]', "--set", "guard[0].replacement=-")
    before = environment.llmasos(*run, *table)
    assert 'no guard "words" is installed' in before.stderr
    environment.pip("install", "--no-deps", str(wheels["guard-words"]))
    assert named(environment, "guard") == {"words"}
    done = environment.llmasos(*run, *table)
    assert (done.returncode, done.stdout) == (0, "d-g\n"), done.stderr
    blocked = environment.llmasos(*run, "--set", "guard[0].use=words", "--set", 'guard[0].blocked=["abc"]')
    assert blocked.returncode == 1
    assert 'guard "words" (guard-words 0.1.0) blocked the prompt' in blocked.stderr
    environment.pip("uninstall", "--yes", "guard-words")
    assert named(environment, "guard") == set()
    assert environment.llmasos(*run, *table).stderr == before.stderr


def test_an_external_placement_comes_works_by_name_and_goes(environment, wheels, run):
    placed = ("--set", "placement.use=process")
    before = environment.llmasos(*run, *placed)
    assert 'no placement "process" is installed' in before.stderr
    assert named(environment, "placement") == {"local"}
    environment.pip("install", "--no-deps", str(wheels["placement-process"]))
    assert named(environment, "placement") == {"local", "process"}
    done = environment.llmasos(*run, *placed)
    assert (done.returncode, done.stdout) == (0, "defg\n"), done.stderr
    environment.pip("uninstall", "--yes", "placement-process")
    assert named(environment, "placement") == {"local"}
    assert environment.llmasos(*run, *placed).stderr == before.stderr


def test_an_external_server_and_access_control_come_work_by_name_and_go(environment, wheels, run, checkpoint):
    serve = ("serve", "--model", str(checkpoint), "--loader", "counting", "--set", "server[0].use=lines")
    assert 'no server "lines" is installed' in environment.llmasos(*serve).stderr
    environment.pip("install", "--no-deps", str(wheels["server-lines"]), str(wheels["access-file"]))
    assert named(environment, "server") == {"lines"}
    assert named(environment, "access") == {"open", "file"}
    reached = environment.llmasos(*serve, "--scheduler", "lifo", "--set", "server[0].host=0.0.0.0")
    assert "access is open to everybody" in reached.stderr
    done = environment.code(SERVED, str(checkpoint))
    assert done.returncode == 0, done.stderr
    (answer, refused), outcomes = map(json.loads, done.stdout.splitlines())
    assert answer == ["defg", {"finish": "length", "tokens": 4}]
    assert "key is not known" in refused["error"]
    assert sorted(outcomes) == ["denied", "done"]
    environment.pip("uninstall", "--yes", "server-lines", "access-file")
    assert named(environment, "server") == set()
    assert named(environment, "access") == {"open"}
