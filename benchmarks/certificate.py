"""A certificate authority for one run, and the certificate of this machine that it signed."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class Certificate:
    """`authority` is what clients trust, `chain` what the server shows, both PEM; `file` holds chain and key."""

    authority: bytes
    file: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificate":
        """Make both, valid for a day."""
        now = datetime.now(UTC)
        authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark authority")])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())

        def builder(name: x509.Name, of: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
            begun = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(of.public_key())
            begun = begun.serial_number(x509.random_serial_number())
            return begun.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))

        authority = (
            builder(issuer, authority_key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
        server = (
            builder(subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .add_extension(names, critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        file = folder / "server.pem"
        file.write_bytes(
            server.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return cls(authority.public_bytes(Encoding.PEM), file)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
