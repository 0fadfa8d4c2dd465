"""Certificates for tests: an authority of our own, a server's certificate for this machine, and clients'. Made anew for each session."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate


@dataclass
class Certificates:
    """PEM files in a folder. Keys are PKCS #8, which Java reads."""

    folder: Path
    _authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._authority.cert_pem.write_to_path(str(self.authority))

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.pem"

    def server(self, *names: str) -> tuple[Path, Path]:
        """Return certificate and key of a server with these names; by default those of this machine."""
        return self._issued("server", self._authority.issue_cert(*(names or ("127.0.0.1", "localhost")), common_name="server"))

    def client(self, name: str, *, password: str = "") -> tuple[Path, Path]:
        """Return certificate and key of a client, whose subject is CN=name,OU=Test,O=Shop."""
        return self._issued(
            name, self._authority.issue_cert(f"{name}@example.org", common_name=name, organization_unit_name="Test", organization_name="Shop"), password
        )

    def subject(self, name: str) -> str:
        """Return the client's whole name, as Kafka takes it for its user."""
        return load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes()).subject.rfc4514_string()

    def _issued(self, name: str, leaf: trustme.LeafCert, password: str = "") -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        private = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        locked = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
        return certificate, key
