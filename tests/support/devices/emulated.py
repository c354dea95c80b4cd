"""Emulated arm64 phones: Debian's adbd, toybox and mksh under qemu-user, each with a phone's CPU, on a loopback port.

What runs in them is real: the adb protocol, arm64 programs and their numerics. What is not: Android's C library, its
services (`android/` holds stand-ins that answer as Android 14 does) and every time. A device lives in its own user,
mount and process namespaces, so that nothing of it outlives its process: no mount, process, port or binfmt entry.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = HERE / "output"
TOOLS = ("adb", "qemu-aarch64", "mmdebstrap", "aarch64-linux-gnu-gcc", "unshare", "setpriv", "ss")
# musl: the loader of programs that use an Android library (build_runner.py).
INSIDE = "base-files,adbd,mksh,toybox,libc6,libstdc++6,libgcc-s1,libgomp1,zlib1g,musl"
APP = "org.lorarar.demo"
START_S = 120.0

# Arm's ELF header, as /usr/share/binfmts/qemu-aarch64 has it; flags: keep argv's program open, fix it at registration.
BINFMT = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{qemu}:OF"
)
START = """
root=$1 own=$2 megabytes=$3 cpu=$4 port=$5 binfmt=$6
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
echo "$binfmt" > /proc/sys/fs/binfmt_misc/register
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$own/sys" "$root/sys"
mount --bind "$own/state" "$root/state"
mount -t tmpfs -o size="$megabytes"m tmpfs "$root/data"
mkdir -p "$root/data/local/tmp" "$root/data/data"
exec chroot "$root" /system/bin/env -i PATH=/system/bin:/usr/bin:/bin HOME=/ QEMU_CPU="$cpu" ADBD_PORT="$port" \\
  LD_PRELOAD=/system/lib/loopback_only.so /usr/sbin/adbd
"""


@dataclass(frozen=True)
class Phone:
    """What a device is to look like. `cpu` is qemu's name for it; it picks the kernels that runtimes use."""

    model: str
    soc: str
    cpu: str
    port: int
    data_megabytes: int = 512

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"


# Half precision in hardware, and without: the two kinds of phone that give different fp16 results.
NEW = Phone("Emulated A76", "Stand-in 76", "cortex-a76", 16101)
OLD = Phone("Emulated A57", "Stand-in 57", "cortex-a57", 16102)


