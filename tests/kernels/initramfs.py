"""The first file system of a kernel under test: busybox, the modules that the tests need, and `init`.

Modules are put in once and loaded by `init` in the order of their dependencies; nothing is loaded later by itself, as
the root file system has none of them where they are looked for. What a test wants to be without is left out
(`ztun.without=veth` of the command line), or taken out and put back (`rmmod`, `insmod` of KEPT).
"""

from __future__ import annotations

import io
import lzma
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
KEPT = "/run/modules"
"""Where they are in the machine when it is up."""
MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_rng", "ext4", "overlay", "9p", "9pnet_virtio"),
    *("veth", "bridge", "dummy", "ifb", "vxlan", "8021q"),
    *("sch_ingress", "cls_bpf", "act_gact", "act_mirred", "sch_tbf", "sch_fq_codel"),
    *("inet_diag", "tcp_diag", "udp_diag", "unix_diag"),
    *("nf_tables", "nf_conntrack", "nf_nat", "br_netfilter"),
    *(
        "nft_chain_nat",
        "nft_ct",
        "nft_nat",
        "nft_masq",
        "nft_redir",
        "nft_numgen",
        "nft_counter",
        "nft_compat",
    ),
    *("nft_fib", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nft_reject_inet"),
)
"""Those that a kernel has built in, or not at all, are passed over."""
FOLDER, PROGRAM, FILE, LINK, CONSOLE = 0o040755, 0o100755, 0o100644, 0o120777, 0o020600

INIT = """\
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
without=" $(sed -n 's/.*ztun.without=\\([^ ]*\\).*/\\1/p' /proc/cmdline | tr , ' ') "
for module in $(cat /modules/order); do
  case "$without" in *" ${module%.ko} "*) continue ;; esac
  insmod /modules/$module 2>/modules/said || grep -q -e exists -e 'File exists' /modules/said ||
    echo "kernels: $module: $(cat /modules/said)"
done
i=0
while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
mkdir -p /read /write /new
mount -t ext4 -o ro,noload /dev/vda /read || { echo "kernels: no root file system"; poweroff -f; }
mount -t tmpfs write /write
mkdir /write/upper /write/work
mount -t overlay -o lowerdir=/read,upperdir=/write/upper,workdir=/write/work root /new
for folder in proc sys dev run tmp results; do mkdir -p /new/$folder; done
mount -t tmpfs run /new/run
mount -t tmpfs tmp /new/tmp
cp -r /modules /new/run/
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 results /new/results || poweroff -f
tree=$(cat /new/results/tree)
mkdir -p "/new$tree"
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 tree "/new$tree" || poweroff -f
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
for folder in proc sys dev; do mount --move /$folder /new/$folder; done
exec switch_root /new /bin/sh /results/run
"""


class Cpio:
    """An archive of the form that kernels unpack, `newc`: Documentation/driver-api/early-userspace/buffer-format."""

    def __init__(self) -> None:
        self._out = io.BytesIO()

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        path = name.encode() + b"\0"
        numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self._out.write(b"070701" + "".join(f"{number:08X}" for number in numbers).encode())
        self._padded(path)
        self._padded(data)

    def _padded(self, data: bytes) -> None:
        self._out.write(data)
        self._out.write(bytes(-self._out.tell() % 4))

    def whole(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return self._out.getvalue()


def archive(modules: Iterable[tuple[str, bytes]]) -> bytes:
    """With the modules as (name, content), in the order in which they are to be loaded."""
    found = list(modules)
    cpio = Cpio()
    for folder in ("bin", "proc", "sys", "dev", "modules"):
        cpio.add(folder, FOLDER)
    cpio.add("dev/console", CONSOLE, device=(5, 1))
    cpio.add("bin/busybox", PROGRAM, BUSYBOX.read_bytes())
    cpio.add("bin/sh", LINK, b"busybox")
    cpio.add("init", PROGRAM, INIT.encode())
    cpio.add("modules/order", FILE, "".join(f"{name}\n" for name, _ in found).encode())
    for name, content in found:
        cpio.add(f"modules/{name}", FILE, content)
    return cpio.whole()


def modules_of(tree: Path, release: str) -> Iterator[tuple[str, bytes]]:
    """Those of MODULES and what they depend on, out of an unpacked kernel package; none twice."""
    subprocess.run(["depmod", "-b", str(tree), release], check=True, stderr=subprocess.DEVNULL)
    seen: set[Path] = set()
    for wanted in MODULES:
        listed = subprocess.run(
            ["modprobe", "-d", str(tree), "-S", release, "--show-depends", wanted],
            capture_output=True,
            text=True,
            check=False,
        )
        for line in listed.stdout.splitlines():
            word, _, rest = line.partition(" ")
            path = Path(rest.split()[0]) if word == "insmod" else None
            if path is not None and path not in seen:
                seen.add(path)
                yield path.name.partition(".")[0].replace("-", "_") + ".ko", _plain(path)


def _plain(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", str(path)], check=True, capture_output=True).stdout
    return path.read_bytes()
