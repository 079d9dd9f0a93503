"""`make audit`: known vulnerabilities of the pinned packages."""

import json
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers.http_server import serving
from helpers.project import REPOSITORY, run_python

VULNERABILITY = {
    "id": "PYSEC-0000-1",
    "affected": [
        {
            "package": {"name": "pillow", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9999.0"}]}],
        }
    ],
}


def audit(url: str) -> subprocess.CompletedProcess:
    script = REPOSITORY / ".ci/audit.py"
    return run_python(script, "-s", "osv", "--osv-url", url, folder=REPOSITORY)


@pytest.mark.parametrize("vulnerable", [True, False])
def test_a_vulnerability_is_an_error(vulnerable: bool):
    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hit = vulnerable and query["package"]["name"] == "pillow"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": [VULNERABILITY]} if hit else {}).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Service)) as address:
        done = audit(address)
    assert done.returncode == vulnerable, done.stderr
    assert "packages looked up" in done.stdout
    if vulnerable:
        assert done.stderr.startswith("pillow ")
        assert done.stderr.endswith(": PYSEC-0000-1, fixed in 9999.0\n")


def test_without_a_network_it_is_skipped():
    done = audit("http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "pip-audit: skipped, the list of vulnerabilities cannot be reached\n"
