"""The OTEL_EXPORTER_OTLP_* variables mean what the specification says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.exporter.delivery.environment import VARIABLES, OtlpSettings, read_environment
from services.runtime.errors import SettingsError
from tests.support.certificates import make_certificates


def faults(environ: dict[str, str]) -> list[str]:
    """The lines that say what is wrong with the environment."""
    with pytest.raises(SettingsError) as raised:
        read_environment(environ)
    return [line for line in str(raised.value).splitlines() if "OTEL_" in line]


def test_defaults_are_those_of_the_specification():
    """Nothing set: gRPC to localhost:4317 in the clear, ten seconds, no compression, no headers."""
    assert read_environment({}) == OtlpSettings(protocol="grpc", endpoint="localhost:4317", secure=False, timeout_seconds=10.0)


def test_the_default_endpoint_follows_the_protocol():
    """HTTP has a default port and path of its own."""
    settings = read_environment({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"})
    assert settings.endpoint == "http://localhost:4318/v1/traces"


@pytest.mark.parametrize("name", ["PROTOCOL", "ENDPOINT", "TIMEOUT", "COMPRESSION", "HEADERS"])
def test_the_variable_for_traces_wins(name: str):
    """OTEL_EXPORTER_OTLP_TRACES_<NAME> is read before OTEL_EXPORTER_OTLP_<NAME>."""
    general = {"PROTOCOL": "nonsense", "ENDPOINT": "http://a:1", "TIMEOUT": "1", "COMPRESSION": "none", "HEADERS": "a=1"}
    traces = {"PROTOCOL": "grpc", "ENDPOINT": "http://b:2", "TIMEOUT": "2", "COMPRESSION": "gzip", "HEADERS": "b=2"}
    both = read_environment(
        {f"OTEL_EXPORTER_OTLP_{name}": general[name], f"OTEL_EXPORTER_OTLP_TRACES_{name}": traces[name]},
    )
    assert both == read_environment({f"OTEL_EXPORTER_OTLP_TRACES_{name}": traces[name]})


def test_an_empty_variable_is_unset():
    """An empty value for traces does not hide the general one, and an empty general one is the default."""
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"}
    assert read_environment(environ).endpoint == "a:1"
    assert read_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}) == read_environment({})


@pytest.mark.parametrize(
    ("variable", "endpoint", "url"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://tempo:4318", "http://tempo:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://tempo:4318/", "http://tempo:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otlp.example/prefix", "https://otlp.example/prefix/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otlp.example/prefix/?key=1", "https://otlp.example/prefix/v1/traces?key=1"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://tempo:4318", "http://tempo:4318/"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://tempo:4318/otlp/spans", "http://tempo:4318/otlp/spans"),
    ],
)
def test_path_of_an_http_endpoint(variable: str, endpoint: str, url: str):
    """The general endpoint gets /v1/traces appended to its path; the one for traces is used as it is."""
    assert read_environment({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", variable: endpoint}).endpoint == url


@pytest.mark.parametrize(
    ("endpoint", "insecure", "target", "secure"),
    [
        ("http://tempo:4317", "", "tempo:4317", False),
        ("https://tempo:4317", "", "tempo:4317", True),
        ("HTTPS://tempo:4317/ignored", "", "tempo:4317", True),
        ("https://tempo:4317", "true", "tempo:4317", True),
        ("http://tempo:4317", "false", "tempo:4317", False),
        ("https://tempo", "", "tempo:443", True),
        ("http://[::1]:4317", "", "[::1]:4317", False),
        ("tempo:4317", "", "tempo:4317", True),
        ("tempo:4317", "True", "tempo:4317", False),
        ("unix:///run/otlp.sock", "true", "unix:///run/otlp.sock", False),
    ],
)
def test_security_of_a_grpc_endpoint(endpoint: str, insecure: str, target: str, *, secure: bool):
    """The scheme decides; INSECURE counts only where there is none."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_INSECURE": insecure}
    settings = read_environment(environ)
    assert (settings.endpoint, settings.secure) == (target, secure)


