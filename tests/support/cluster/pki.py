"""Who is who in a cluster: an authority, the certificates that its servers need, and a kubeconfig for each of its programs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ADMIN: Final = "admin"
_GROUPS: Final = {
    ADMIN: "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
}
_USAGES: Final = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


class Pki:
    """Everything below `folder`. Users have a token each; servers, and the API server before kubelets, a certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens: dict[str, str] = {}
        folder.mkdir(parents=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Cluster")])
        self.authority = self.folder / "authority.pem"
        self.authority.write_bytes(_pem(self._signed(self._name, self._key.public_key(), authority=True)))
        self.service_accounts = self.folder / "service-accounts.key"
        self.service_accounts.write_bytes(_private(rsa.generate_private_key(public_exponent=65537, key_size=2048)))

    def pair(self, name: str, *, group: str = "", hosts: tuple[str, ...] = ()) -> Pair:
        """A certificate of the authority for a user in a group, or for a server with these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if group:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        pair.certificate.write_bytes(_pem(self._signed(x509.Name(attributes), key.public_key(), hosts=hosts)))
        pair.key.write_bytes(_private(key))
        return pair

    def write_tokens(self, nodes: list[str]) -> Path:
        """Write the API server's file of tokens for all users, the nodes' kubelets among them."""
        groups = _GROUPS | {f"system:node:{node}": "system:nodes" for node in nodes}
        self.tokens = {user: secrets.token_hex(16) for user in groups}
        lines = [f'{token},{user},{user},"{groups[user]}"\n' for user, token in self.tokens.items()]
        path = self.folder / "tokens.csv"
        path.write_text("".join(lines))
        return path

    def kubeconfig(self, user: str, server: str) -> Path:
        """A kubeconfig file of a user."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(self.authority)}}],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        path.write_text(json.dumps(content))
        return path

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, hosts: tuple[str, ...] = (), authority: bool = False
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage(_USAGES), critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(each) for each in hosts]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
