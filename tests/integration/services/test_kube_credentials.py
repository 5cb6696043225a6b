"""Who we are to the API server, where that is renewed while we run: real files, real plugins, a server that looks."""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.enricher.errors import ApiRefusedError, ApiUnreachableError, KubeConfigError
from services.enricher.kubernetes.api import KubeApi, find_api
from services.enricher.kubernetes.listing import whole_list
from services.enricher.kubernetes.resources import RESOURCES
from tests.support.certificates import Certificates, make_certificates
from tests.support.kubernetes.hostile_kube_api import HostileKubeApi, Request

PODS = RESOURCES[0]
VERSION = "client.authentication.k8s.io/v1"


class Door:
    """An API server that lets in one token, and repeats what it was asked with where it does not."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: Request) -> None:
        """Answer a request."""
        said = request.headers.get("Authorization", "")
        if said == f"Bearer {self.token}":
            request.list()
        else:
            request.send(401, {"kind": "Status", "code": 401, "message": f"not let in with {said}"})


def kubeconfig(folder: Path, url: str, user: dict[str, Any], **cluster: Any) -> Path:
    """A kubeconfig with one user."""
    content = {
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return path


def opened(path: Path) -> KubeApi:
    """The API as the enricher opens it."""
    api = find_api("kubeconfig", kubeconfig=path, silence_seconds=5)
    assert api is not None
    return api


def ask(api: KubeApi) -> None:
    """List pods; raises what that raises."""
    whole_list(api, PODS, "", bytes)


def plugin(folder: Path, body: str) -> dict[str, Any]:
    """The `exec` of a kubeconfig whose plugin counts its runs; `said` and `info` are at its hands."""
    script = folder / "plugin"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "here = Path(__file__).parent\n"
        "with (here / 'runs').open('a') as runs: runs.write('.')\n"
        f"{body}\n"
    )
    script.chmod(0o755)
    return {"apiVersion": VERSION, "command": "./plugin", "interactiveMode": "Never"}


def says(folder: Path, **status: str) -> None:
    """Have the plugin of `SAYS` say this."""
    said = {"apiVersion": VERSION, "kind": "ExecCredential", "status": status}
    (folder / "said.new").write_text(json.dumps(said))
    (folder / "said.new").replace(folder / "said")


SAYS = "print((here / 'said').read_text())"


def runs(folder: Path) -> int:
    """How often the plugin was run."""
    return len((folder / "runs").read_text())


def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """Its line end is no part of the token, and a renewed one needs no restart."""
    file, door = tmp_path / "token", Door("first-token")
    file.write_text("first-token\n")
    with HostileKubeApi(door) as server:
        api = opened(kubeconfig(tmp_path, server.url, {"tokenFile": "token"}))
        ask(api)
        door.token = "second-token"
        with pytest.raises(ApiRefusedError):
            ask(api)
        file.write_text("second-token\n")
        ask(api)


@pytest.mark.parametrize("content", ["", "\n", "secret\x00token", "secret token", "secret\ntoken", "secret-tökén"])
def test_a_token_that_is_none_is_said_without_it(tmp_path: Path, content: str) -> None:
    """What no header may carry is said by the file's name, and mended while we run."""
    file = tmp_path / "token"
    file.write_text(content)
    with HostileKubeApi(Door("mended-token")) as server:
        api = opened(kubeconfig(tmp_path, server.url, {"tokenFile": str(file)}))
        with pytest.raises(ApiUnreachableError, match=str(file)) as raised:
            ask(api)
        assert "secret" not in str(raised.value)
        file.write_text("mended-token")
        ask(api)


def test_a_token_file_may_come_later(tmp_path: Path) -> None:
    """It is no fault of the configuration that nobody has written it yet."""
    with HostileKubeApi(Door("late-token")) as server:
        api = opened(kubeconfig(tmp_path, server.url, {"tokenFile": str(tmp_path / "token")}))
        with pytest.raises(ApiUnreachableError, match="No such file"):
            ask(api)
        (tmp_path / "token").write_text("late-token")
        ask(api)


def test_a_kubeconfig_that_was_written_anew_counts_once_the_old_one_is_refused(tmp_path: Path) -> None:
    """A token within it, as `kubectl config set-credentials` writes it."""
    door = Door("first-token")
    with HostileKubeApi(door) as server:
        api = opened(kubeconfig(tmp_path, server.url, {"token": "first-token"}))
        ask(api)
        door.token = "second-token"
        kubeconfig(tmp_path, server.url, {"token": "second-token"})
        ask(api)


