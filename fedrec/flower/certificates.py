"""Keys and certificates with which a server and its nodes try a deployment.

One authority of one's own signs the server's certificate; nodes are given the authority's
certificate, and each a key that the server knows the public part of.
"""

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrec.errors import ConfigError

AUTHORITY = "ca.crt"
AUTHORITY_KEY = "ca.key"
CERTIFICATE = "server.crt"
KEY = "server.key"
NODES = "nodes"
"""The folder of the keys of nodes, ``node-000`` with ``node-000.pub``."""


def make_certificates(folder: Path, hosts: Sequence[str], nodes: int, days: int) -> list[Path]:
    """Write what is missing of the keys and certificates of a server and its nodes.

    What is there already stays, so that nodes can be added. Private keys can be read by their
    owner alone.

    Args:
        folder: Where they lie; it is made.
        hosts: Names and addresses of the server, as nodes write them.
        nodes: How many nodes have a key, in all.
        days: How long the certificates are valid.

    Returns:
        The files that were written.

    Raises:
        ConfigError: If the server's certificate is of other hosts or has expired, or the key of
            the authority is missing.
    """
    written: list[Path] = []
    (folder / NODES).mkdir(parents=True, exist_ok=True)
    authority, key = folder / AUTHORITY, folder / AUTHORITY_KEY
    if not authority.exists():
        private = ec.generate_private_key(ec.SECP256R1())
        written += _write_pair(key, authority, private, _authority(private, days))
    server = folder / CERTIFICATE
    if not server.exists():
        if not key.exists():
            raise ConfigError(
                f"{key}: is missing, so nothing can be signed with {authority}; put it back, or "
                "start in a new folder"
            )
        private = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(private, authority, key, hosts, days)
        written += _write_pair(folder / KEY, server, private, certificate)
    check_hosts(server, hosts)
    for number in range(nodes):
        path = folder / NODES / f"node-{number:03d}"
        if not path.exists():
            written += _write_node(path)
    return written


def check_hosts(path: Path, hosts: Sequence[str]) -> None:
    """Check that a certificate is valid, and for some hosts.

    Raises:
        ConfigError: If it is not.
    """
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.not_valid_after_utc < datetime.now(UTC):
        until = certificate.not_valid_after_utc.date()
        raise ConfigError(f"{path}: was valid until {until}; make certificates in a new folder")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    there = {str(each.value) for each in names}
    for host in hosts:
        if host not in there:
            raise ConfigError(
                f"{path}: is for {', '.join(sorted(there))}, not for {host}; make certificates in "
                "a new folder, with --host for each name of the server"
            )


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _builder(
    subject: str, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ a little
        .not_valid_after(now + timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _authority(private: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    public, name = private.public_key(), "fedrec trial authority"
    builder = _builder(name, _name(name), public, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    builder = builder.add_extension(identifier, critical=False)
    return builder.add_extension(_usage(signs=True), critical=True).sign(private, hashes.SHA256())


def _certificate(
    private: ec.EllipticCurvePrivateKey,
    authority: Path,
    authority_key: Path,
    hosts: Sequence[str],
    days: int,
) -> x509.Certificate:
    public = private.public_key()
    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    key = serialization.load_pem_private_key(authority_key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = _builder(hosts[0], issuer.subject, public, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
    builder = builder.add_extension(signer, critical=False)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    return builder.add_extension(server, critical=False).sign(key, hashes.SHA256())


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _write_pair(
    key: Path, path: Path, private: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> list[Path]:
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _write_private(key, private.private_bytes(pem, kind, serialization.NoEncryption()))
    path.write_bytes(certificate.public_bytes(pem))
    return [key, path]


def _write_node(path: Path) -> list[Path]:
    """Write the key of a node as ``ssh-keygen -t ecdsa -b 384`` does."""
    private = ec.generate_private_key(ec.SECP384R1())
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    _write_private(path, private.private_bytes(pem, kind, serialization.NoEncryption()))
    public_path = path.with_name(f"{path.name}.pub")
    public_path.write_bytes(public + b"\n")
    return [path, public_path]


def _write_private(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
