"""Certificates of our own for the lab's servers, by openssl(1): an authority, and what it signs."""

from pathlib import Path

from .process import run


class Authority:
    """A certificate authority in `directory`; who trusts `file` trusts what it has issued."""

    def __init__(self, directory: Path) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self.file, self._key = self._directory / "ca.pem", self._directory / "ca.key"
        name = ["-subj", "/CN=lab authority", "-addext", "keyUsage=critical,keyCertSign"]
        run(["openssl", "req", "-x509", *self._new_key(self._key), *name, "-days", "2", "-out", self.file])

    def issue(self, name: str, hosts: str) -> tuple[Path, Path]:
        """Issue a certificate for hosts, as subjectAltName has them ("IP:127.0.0.1"); give its file and its key's."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={hosts}\n")
        run(["openssl", "req", *self._new_key(key), "-subj", f"/CN={name}", "-out", request])
        signed_by: list[str | Path] = ["-CA", self.file, "-CAkey", self._key, "-CAcreateserial"]
        extended: list[str | Path] = ["-days", "2", "-extfile", extensions]
        run(["openssl", "x509", "-req", "-in", request, *signed_by, *extended, "-out", certificate])
        return certificate, key

    @staticmethod
    def _new_key(file: Path) -> list[str | Path]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", file]
