"""A throw-away certificate authority: everything of a test cluster trusts it, and nobody else does."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = datetime.timedelta(days=7)
_SLACK = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate and of its private key, PEM."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates for a week.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("rephrase-tests-ca", ())
        rights = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        self._certificate = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(rights, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = _write(folder / "ca.crt", self._certificate.public_bytes(_PEM))

    def issue(self, user: str, groups: Sequence[str] = (), *, names: Sequence[str] = ()) -> Pair:
        """A certificate for a client and, under these DNS names and addresses, for a server.

        Args:
            user: who the API server takes the bearer for.
            groups: which groups that user is in.
            names: of a server.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = _builder(_name(user, groups), self._name, key).add_extension(
            x509.ExtendedKeyUsage(both), critical=False
        )
        if names:
            known_as = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(known_as, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = user.replace(":", "-")
        return Pair(
            _write(self._folder / f"{stem}.crt", certificate.public_bytes(_PEM)),
            write_key(self._folder / f"{stem}.key", key),
        )


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    """Write a private key, a new one if none is given, readable by its owner only."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    how = serialization.PrivateFormat.TraditionalOpenSSL
    return _write(path, key.private_bytes(_PEM, how, serialization.NoEncryption()))


_PEM = serialization.Encoding.PEM


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)  # noqa: TID251 - a certificate is valid from the real now
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + _VALID)
    )


def _name(user: str, groups: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path