def test_a_plugin_is_asked_again_at_its_expiry_and_when_it_is_refused(tmp_path: Path) -> None:
    """And not before: with or without an expiry, one run serves many requests."""
    door = Door("first-token")
    with HostileKubeApi(door) as server:
        api = opened(kubeconfig(tmp_path, server.url, {"exec": plugin(tmp_path, SAYS)}))
        says(tmp_path, token="first-token")
        ask(api)
        ask(api)
        assert runs(tmp_path) == 1
        door.token = "second-token"
        says(tmp_path, token="second-token", expirationTimestamp=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
        ask(api)
        assert runs(tmp_path) == 2
        door.token = "third-token"
        says(tmp_path, token="third-token", expirationTimestamp="2099-01-01T00:00:00Z")
        ask(api)
        ask(api)
        assert runs(tmp_path) == 3


@pytest.mark.parametrize(
    "body",
    [
        "print('secret'); print('secret', file=sys.stderr); sys.exit(3)",
        "print('secret')",
        "print(json.dumps({'apiVersion': 'v0', 'kind': 'ExecCredential', 'status': {'token': 'secret-token'}}))",
        f"print(json.dumps({{'apiVersion': {VERSION!r}, 'kind': 'ExecCredential', 'status': {{'user': 'secret'}}}}))",
        f"print(json.dumps({{'apiVersion': {VERSION!r}, 'kind': 'ExecCredential', 'status': {{'token': 'secret\\ntoken'}}}}))",
    ],
)
def test_a_plugin_that_fails_is_said_without_what_it_printed(tmp_path: Path, body: str) -> None:
    """Whether at the start or later: who asks is told, and asks again; it is no fault of the configuration."""
    with HostileKubeApi(Door("token")) as server:
        api = opened(kubeconfig(tmp_path, server.url, {"exec": plugin(tmp_path, body)}))
        with pytest.raises(ApiUnreachableError, match=r"credential plugin \./plugin") as raised:
            ask(api)
        assert "secret" not in str(raised.value)
        plugin(tmp_path, SAYS)
        says(tmp_path, token="token")
        ask(api)


def test_a_plugin_is_told_the_cluster_if_it_asks_for_it(tmp_path: Path) -> None:
    """`provideClusterInfo`, and the variables of the kubeconfig."""
    body = (
        "info = json.loads(os.environ['KUBERNETES_EXEC_INFO']); (here / 'info').write_text(json.dumps(info))\n"
        "said = {'token': os.environ['TOKEN']}\n"
        f"print(json.dumps({{'apiVersion': {VERSION!r}, 'kind': 'ExecCredential', 'status': said}}))"
    )
    spec = plugin(tmp_path, body) | {"provideClusterInfo": True, "env": [{"name": "TOKEN", "value": "of-the-environment"}]}
    with HostileKubeApi(Door("of-the-environment")) as server:
        ask(opened(kubeconfig(tmp_path, server.url, {"exec": spec})))
        told = json.loads((tmp_path / "info").read_text())
        assert told["spec"] == {"interactive": False, "cluster": {"server": server.url}}


@contextmanager
def strict_server(certificates: Certificates, wanted: Callable[[], bytes]) -> Iterator[str]:
    """A server over TLS that lets in the one certificate that is wanted now."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.connection.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(wanted().decode())
            body = b'{"metadata": {"resourceVersion": "1"}, "items": []}' if known else b'{"message": "who?"}'
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients go away."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.authority))
    context.load_cert_chain(certificates.server_certificate, certificates.server_key)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_plugin_may_give_certificates_and_renew_them(tmp_path: Path) -> None:
    """A refused certificate is asked for anew, and the next connection is made with it."""
    made = make_certificates(tmp_path)
    first, second = made.client_certificate, made.server_certificate
    wanted = first.read_bytes()
    with strict_server(made, lambda: wanted) as url:
        spec = plugin(tmp_path, SAYS)
        api = opened(kubeconfig(tmp_path, url, {"exec": spec}, **{"certificate-authority": str(made.authority)}))
        says(tmp_path, clientCertificateData=first.read_text(), clientKeyData=made.client_key.read_text())
        ask(api)
        wanted = second.read_bytes()
        says(tmp_path, clientCertificateData=second.read_text(), clientKeyData=made.server_key.read_text())
        ask(api)
        assert runs(tmp_path) == 2


def test_a_certificate_in_a_file_may_be_renewed(tmp_path: Path) -> None:
    """Once the old one is refused, a connection is made with the new one."""
    made = make_certificates(tmp_path)
    wanted = made.client_certificate.read_bytes()
    with strict_server(made, lambda: wanted) as url:
        user = {"client-certificate": "client.pem", "client-key": "client.key"}
        api = opened(kubeconfig(tmp_path, url, user, **{"certificate-authority": str(made.authority)}))
        ask(api)
        made.client_key.write_bytes(made.server_key.read_bytes())
        made.client_certificate.write_bytes(made.server_certificate.read_bytes())
        wanted = made.client_certificate.read_bytes()
        ask(api)


def test_no_message_has_what_a_kubeconfig_holds(tmp_path: Path) -> None:
    """Neither a kubeconfig of a wrong shape nor a server that repeats our token makes us say it."""
    path = tmp_path / "kubeconfig"
    broken = {"users": [{"name": "u", "token": "secret-token"}], "clusters": [{"name": "c"}], "current-context": "c"}
    path.write_text(json.dumps(broken | {"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}))
    with pytest.raises(KubeConfigError) as raised:
        opened(path)
    assert "secret-token" not in str(raised.value)
    with HostileKubeApi(Door("token")) as server:
        api = opened(kubeconfig(tmp_path, server.url, {"token": "secret-token"}))
        with pytest.raises(ApiRefusedError, match=r"not let in with (Bearer )?\*\*\*$"):
            ask(api)
