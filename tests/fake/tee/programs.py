# SPDX-License-Identifier: GPL-2.0-only
"""Programs of a made-up host: the probe, the control program, and a QEMU with its guest, as far as a run asks them.

``python programs.py probe|control|qemu ARGUMENTS``.  ``GMEM_TEST_FAULT`` is what is wrong with the guest,
``GMEM_TEST_KIND`` what it is, ``GMEM_TEST_WORLD`` a folder where each QEMU keeps how many private pages its guest has.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from harness.counters.sections import encode_sections
from harness.host.frames import HEADER, MAGIC, encode_frame, parse_fields

FAULT, KIND = os.environ.get("GMEM_TEST_FAULT", ""), os.environ.get("GMEM_TEST_KIND", "")
WORLD = Path(os.environ.get("GMEM_TEST_WORLD", "/nonexistent"))
RAM = 0x7F0000000000
CHUNK, PAGE = 512, 4096
PR_SET_PDEATHSIG = 1
PREPARING = 3
"""Conversions of the region before a scenario begins: shared at first, then once to private and back."""
FEATURES = {"snp": "AMD SEV SEV-ES SEV-SNP", "tdx": "Intel TDX"}
OBJECTS = {"snp": "sev-snp-guest", "tdx": "tdx-guest"}
Answer = tuple[str, bytes]


def frames(fd: int) -> Iterator[tuple[int, str, bytes]]:
    """Requests of a channel: number, line, blob."""
    data = b""
    while True:
        while len(data) < HEADER.size or len(data) < HEADER.size + HEADER.unpack_from(data)[2]:
            got = os.read(fd, 1 << 16)
            if not got:
                return
            data += got
            data = data[max(0, data.find(MAGIC)) :]
        _, number, length, _ = HEADER.unpack_from(data)
        payload, data = data[HEADER.size : HEADER.size + length], data[HEADER.size + length :]
        line, _, blob = payload.partition(b"\n")
        yield number, line.decode(), blob


def serve(fd: int, out: int, answer: Callable[[str, dict[str, str], bytes], Answer]) -> None:
    """Answer each request of a channel."""
    for number, line, blob in frames(fd):
        verb, _, words = line.partition(" ")
        fields = {"line": words} if verb == "gmem" else {} if words == "all" else parse_fields(words)
        said, more = answer(verb, fields, blob)
        os.write(out, encode_frame(number, said.encode() + (b"\n" + more if more else b"")))


def command_of(blob: bytes) -> list[str]:
    """The words of a command, without its environment."""
    words = blob.decode().split("\0")[:-1]
    return words[words.index("") + 1 :]


# -- the probe


class Probe:
    def __init__(self) -> None:
        self.watched: dict[int, int] = {}
        self.slots: dict[str, bytes] = {}
        self.censuses = 0

    def __call__(self, verb: str, fields: dict[str, str], blob: bytes) -> Answer:
        match verb:
            case "hello":
                return f"ok nonce={fields['nonce']} program=gmem-probe version=1 pid=1 locked=1 files=1", b""
            case "read":
                return "ok size=5", b"never"
            case "watch":
                self.watched[int(fields["pid"])] = int(fields["ram"])
                return f"ok fd=5 size={fields['ram']} cachestat=1 kvmstats=0 hook=0", b""
            case "unwatch" if "pid" not in fields:
                self.watched.clear()
                return "ok closed=1", b""
            case "unwatch":
                return f"ok closed={int(self.watched.pop(int(fields['pid']), 0) > 0)}", b""
            case "census":
                self.censuses += 1
                if FAULT == "census-fails" and self.censuses > 1:
                    return "err code=EIO text=the fake cannot count", b""
                left = 5 if FAULT == "memory-stays" and self.censuses > 1 else 0
                return f"ok gmem={left} heads=0 tails=0 orders=none scanned=0", b""
            case "sample":
                sections = {"time": "start=1 end=2 steady=1\n"}
                for pid, size in self.watched.items():
                    sections[f"gmem/{pid}"] = f"resident={(WORLD / str(pid)).read_text()} size={size}\n"
                self.slots[fields["slot"]] = encode_sections(sections)
                return f"ok slot={fields['slot']} ns=1 ns_end=2 steady=1", b""
            case "fetch":
                return f"ok slot={fields['slot']}", self.slots[fields["slot"]]
        known = {
            "settle": "ok rounds=1 pcp=0 calm=1", "answer": "ok", "stock": "ok count=128",
            "pcpcap": "ok was=0", "place": "ok threads=2",
            "cachestat": "ok cache=0",
            "write": f"ok was=x now={fields.get('value')}",
        }  # fmt: skip
        return known.get(verb, "err code=verb text=the fake has no such request"), b""


# -- the control program of the host


class Host:
    def __init__(self) -> None:
        self.children: dict[int, subprocess.Popen[bytes]] = {}

    def __call__(self, verb: str, fields: dict[str, str], blob: bytes) -> Answer:
        match verb:
            case "hello":
                return f"ok nonce={fields['nonce']} program=gmem-control version=1 pid=1", b""
            case "run":
                code, text = self.run(command_of(blob))
                return f"ok code={code}", text.encode()
            case "spawn":
                with Path(fields["log"]).open("ab") as log:
                    child = subprocess.Popen(command_of(blob), stdout=log, stderr=log)
                self.children[child.pid] = child
                return f"ok pid={child.pid}", b""
            case "status":
                code = self.children[int(fields["pid"])].poll()
                return "ok state=running" if code is None else f"ok state=exited code={code}", b""
            case "end":
                self.children[int(fields["pid"])].kill()
                self.children[int(fields["pid"])].wait()
                return "ok", b""
            case "get":
                data = Path(fields["path"]).read_bytes()
                return f"ok bytes={len(data)}", data
        return "err code=verb text=the fake has no such request", b""

    def run(self, words: list[str]) -> tuple[int, str]:
        if words[0] == "sh" and "ncpu=" in words[2]:
            return 0, "ncpu=2\nslab.radix_tree_node=28,4\n"
        if words[0] == "sh" and "readlink" in words[2]:
            return 0, "/dev/kvm\nanon_inode:kvm-vm\n" + ("" if KIND == "plain" else "anon_inode:[kvm-gmem]\n")
        if words[0] == "sh" and "/sys/kernel/debug/kvm/" in words[2]:
            return 0, ""  # the VM went with its process
        if words[0] == "grep":
            return 0, f"{RAM:x}-{RAM + (1 << 30):x} rw-p 0 0 0\nRss: 4 kB\nAnonHugePages: 0 kB\n"
        if words[0] == "cat":
            return (0, "Y\n") if FAULT == "in-place" else (1, "cat: no such file\n")
        return 0, "7.3.4-fake\n"


# -- QEMU and its guest


class Qemu:
    def __init__(self, words: list[str]) -> None:
        self.words = words
        pipes = [word for word in words if word.startswith("pipe,")]
        self.paths = {word.split(",")[1]: word.partition("path=")[2] for word in pipes}
        self.console = next(word.partition("path=")[2] for word in words if word.startswith("file,"))
        self.log = words[words.index("-D") + 1]
        self.tag = words[words.index("-append") + 1].rpartition("gmem.tag=")[2]
        self.private = set() if KIND == "plain" else set(range(9 * CHUNK))  # a confidential guest begins all private
        self.resident: set[int] = set()
        self.conversions = 0
        self.keep()

    def keep(self) -> None:
        """Tell the probe; whole or not at all."""
        new = WORLD / f".{os.getpid()}"
        new.write_text(str(len(self.resident)))
        new.replace(WORLD / str(os.getpid()))

    def write(self, path: str, text: str) -> None:
        with Path(path).open("a") as file:
            file.write(text)

    def run(self) -> None:
        if FAULT.startswith("refuses:"):
            sys.exit(f"qemu-system-x86_64: {FAULT.removeprefix('refuses:')}")
        threading.Thread(target=self.monitor, daemon=True).start()
        self.write(self.console, "BdsDxe: starting the kernel\n")
        if FAULT != "hangs":
            if FAULT != "silent-agent":
                threading.Thread(target=self.agent, daemon=True).start()
            self.write(self.console, f"[    1.0] gmem: guest g{self.tag} is up: 7.3.4\n")
        threading.Event().wait()

    def monitor(self) -> None:
        read = os.open(self.paths["id=monitor"] + ".in", os.O_RDWR)
        out = os.open(self.paths["id=monitor"] + ".out", os.O_RDWR)
        version = {"qemu": {"major": 12, "minor": 0, "micro": 1}, "package": ""}
        os.write(out, json.dumps({"QMP": {"version": version, "capabilities": []}}).encode() + b"\r\n")
        text = ""
        while True:
            text += os.read(read, 4096).decode()
            while text := text.lstrip():  # messages stand one behind the other, with nothing between them
                try:
                    asked, end = json.JSONDecoder().raw_decode(text)
                except ValueError:
                    break
                text = text[end:]
                answer = self.qmp(asked["execute"], asked.get("arguments", {}))
                reply = {key: asked[key] for key in ("id",) if key in asked}
                os.write(out, json.dumps({"return": answer, **reply}).encode() + b"\r\n")

    def qmp(self, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "qom-get" if arguments["property"] == "confidential-guest-support":
                return "" if KIND == "plain" else "/objects/cgs0"
            case "qom-get":
                return OBJECTS[KIND]
            case "query-sev":
                return {"enabled": True, "sev-type": "sev-snp"} if KIND == "snp" else {"enabled": False}
            case "trace-event-get-state":
                return [{"name": arguments["name"], "state": "enabled"}]
            case "human-monitor-command":
                return f"Block PSize Offset Used Total HVA RO\n/objects/ram0 4 KiB 0x0 0x40 0x40 {RAM:#x} rw\n"
        return {}

    def agent(self) -> None:
        path = self.paths["id=agent"]
        serve(os.open(path + ".in", os.O_RDWR), os.open(path + ".out", os.O_RDWR), self.ask)

    def ask(self, verb: str, fields: dict[str, str], blob: bytes) -> Answer:
        match verb:
            case "hello":
                return f"ok nonce={fields['nonce']} program=gmem-control version=1 pid=1", b""
            case "run":
                code, text = self.inside(command_of(blob))
                return f"ok code={code}", text.encode()
            case "gmem":
                word, _, words = fields["line"].partition(" ")
                number = {key: int(value, 0) for key, value in parse_fields(words).items() if value.isdigit()}
                return self.module(word, number, words), b""
        return "ok pid=2 bytes=0", b""

    def inside(self, words: list[str]) -> tuple[int, str]:
        seen = "plain" if FAULT == "guest-says-plain" else KIND
        if words[0] == "dmesg":
            features = f"[ 0.1] Memory Encryption Features active: {FEATURES[seen]}\n" if seen in FEATURES else ""
            return 0, "" if FAULT == "log-lost" else f"[ 0.0] Linux version 7.3.4\n{features}"
        if words[0] == "cat":
            return 0, f"flags\t\t: fpu{' tdx_guest' if seen == 'tdx' else ''}\n"
        return (int(seen != "snp") if words[0] == "test" else 0), ""

    def module(self, word: str, number: dict[str, int], words: str) -> str:
        first = number.get("start", 0) + number.get("region", 0) * 8 * CHUNK
        pages = range(first, first + number.get("count", 0))
        match word:
            case "info":
                how = "hypercall" if KIND == "plain" else "set_memory"
                return f"ok tag={self.tag} chunk_pages=512 how={how} encrypt=1"
            case "where":
                return "ok region=0 gpa=" + ",".join(hex(self.gpa(n * CHUNK)) for n in range(8))
            case "convert":
                return self.convert(pages, number["by"], private="to=private" in words)
            case "touch":
                touched = set(pages[:: number["stride"]])
                self.resident |= touched & self.private
                self.keep()
                return f"ok touched={len(touched)} sum=0"
            case "verify":
                return f"ok bad=- pages={len(pages)} wrong=0"
            case "warm":
                return "ok pages=9 sum=0"
        return "ok region=0 chunks=8"

    @staticmethod
    def gpa(page: int) -> int:
        return 0x8000000 + page * PAGE

    def convert(self, pages: range, by: int, *, private: bool) -> str:
        """One call for each piece; KVM joins neighbours before QEMU sees them, as with SNP's page state changes."""
        if set(pages) & self.private if private else set(pages) - self.private:
            self.write(self.console, "[    9.0] SEV: PVALIDATE changed nothing, the guest ends\n")
            os._exit(1)
        calls = []
        at = pages.start
        while at < pages.stop:
            end = min(at + by, (at // CHUNK + 1) * CHUNK, pages.stop)
            calls.append(f"{self.gpa(at):#x}:{end - at}")
            at = end
        region = pages.start < 8 * CHUNK
        self.conversions += region
        late = region and self.conversions > PREPARING
        traced = range(pages.start, pages.stop - 1) if FAULT == "loses-a-page" and late else pages
        way = "shared_to_private" if private else "private_to_shared"
        size = len(traced) * PAGE
        if size:
            self.write(self.log, f"kvm_convert_memory start {self.gpa(traced.start):#x} size {size:#x} {way}\n")
        if private:
            self.private |= set(pages)
        else:
            self.private -= set(pages)
            gone = set(pages[1:]) if FAULT == "keeps-a-page" and late else set(pages)
            self.resident -= gone
        self.keep()
        return "ok calls=" + ",".join(calls)


def main(role: str, words: list[str]) -> None:
    if role == "qemu":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # as the real control program has it for its children
        Qemu(words).run()
    else:
        serve(0, 1, Probe() if role == "probe" else Host())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
