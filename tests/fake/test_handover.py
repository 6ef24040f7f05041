# SPDX-License-Identifier: GPL-2.0-only
"""Kernels handed over to a host that exists as a table: what is run there, and what is said of how it ends."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from harness.errors import InfraError, NoBootError, UsageError
from harness.host.config.host import HostConfig
from harness.host.config.load import parse_host
from harness.host.handover import grub, kexec
from harness.host.handover.handing import HandedOver, Handover
from harness.host.handover.order import Order, way_of
from harness.host.handover.running import compare, expected, read_running
from harness.host.knobs.lock import Holder, HostLock
from harness.host.knobs.place import DEFAULT_PLACE
from harness.host.reach import COMMAND_SECONDS, Done, Reach, ReachError
from harness.kernel.record import Kernel
from harness.run.options import RunOptions, check_options
from tests.unit.test_kernel_buildid import NOTE, bzimage, vmlinux
from tests.unit.test_kernel_image import TEXT

OLD_NOTE = NOTE[:-4] + b"\xff\xff\xff\xff"
VERSION = "#1 SMP PREEMPT Thu Jan  1 00:00:00 UTC 1970"
BASE = "schema: 1\nname: h\ntransport: ssh\nssh: {host: a}\n"


class Machine:
    """A host under test: what boots next, and what of it answers."""

    def __init__(self, *, boots: Sequence[bytes | None] = (NOTE,), tools: Sequence[str] = (), note: bytes = OLD_NOTE):
        self.boots = list(boots)
        """Notes of the kernels that come up at each start; None: nothing answers until the next."""
        self.tools = set(tools)
        self.note: bytes | None = note
        self.count = itertools.count()
        self.boot = "boot-0"
        self.command_line = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 quiet"
        self.files: dict[str, bytes] = {}
        self.loaded = "0"
        self.ran: list[list[str]] = []
        self.refuse: Mapping[str, Done] = {}
        self.restarts_fail = False
        self.taken_at = ""
        self.freed_at: list[str] = []

    def restart(self) -> None:
        if not self.restarts_fail:
            self.note = self.boots.pop(0) if self.boots else self.note
            self.boot = f"boot-{next(self.count) + 1}"

    def connect(self) -> FakeReach:
        if self.note is None:
            raise ReachError("no SSH connection with h: Connection refused")
        return FakeReach(self)


class FakeReach:
    name = "h"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.boot = machine.boot
        self.closed = False

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Done:
        words, machine = list(arguments), self.machine
        machine.ran.append(words)
        for start, answer in machine.refuse.items():
            if " ".join(words).startswith(start):
                return answer
        texts: dict[str, bytes] = {
            "uname -r": b"7.3.4\n",
            "uname -v": VERSION.encode() + b"\n",
            "cat /proc/version": b"Linux version 7.3.4 (gmem@0123) (gcc) " + VERSION.encode(),
            "cat /proc/cmdline": machine.command_line.encode() + b"\n",
            "cat /proc/sys/kernel/random/boot_id": machine.boot.encode() + b"\n",
            "grub-probe --target=fs_uuid /boot": b"1234-abcd\n",
        }
        if " ".join(words) in texts:
            return Done(0, texts[" ".join(words)], b"")
        return self._other(words, stdin)

    def _other(self, words: list[str], stdin: bytes) -> Done:
        machine = self.machine
        good, bad = Done(0, b"", b""), Done(1, b"", b"no")
        if words[0] == "head":
            known = {"/sys/kernel/notes": machine.note or b"", "/sys/kernel/kexec_loaded": machine.loaded.encode()}
            data = (known | machine.files).get(words[-1])
            return bad if data is None else Done(0, data, b"")
        if words[:2] == ["sh", "-c"] and "command -v" in words[2]:
            return good if words[-1] in machine.tools else bad
        if words[:2] == ["sh", "-c"] and "setsid" in words[2]:
            machine.restart()
            return good
        if words[:2] == ["sh", "-c"] and "cat >" in words[2]:
            machine.files[words[-2]] = stdin
            return good
        if words[0] == "mktemp":
            return Done(0, words[-1].replace("XXXXXXXX", "12345678").encode() + b"\n", b"")
        if words[0] == "grub-mkrelpath":
            return Done(0, words[1].removeprefix("/boot").encode() + b"\n", b"")
        if words[0] == "rm":
            for path in words[2:]:
                machine.files.pop(path, None)
        if words[0].endswith("/gmem-kexec") and len(words) == 1:
            return Done(1, b"", b"usage")
        if (words[0].endswith("/gmem-kexec") and words[1] == "load") or words[:2] == ["kexec", "-a"]:
            machine.loaded = "1"
        if words == ["test", "-d", "/run/systemd/system"]:
            return good if "systemctl" in machine.tools else bad
        return good

    def start(
        self, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        raise AssertionError

    def close(self) -> None:
        self.closed = True


class Lock(HostLock):
    """Remembers during which start of the host it was given back."""

    def free(self) -> None:
        assert isinstance(self.reach, FakeReach)
        self.reach.machine.freed_at.append(self.reach.boot)


HOLDER = Holder(
    token="t", user="u", machine="m", controller="c", pid=1, start=1, boot="b", since=0, purpose="a test"
)  # fmt: skip


def take(reach: Reach) -> HostLock:
    assert isinstance(reach, FakeReach)
    reach.machine.taken_at = reach.boot
    return Lock(reach, DEFAULT_PLACE, HOLDER)


def host(text: str = "handover: {how: kexec}") -> HostConfig:
    return parse_host(f"{BASE}{text}\n", Path("/lab/h.yaml"))


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    image = bzimage(tmp_path / "bzImage", vmlinux(NOTE))
    data = bytearray(image.read_bytes())
    data[0x236] |= 2
    image.write_bytes(data)
    return Kernel("k", image, "7.3.4", VERSION, "", None, (), "a test", None, None, "0123")


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kexec.load, "__defaults__", (lambda: b"\x7fELF",))


Hand = Callable[..., HandedOver]


@pytest.fixture
def hand(kernel: Kernel) -> Hand:
    def act(machine: Machine, config: HostConfig, *, again: bool = True, seconds: float = 0.05) -> HandedOver:
        order = Order(kernel, way_of(config, seconds=seconds))
        return Handover(config, order, connect=machine.connect, notice=lambda text: None, lock=take, pause=0.01).do(
            again=again
        )

    return act


def test_kexec_with_the_hosts_tools(hand: Hand, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"cpio")
    machine = Machine(tools=["kexec", "systemctl"])
    config = host(f"handover: {{how: kexec, initrd: {tmp_path}/initrd, append: gmem.net=1 quiet}}")
    done = hand(machine, config)
    (load,) = (words for words in machine.ran if words[0] == "kexec")
    folder = "/run/gmem-kexec.12345678"
    assert load[1:3] == ["-a", "-l"]
    assert load[3:] == [
        f"{folder}/bzImage",
        f"--initrd={folder}/initrd",
        "--command-line=root=/dev/sda1 quiet gmem.net=1",
    ]
    assert any(words[-2:] == ["systemctl", "kexec"] for words in machine.ran)
    assert machine.files == {}
    assert "is that of the image" in done.compared
    assert done.before.build_id != done.running.build_id
    assert (machine.taken_at, machine.freed_at) == ("boot-0", ["boot-1"])


def test_kexec_with_our_program(hand: Hand) -> None:
    machine = Machine()
    hand(machine, host())
    tool = "/run/gmem-kexec.12345678/gmem-kexec"
    folder = "/run/gmem-kexec.12345678"
    assert [tool, "load", f"{folder}/bzImage", "-", "root=/dev/sda1 quiet"] in machine.ran
    assert any(words[-2:] == [tool, "exec"] for words in machine.ran)
    assert list(machine.files) == [tool]  # it is still needed


def test_a_folder_that_runs_no_programs_is_passed_over(hand: Hand) -> None:
    machine = Machine()
    machine.refuse = {"/run/gmem-kexec.12345678/gmem-kexec": Done(126, b"", b"Permission denied")}
    hand(machine, host())
    assert any(words[-2:] == ["/tmp/gmem-kexec.12345678/gmem-kexec", "exec"] for words in machine.ran)


def test_the_kernel_refuses(hand: Hand) -> None:
    machine = Machine(tools=["kexec"])
    machine.refuse = {"kexec": Done(255, b"", b"kexec_file_load failed: Operation not permitted")}
    with pytest.raises(InfraError, match=r"cannot be loaded: kexec_file_load failed: Operation not permitted"):
        hand(machine, host())
    assert machine.boot == "boot-0"
    assert machine.freed_at == ["boot-0"]


def test_nothing_of_ours_stays_on_a_host_that_refuses(hand: Hand) -> None:
    machine = Machine()
    machine.refuse = {"/run/gmem-kexec.12345678/gmem-kexec load": Done(1, b"", b"no CONFIG_KEXEC_FILE")}
    with pytest.raises(InfraError, match=r"cannot be loaded: no CONFIG_KEXEC_FILE"):
        hand(machine, host())
    assert machine.files == {}
    assert machine.ran[-1] == ["rmdir", "/run/gmem-kexec.12345678"]


def test_a_kernel_that_cannot_be_moved(hand: Hand, kernel: Kernel) -> None:
    data = bytearray(kernel.image.read_bytes())
    data[0x236] &= ~2
    kernel.image.write_bytes(data)
    machine = Machine()
    with pytest.raises(InfraError, match=r"CONFIG_RELOCATABLE"):
        hand(machine, host())
    assert machine.files == {}


def test_another_kernel_comes_up(hand: Hand) -> None:
    with pytest.raises(
        NoBootError, match=r"did not come up on h: it restarted, and runs 7.3.4 .* now; build id .* is not"
    ):
        hand(Machine(boots=[OLD_NOTE]), host())


def test_nothing_comes_up(hand: Hand) -> None:
    with pytest.raises(NoBootError, match=r"within 0.05 s .*Connection refused.*no hooks.power_cycle"):
        hand(Machine(boots=[None]), host())


def test_the_power_hook_brings_it_back(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(boots=[None, OLD_NOTE])
    monkeypatch.setattr("harness.host.handover.hooks.power_cycle", lambda config: machine.restart())
    with pytest.raises(NoBootError, match=r"after hooks.power_cycle it runs 7.3.4 .*\(the kernel from before\)$"):
        hand(machine, host("handover: {how: kexec}\nhooks: {power_cycle: [x]}"))


def test_the_power_hook_fails(hand: Hand) -> None:
    with pytest.raises(NoBootError, match=r"hooks.power_cycle of h \(false\) ended with status 1.*nothing is known"):
        hand(Machine(boots=[None]), host("handover: {how: kexec}\nhooks: {power_cycle: ['false']}"))


def test_it_never_restarts(hand: Hand) -> None:
    machine = Machine(tools=["kexec"])
    machine.restarts_fail = True
    machine.refuse = {"tail": Done(0, b"kexec: nothing loaded\n", b"")}
    with pytest.raises(InfraError, match=r"did not restart within .* still runs .*printed: kexec: nothing loaded"):
        hand(machine, host())


def test_it_runs_already(hand: Hand) -> None:
    machine = Machine(note=NOTE)
    machine.command_line = "root=/dev/sda1"
    assert hand(machine, host(), again=False).seconds == 0
    assert machine.boot == "boot-0"
    hand(machine, host("handover: {how: kexec, append: x}"), again=False)
    assert machine.boot == "boot-1"


def test_grub(hand: Hand) -> None:
    machine = Machine(tools=["grub-reboot", "systemctl"])
    machine.files = {"/boot/grub/grub.cfg": b"source custom.cfg", "/boot/grub/custom.cfg": b"set color=blue"}
    hand(machine, host("handover: {how: grub, append: isolcpus=1-3 b=$c}"))
    text = machine.files["/boot/grub/custom.cfg"].decode()
    assert text.startswith("set color=blue\n# gmem-handover: begin\nmenuentry")
    assert "search --no-floppy --fs-uuid --set=root 1234-abcd\n" in text
    assert "    linux /vmlinuz-gmem-handover root=/dev/sda1 quiet isolcpus=1-3 'b=$c'\n" in text
    assert "initrd" not in text
    assert ["grub-reboot", "gmem-handover"] in machine.ran
    assert any(words[-2:] == ["systemctl", "reboot"] for words in machine.ran)


def test_grubs_entry_is_there_once() -> None:
    once = grub.with_entry("a\n", "one\n")
    assert grub.with_entry(once + "b\n", "two\n") == once.replace("one", "two") + "b\n"
    assert "    initrd /i\n" in grub.entry("u", "/k", "/i", "x")


@pytest.mark.parametrize(
    ("tools", "menu", "said"), [([], b"", "has no grub-reboot"), (["grub-reboot"], b"", "does not read custom.cfg")]
)
def test_grub_is_not_usable(hand: Hand, tools: list[str], menu: bytes, said: str) -> None:
    machine = Machine(tools=tools)
    machine.files = {"/boot/grub/grub.cfg": menu}
    with pytest.raises(InfraError, match=said):
        hand(machine, host("handover: {how: grub}"))
    assert machine.boot == "boot-0"


def test_hooks_have_the_kernel_beside_them(hand: Hand, tmp_path: Path) -> None:
    script = f"cat bzImage > {tmp_path}/got; cat cmdline >> {tmp_path}/words; echo $GMEM_HOST >> {tmp_path}/words"
    machine = Machine()
    hand(machine, host(f"handover: {{how: hooks}}\nhooks: {{install_kernel: [sh, -c, '{script}']}}"))
    assert (tmp_path / "got").read_bytes()[0x202:0x206] == b"HdrS"
    assert (tmp_path / "words").read_text() == "root=/dev/sda1 quiet\nh\n"
    assert any(words[-1] == "reboot" for words in machine.ran)


def test_a_hook_fails(hand: Hand) -> None:
    with pytest.raises(InfraError, match=r"hooks.boot_once of h \(sh -c .*\) ended with status 3: no power"):
        hand(Machine(), host("handover: {how: hooks}\nhooks: {boot_once: [sh, -c, 'echo no power; exit 3']}"))
    with pytest.raises(InfraError, match=r"cannot be run: No such file"):
        hand(Machine(), host("handover: {how: hooks}\nhooks: {boot_once: [/nothing/there]}"))
    with pytest.raises(UsageError, match=r"neither hooks.install_kernel nor hooks.boot_once"):
        hand(Machine(), host("handover: {how: hooks}"))


def test_without_a_build_id_the_headers_words_are_compared(kernel: Kernel) -> None:
    bzimage(kernel.image, b"????")
    wanted = expected(kernel)
    running = read_running(Machine().connect())
    found = compare(wanted, running)
    assert found.same
    assert "no build id: its payload is packed in no format" in found.text
    kernel.image.write_bytes(kernel.image.read_bytes().replace(TEXT[:20], b"7.3.4 (gmem@9999) #1"))
    found = compare(expected(kernel), running)
    assert not found.same
    assert "not the same: the builder in /proc/version" in found.text


def test_hosts_that_get_no_kernel() -> None:
    local = parse_host("schema: 1\nname: a\ntransport: local\n", Path("/h.yaml"))
    with pytest.raises(UsageError, match=r"the machine that this runs on"):
        way_of(local)
    with pytest.raises(UsageError, match=r"give --how"):
        way_of(host(""))
    with pytest.raises(UsageError, match=r"initrd .*nothing is no file; gmem lab ssh-config --initrd"):
        way_of(host("handover: {how: kexec, initrd: 'cache:lab/nothing'}"))
    assert way_of(host("handover: {how: kexec}"), how="grub", append="a").how == "grub"


def test_a_run_hands_over_where_the_hosts_file_says_how(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text(BASE + "handover: {how: kexec}\n")
    check_options(RunOptions(host=str(path), kernel="7.3"))
    path.write_text(BASE)
    with pytest.raises(UsageError, match=r"--cmdline are not for it, unless its file has handover: \{how: kexec\}"):
        check_options(RunOptions(host=str(path), command_line="x"))
