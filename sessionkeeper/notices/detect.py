"""Which sources this machine has, without asking the network: where there is no metadata service, a
request would hang.

Sources: EC2 User Guide, "Detect whether a host is an EC2 instance"; Compute Engine, "Detect if a VM
is running in Compute Engine"; cloud-init, `DataSourceAzure` (the chassis' asset tag).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["detected"]

_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"


def detected(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of the sources that this machine has. ``root`` is where its files are."""
    found = []
    dmi = root / "sys/class/dmi/id"
    vendor, product = _line(dmi / "sys_vendor"), _line(dmi / "product_name")
    xen = _line(root / "sys/hypervisor/uuid").lower().startswith("ec2")
    if vendor == "Amazon EC2" or xen or "amazon" in _line(dmi / "bios_version").lower():
        found.append("aws")
    if vendor == "Google" and product.startswith("Google Compute Engine"):
        found.append("google")
    if _line(dmi / "chassis_asset_tag") == _AZURE_TAG:
        found.append("azure")
    account = root / "var/run/secrets/kubernetes.io/serviceaccount/token"
    if environ.get("KUBERNETES_SERVICE_HOST") and account.exists():
        found += ["kubernetes", "signal"]
    # sd_booted(3), and a bus to ask logind on; a container has neither.
    if (root / "run/systemd/seats").is_dir() and (root / "run/dbus/system_bus_socket").exists():
        found.append("logind")
    return found


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