def missing_tools() -> list[str]:
    """Programs that emulated phones need and this machine lacks."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def make_root(folder: Path) -> Path:
    """The arm64 system that all devices share, from this machine's own Debian mirror."""
    root = folder / "root"
    mirror, suite = _debian()
    packages = ["--architectures=arm64", "--variant=extract", f"--include={INSIDE}", suite, str(root)]
    _run(["mmdebstrap", "--quiet", *packages, f"deb {mirror} {suite} main"])
    for place in ("system/bin", "system/lib", "data", "state", "sys"):
        (root / place).mkdir(parents=True, exist_ok=True)
    for shell in ("usr/bin/sh", "system/bin/sh"):
        (root / shell).unlink(missing_ok=True)
        (root / shell).symlink_to("/usr/bin/mksh")
    applets = _run(["qemu-aarch64", "-L", str(root), str(root / "usr/bin/toybox")]).split()
    for applet in applets:
        if applet != "sh":
            (root / "system/bin" / applet).symlink_to("/usr/bin/toybox")
    for program in sorted((HERE / "android").iterdir()):
        (root / "system/bin" / program.name).unlink(missing_ok=True)
        shutil.copy(program, root / "system/bin" / program.name)
    library = root / "system/lib/loopback_only.so"
    _run(
        ["aarch64-linux-gnu-gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / "loopback_only.c"), "-ldl"]
    )
    (root / "etc/passwd").write_text("root:x:0:0::/:/system/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root


class EmulatedPhone:
    """One device. Its services' answers and sensors are files that a test may change while it runs."""

    def __init__(self, phone: Phone, root: Path, folder: Path) -> None:
        self.phone, self.root = phone, root
        self.folder = folder / phone.cpu
        self.state, self.sys = self.folder / "state", self.folder / "sys"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until its adbd listens. RuntimeError with its last words when it doesn't."""
        self._write_state()
        qemu = shutil.which("qemu-aarch64")
        given = [self.root, self.folder, self.phone.data_megabytes, self.phone.cpu, self.phone.port]
        script = ["bash", "-ec", START, "phone", *map(str, given), BINFMT.format(qemu=qemu)]
        log = self.folder / "log"
        with log.open("wb") as output:
            # Killed with the test run, also when that is killed itself; and everything inside with it.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "-Urmpf", "--kill-child", *script],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"{self.phone.model} didn't start: {log.read_text(errors='replace')}")
            time.sleep(0.1)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.phone.port)) == 0

    def stop(self) -> None:
        """Pull the plug."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def set_temperature(self, celsius: float, status: int = 0) -> None:
        """Of its CPU, and the thermal status that goes with it."""
        text = (OUTPUT / "thermalservice_14.txt").read_text(encoding="utf-8")
        text = re.sub(r"mValue=41\.5", f"mValue={celsius}", text)
        (self.state / "thermalservice").write_text(re.sub(r"(?m)^(Thermal Status:) 0", rf"\1 {status}", text))
        (self.sys / "class/thermal/thermal_zone0/temp").write_text(f"{celsius * 1000:.0f}\n")

    def _write_state(self) -> None:
        zone, cpus = self.sys / "class/thermal/thermal_zone0", self.sys / "devices/system/cpu"
        for folder in (self.state, zone, cpus):
            folder.mkdir(parents=True, exist_ok=True)
        (zone / "type").write_text("cpu-0-0\n")
        (cpus / "present").write_text("0-1\n")
        for core, (now_khz, most_khz) in enumerate(((1_017_600, 1_804_800), (2_054_400, 2_841_600))):
            speed = cpus / f"cpu{core}/cpufreq"
            speed.mkdir(parents=True, exist_ok=True)
            (speed / "scaling_cur_freq").write_text(f"{now_khz}\n")
            (speed / "cpuinfo_max_freq").write_text(f"{most_khz}\n")
        shutil.copy(OUTPUT / "battery_14.txt", self.state / "battery")
        properties = {
            "ro.build.display.id": "STAND.IN.14",
            "ro.build.version.release": "14",
            "ro.build.version.sdk": "34",
            "ro.kernel.qemu": "1",
            "ro.product.cpu.abi": "arm64-v8a",
            "ro.product.manufacturer": "qemu",
            "ro.product.model": self.phone.model,
            "ro.soc.model": self.phone.soc,
        }
        (self.state / "props").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        self.set_temperature(36.5)


class AdbServer:
    """An adb server of our own, so that a developer's is not disturbed; its environment is for every adb call."""

    def __init__(self, folder: Path, port: int = 16037) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        own = {"HOME": str(folder), "ANDROID_ADB_SERVER_PORT": str(port), "ADB_MDNS": "0"}
        self.port = port
        self.environment = {**os.environ, **own}

    def adb(self, *args: str) -> str:
        return _run(["adb", *args], self.environment)

    def connect(self, phones: Sequence[Phone]) -> None:
        """Connect, and wait until each can be used. RuntimeError for one that can't."""
        for phone in phones:
            self.adb("connect", phone.serial)
            self.adb("-s", phone.serial, "wait-for-device")

    def stop(self) -> None:
        self.adb("disconnect")
        self.adb("kill-server")


def listeners() -> set[str]:
    """Local addresses of every listening TCP and vsock socket of this machine's network."""
    lines = _run(["ss", "-ltnH"]) + _run(["ss", "-lH", "--vsock"])
    return {line.split()[3 if line.split()[0] == "LISTEN" else 4] for line in lines.splitlines()}


def _debian() -> tuple[str, str]:
    """The mirror and the suite that this machine installs from."""
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    suite = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    sources = [*Path("/etc/apt").glob("sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    mirror = re.search(r"^(?:URIs:|deb)\s+(?:\[.*\]\s+)?(https?://\S+)", text, re.MULTILINE)
    if "ID=debian" not in release or suite is None or mirror is None:
        raise RuntimeError("emulated phones are made of Debian packages: run these tests on a Debian machine")
    return mirror[1], suite[1]


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Its output; RuntimeError with what it complained of when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=1800)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout
