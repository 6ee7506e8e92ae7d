"""Opens the cluster's store as the settings say."""

from __future__ import annotations

from pathlib import Path

from qnet.errors import InvalidRequest
from qnet.settings import Etcd
from qnet.store.base import Store
from qnet.store.etcd import EtcdStore, Tls


def open_store(settings: Etcd) -> Store:
    """The store; nothing is sent before its first use.

    Raises:
        InvalidRequest: a file that the settings name cannot be read.
    """
    tls = Tls(settings.ca, settings.cert, settings.key) if settings.ca else None
    password = ""
    if settings.password_file:
        try:
            password = Path(settings.password_file).read_text().strip()
        except OSError as error:
            raise InvalidRequest(f"etcd.password_file {settings.password_file}: {error.strerror}") from error
    return EtcdStore(settings.endpoints, tls=tls, user=settings.user, password=password, timeout=settings.timeout)