@pytest.mark.parametrize(
    "target",
    [
        "tempo", "tempo:4317", "tempo.obs.svc.cluster.local.:4317", "10.0.0.1:4317", "[fd00::1]:4317", "a_b:1",
        "dns:///tempo:4317", "dns:tempo:4317", "dns://10.0.0.53:53/tempo:4317", "unix:run/otlp.sock", "unix:///run/otlp.sock",
        "unix-abstract:otlp", "ipv4:10.0.0.1:4317,10.0.0.2:4317", "ipv6:[fd00::1]:4317",
    ],
)  # fmt: skip
def test_a_target_that_grpc_resolves_is_passed_on(target: str):
    """Whatever form gRPC has for it."""
    assert read_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": target}).endpoint == target


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "grpc://tempo:4317", "grpcs://tempo:4317", "tcp://tempo:4317", '"http://tempo:4317"', "'tempo:4317'", "tempo:4317/",
        "tempo:4317/v1/traces", "//tempo:4317", "fd00::1:4317", "tempo:0", "tempo:99999", "tempo:port", "tempo 4317", "dns:///",
        "unix:", "http://tem po:4317", 'http://"tempo":4317', "user:secret@tempo:4317", "tempo,other",
    ],
)  # fmt: skip
def test_an_endpoint_that_grpc_cannot_resolve_is_a_fault(variable: str, endpoint: str):
    """It would be looked for again and again. What is said names the variable and what it takes, and no password."""
    (line,) = faults({variable: endpoint, "OTEL_EXPORTER_OTLP_INSECURE": "true", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert line.startswith(f"{variable}=")
    assert "wanted " in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("environ", "protocol", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, "http/protobuf", "http://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otlp:4318/otlp/"}, "http/protobuf", "https://otlp:4318/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://otlp/v1/traces"}, "http/protobuf", "https://otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}, "grpc", "localhost:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}, "grpc", "localhost:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc", "h:4318"),
    ],
)
def test_the_endpoint_suggests_the_protocol_where_nobody_says_it(environ: dict[str, str], protocol: str, endpoint: str):
    """HTTP has a port and a path of its own; gRPC over them would fail for ever."""
    settings = read_environment(environ)
    assert (settings.protocol, settings.endpoint) == (protocol, endpoint)


def test_a_guess_does_not_lead_to_a_path_that_is_none():
    """The endpoint of traces is used as it is; where nobody said HTTP, one without a path is a fault and not a 404 for good."""
    assert "/v1/traces" in faults({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:4318"})[0]


def test_headers_are_decoded_as_in_baggage():
    """Pairs are separated by commas, trimmed and percent-decoded; a value may be empty or hold an equals sign."""
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": " authorization = Basic%20dTpw ,x-scope-orgid=1,empty=,,token=a=b%2Cc"}
    assert read_environment(environ).headers == (
        ("authorization", "Basic dTpw"),
        ("x-scope-orgid", "1"),
        ("empty", ""),
        ("token", "a=b,c"),
    )


def test_timeout_is_in_milliseconds():
    """The specification's unit."""
    assert read_environment({"OTEL_EXPORTER_OTLP_TIMEOUT": "2500"}).timeout_seconds == 2.5


def test_every_fault_is_named_at_once():
    """One message has a line for each variable that makes no sense, with its name and value."""
    found = faults(
        {
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://:4317",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "10s",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "zstd",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem",
            "OTEL_EXPORTER_OTLP_HEADERS": "no-equals-sign",
        },
    )
    assert len(found) == 6
    assert any("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" in line and "http/json" in line for line in found)


@pytest.mark.parametrize(
    "endpoint", ["ftp://tempo:1", "http://tempo:port", "http://tempo:99999", "http://[::1", "tempo:4318", "http://"]
)
def test_an_endpoint_that_is_none_is_a_fault(endpoint: str):
    """Never a traceback, and never a guess."""
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    assert len(faults(environ)) == 1


@pytest.mark.parametrize("value", ["authorization=secret%0d%0ax: y", "bad name=secret", "secret"])
def test_a_header_that_is_none_is_a_fault_without_its_value(value: str):
    """Headers carry credentials: what is wrong is said, what they hold is not."""
    (line,) = faults({"OTEL_EXPORTER_OTLP_HEADERS": value})
    assert "secret" not in line


def test_credentials_in_the_url_are_a_fault_and_not_shown():
    """They would be dropped without a word; headers are the place for them."""
    (line,) = faults({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:secret@tempo:4317"})
    assert "secret" not in line


def test_certificates_are_tried_at_the_start(tmp_path: Path):
    """Files that are no certificates, or a key that is not the certificate's, stop the start and not the first request."""
    certificates = make_certificates(tmp_path)
    base = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://tempo:4317",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates.authority),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(certificates.client_certificate),
    }
    good = read_environment(base | {"OTEL_EXPORTER_OTLP_CLIENT_KEY": str(certificates.client_key)})
    assert good.client_key_file == certificates.client_key
    assert faults(base | {"OTEL_EXPORTER_OTLP_CLIENT_KEY": str(certificates.server_key)})
    assert faults(base | {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates.client_key)})
    assert faults({"OTEL_EXPORTER_OTLP_CLIENT_KEY": str(certificates.client_key)})


def test_every_variable_is_described():
    """The table behind the documentation has each variable that is read."""
    source = Path(read_environment.__code__.co_filename).read_text()
    assert set(re.findall(r'self\._(?:value|file)\("([A-Z_]+)"\)', source)) == set(VARIABLES)
