"""Certificates of an authority that lives as long as a test, made by the `openssl` command (3.0 or later)."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

NEW_KEY = ("openssl", "req", "-x509", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


@dataclass(frozen=True)
class Certificate:
    """Files of PEM text: the certificate, its key as PKCS #8, and both in one, as a broker wants them."""

    certificate: Path
    key: Path

    @property
    def keystore(self) -> Path:
        """Key and certificate in one file."""
        path = self.key.with_suffix(".pem")
        path.write_text(self.key.read_text() + self.certificate.read_text())
        return path


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.own = Certificate(folder / "ca.crt", folder / "ca.key")
        _run(*NEW_KEY, "-nodes", "-subj", "/CN=ca", "-keyout", self.own.key, "-out", self.own.certificate)

    def issue(self, name: str, password: str | None = None) -> Certificate:
        """Return a certificate for 127.0.0.1, good for servers and clients; with a password, its key is encrypted."""
        made = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        _run(
            *NEW_KEY, *(("-nodes",) if password is None else ("-passout", f"pass:{password}")),
            "-CA", self.own.certificate, "-CAkey", self.own.key, "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", made.key, "-out", made.certificate,
        )  # fmt: skip
        return made


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
