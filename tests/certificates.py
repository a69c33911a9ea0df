"""Certificates of an authority that only tests trust, made by trustme."""

import ssl

import pytest

HOSTS = ("localhost", "127.0.0.1", "::1")


class Authority:
    """An authority, and what a certificate of it is for.

    Attributes:
        ca: `trustme.CA`, for certificates of other kinds.
        ca_file: the path of the authority's own certificate.
        cert_file, key_file: the paths of a certificate for `HOSTS`, and of its key.
    """

    def __init__(self, folder):
        trustme = pytest.importorskip("trustme", reason="trustme is not installed")
        self.ca = trustme.CA()
        self.folder = folder
        self.ca_file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.cert_file, self.key_file = self.files("server", *HOSTS)

    def files(self, name, *hosts, **options):
        """The paths of a new certificate with its chain, and of its key."""
        cert = self.ca.issue_cert(*hosts, **options)
        paths = [str(self.folder / f"{name}-{part}.pem") for part in ("cert", "key")]
        cert.private_key_pem.write_to_path(paths[1])
        for number, blob in enumerate(cert.cert_chain_pems):
            blob.write_to_path(paths[0], append=number > 0)
        return paths

    def server(self, *hosts, **options):
        """A new context of a server, for `HOSTS` unless others are given."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if hosts or options:
            self.ca.issue_cert(*hosts, **options).configure_cert(context)
        else:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def client(self):
        """A new context of a client that trusts the authority alone."""
        return ssl.create_default_context(cafile=self.ca_file)
