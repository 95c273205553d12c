"""Keys and certificates of a trial: valid, for the names asked for, read by their owner alone."""

import ssl
import stat
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedrec.errors import ConfigError
from fedrec.flower import certificates
from fedrec.flower.certificates import make_certificates

HOSTS = ["localhost", "127.0.0.1", "fedrec.example"]


def test_the_servers_certificate_is_signed_for_its_hosts(tmp_path: Path) -> None:
    make_certificates(tmp_path, HOSTS, 1, 30)
    authority, server = (
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes())
        for name in ("ca.crt", "server.crt")
    )
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(each.value) for each in names} == {*HOSTS}
    assert server.not_valid_after_utc - server.not_valid_before_utc > timedelta(days=30)
    context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    assert context.cert_store_stats()["x509_ca"] == 1
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
        tmp_path / "server.crt", tmp_path / "server.key"
    )


def test_each_node_has_a_key_of_its_own(tmp_path: Path) -> None:
    make_certificates(tmp_path, HOSTS, 3, 30)
    publics = set()
    for number in range(3):
        path = tmp_path / "nodes" / f"node-{number:03d}"
        private = load_ssh_private_key(path.read_bytes(), None)
        public = path.with_name(f"{path.name}.pub").read_bytes()
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.curve.name == "secp384r1"
        assert load_ssh_public_key(public) == private.public_key()
        publics.add(public)
    assert len(publics) == 3


def test_private_keys_can_be_read_by_their_owner_alone(tmp_path: Path) -> None:
    make_certificates(tmp_path, HOSTS, 2, 30)
    for name in ("ca.key", "server.key", "nodes/node-000", "nodes/node-001"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_what_is_there_stays_and_nodes_can_be_added(tmp_path: Path) -> None:
    first = make_certificates(tmp_path, HOSTS, 2, 30)
    before = {path: path.read_bytes() for path in first}
    second = make_certificates(tmp_path, HOSTS, 3, 30)
    assert {path.name for path in second} == {"node-002", "node-002.pub"}
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_certificate_of_other_hosts_or_times_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificates(tmp_path, HOSTS, 1, 30)
    with pytest.raises(ConfigError, match=r"not for other\.example"):
        make_certificates(tmp_path, ["other.example"], 1, 30)

    class Later:
        """A clock two months ahead."""

        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return datetime.now(zone) + timedelta(days=60)

    monkeypatch.setattr(certificates, "datetime", Later)
    with pytest.raises(ConfigError, match="was valid until"):
        make_certificates(tmp_path, HOSTS, 1, 30)


def test_without_its_key_an_authority_signs_nothing(tmp_path: Path) -> None:
    make_certificates(tmp_path, HOSTS, 1, 30)
    for name in ("ca.key", "server.crt"):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"ca\.key: is missing"):
        make_certificates(tmp_path, HOSTS, 1, 30)
