# SPDX-License-Identifier: GPL-2.0-only
"""Files of hosts: the examples are right, and each mistake is one sentence that says what and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.host.config.host import HostConfig
from harness.host.config.knobs import LOAD_TIME, before_each, module_params, parse_list, wanted
from harness.host.config.load import HOST_CONFIGS, load_host, names, parse_host
from harness.host.config.reaching import reach_host
from harness.host.config.schema import json_schema
from harness.host.reach import LocalReach, SshTarget

BASE = "schema: 1\nname: a\ntransport: local\n"


def host(text: str, base: str = BASE) -> HostConfig:
    return parse_host(base + text + "\n", Path("/lab/h.yaml"))


def complaint(text: str, base: str = BASE) -> str:
    with pytest.raises(UsageError) as error:
        host(text, base)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.startswith("/lab/h.yaml")
    return sentence.removeprefix("/lab/h.yaml").removeprefix(": ")


MISTAKES = [
    ("hugepage: {}", "unknown key hugepage (did you mean hugepages?); known are schema, name, transport,"),
    ("ssh: {host: a, prot: 22}", "unknown key prot in ssh (did you mean port?); known are host, user, port,"),
    (
        "thp: {sizes: {64kB: {}, 2048kB: {enabeld: never}}}",
        "unknown key enabeld in thp.sizes.2048kB (did you mean enab",
    ),
    (
        "before_each: [{drop_caches: 3}, {drop_cache: 2}]",
        "unknown key drop_cache in before_each[1] (did you mean drop_",
    ),
    ("hugepages: {4M: {nr: 1}}", "unknown key 4M in hugepages (did you mean 2M?); known are 2M, 1G"),
    ("requires: {kvm_caps: {gest_memfd: 1}}", "unknown key gest_memfd in requires.kvm_caps (did you mean guest_memfd?"),
    ("ssh: {host: a, port: x}", "ssh.port must be a whole number, not 'x'"),
    ("ssh: {host: a, port: 99999}", "ssh.port must be a whole number <= 65535, not '99999'"),
    ("ssh: {host: -oProxyCommand=x}", "ssh.host: -oProxyCommand=x does not have the form"),
    ("ssh: {port: 3}", "ssh needs host"),
    ("vm: {swappiness: off}", "vm.swappiness must be a whole number, not 'off'"),
    ("vm:", "vm must be a mapping, not empty"),
    ("tee: snp", "tee must be a list, not 'snp'"),
    ("tee: [snp, tdxx]", "tee[1] cannot be tdxx (did you mean tdx?); known are snp, tdx, sw-protected, plain, bare"),
    ("thp: {enabled: sometimes}", "thp.enabled cannot be sometimes; known are always, madvise, never"),
    ("module_params: {kvm: {nx: [a]}}", "module_params.kvm.nx must be text, not a list"),
    ("module_params: {kvm_intel: {tdx: 1}}", "module parameter kvm_intel.tdx must be Y or N, as the kernel prints it"),
    ("hugepages: {2M: {nr: 1, per_node: {0: 3}}}", "hugepages.2M has nr and per_node: give one of them"),
    ("before_each: [{}]", "before_each[0] must have exactly one of drop_caches, compact_memory, stat_refresh"),
    ("hooks: {console: ls -l}", "hooks.console must be a list, not 'ls -l'"),
    ("knobs: {/etc/passwd: x}", "the key /etc/passwd in knobs does not have the form"),
    ("knobs: {/sys/../etc/passwd: x}", "knobs: /sys/../etc/passwd must be a plain absolute path"),
    (
        "knobs: {/sys/kernel/mm/ksm/run: 1}\nksm: {run: 0}",
        "knobs sets /sys/kernel/mm/ksm/run to 1, another section to 0",
    ),
    ("cpu: {governor: performance}", "cpu.governor needs cpu.policies"),
    ("numa: {memnodes: 3-1}", "3-1 is no list of CPUs or nodes like 0-3,8"),
    ("numa: {memnodes: 0-99999999999}", "0-99999999999 is no list of CPUs or nodes like 0-3,8"),
    ("ssh: {host: a}", "the host a has a section ssh, but transport is local"),
    ("name: b", ", line 4: the key name is given twice"),
    ("? [a]\n: b", ", line 4: a key must be a word"),
    ("a: [", ", line 5: expected the node content"),
    (
        "module_params: {kvm_intel: {tdx: Y}}\nrequires: {module_params: {kvm_intel.tdx: N}}",
        "requires.module_params wants kvm_intel.tdx N, module_params Y",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_one_sentence_with_its_place(text: str, sentence: str) -> None:
    found = complaint(text)
    assert found.startswith(sentence), found


def test_what_must_be_there_and_which_schema() -> None:
    assert complaint("", "schema: 1\nname: a\n") == "the host needs transport"
    assert complaint("", "schema: 2\nname: a\ntransport: local\n") == "schema is 2, this harness reads 1"
    assert complaint("", "schema: 1\nname: a\ntransport: ssh\n") == "the host a needs a section ssh"
    assert complaint("", "- a\n") == "a host is a mapping with schema, name and transport"
    assert "transport cannot be rsh (did you mean ssh?)" in complaint("", BASE.replace("local", "rsh"))


def test_words_stay_words_and_numbers_become_numbers() -> None:
    config = host(
        "cpu: {smt: off}\nrequires: {kernel_min: 6.10}\nmodule_params: {kvm: {halt_poll_ns: 007}}\nvm: {swappiness: 0}"
    )
    assert config.cpu.smt == "off"
    assert config.requires.kernel_min == "6.10"
    assert wanted(config) == {
        "/sys/devices/system/cpu/smt/control": "off",
        "/sys/module/kvm/parameters/halt_poll_ns": "007",
        "/proc/sys/vm/swappiness": "0",
    }


EVERYTHING = """
module_params: {kvm_intel: {tdx: Y}, kvm: {halt_poll_ns: 0, tdp_mmu: Y}}
requires: {module_params: {kvm.eager_page_split: Y}, min_free_memory: 2G}
thp:
  enabled: never
  defrag: defer+madvise
  shmem_enabled: advise
  use_zero_page: 0
  shrink_underused: 0
  sizes: {2048kB: {enabled: inherit, shmem_enabled: never}}
  khugepaged: {max_ptes_none: 511}
hugepages: {2M: {nr: 64, overcommit: 1}, 1G: {per_node: {1: 2}}}
vm: {hugetlb_optimize_vmemmap: 1, defrag_mode: 1}
numa: {balancing: 0}
ksm: {run: 2}
page_reporting: {order: 9}
cpu: {governor: performance, policies: "0-1,4", no_turbo: 1, boost: 0, smt: "on", nmi_watchdog: 0}
knobs: {/sys/kernel/mm/new_one: 3}
"""


def test_every_setting_becomes_a_file_in_the_order_of_setting() -> None:
    config = host(EVERYTHING)
    thp, cpu = "/sys/kernel/mm/transparent_hugepage", "/sys/devices/system/cpu"
    assert list(wanted(config).items()) == [
        (f"{cpu}/smt/control", "on"),
        (f"{cpu}/intel_pstate/no_turbo", "1"),
        (f"{cpu}/cpufreq/boost", "0"),
        ("/proc/sys/kernel/nmi_watchdog", "0"),
        ("/proc/sys/kernel/numa_balancing", "0"),
        ("/sys/kernel/mm/ksm/run", "2"),
        ("/sys/module/page_reporting/parameters/page_reporting_order", "9"),
        (f"{cpu}/cpufreq/policy0/scaling_governor", "performance"),
        (f"{cpu}/cpufreq/policy1/scaling_governor", "performance"),
        (f"{cpu}/cpufreq/policy4/scaling_governor", "performance"),
        ("/sys/module/kvm/parameters/halt_poll_ns", "0"),
        ("/proc/sys/vm/defrag_mode", "1"),
        ("/proc/sys/vm/hugetlb_optimize_vmemmap", "1"),
        (f"{thp}/enabled", "never"),
        (f"{thp}/defrag", "defer+madvise"),
        (f"{thp}/shmem_enabled", "advise"),
        (f"{thp}/use_zero_page", "0"),
        (f"{thp}/shrink_underused", "0"),
        (f"{thp}/hugepages-2048kB/enabled", "inherit"),
        (f"{thp}/hugepages-2048kB/shmem_enabled", "never"),
        (f"{thp}/khugepaged/max_ptes_none", "511"),
        ("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages", "1"),
        ("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "64"),
        ("/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages", "2"),
        ("/sys/kernel/mm/new_one", "3"),
    ]
    assert module_params(config) == {"kvm.eager_page_split": "Y", "kvm_intel.tdx": "Y", "kvm.tdp_mmu": "Y"}
    assert config.requires.min_free_bytes == 2 << 30


def test_what_only_a_reload_changes_is_required_and_not_set() -> None:
    for name in sorted(LOAD_TIME - {"kvm_amd.ciphertext_hiding_asids"}):
        module, parameter = name.split(".")
        config = host(f"module_params: {{{module}: {{{parameter}: Y}}}}")
        assert wanted(config) == {}
        assert module_params(config) == {name: "Y"}


def test_actions_keep_their_order() -> None:
    config = host("before_each: [{compact_memory: 1}, {drop_caches: 3}, {compact_memory: 1}]")
    assert [path.rpartition("/")[2] for path, _ in before_each(config)] == [
        "compact_memory",
        "drop_caches",
        "compact_memory",
    ]
    assert before_each(config)[1] == ("/proc/sys/vm/drop_caches", "3")


def test_lists_of_cpus() -> None:
    assert parse_list("0-2,8") == (0, 1, 2, 8)


def test_the_examples_are_right_and_reached_as_they_say() -> None:
    assert names() == ("emulated", "emulated-as-ssh", "local", "plain-example", "snp-example", "tdx-example")
    for name in names():
        assert load_host(name).name == name
    assert isinstance(reach_host(load_host("local")), LocalReach)
    ssh = load_host("tdx-example").ssh
    assert ssh is not None
    home = str(Path("~/.ssh/lab").expanduser())
    known = str(HOST_CONFIGS / "lab-known-hosts")
    assert ssh.target() == SshTarget("tdx1.example.org", "root", 22, home, "gate.example.org", known)
    with pytest.raises(UsageError, match="the host emulated is emulated: the harness starts it itself"):
        reach_host(load_host("emulated"))


def test_a_name_that_nobody_has(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"there is no host snp-exmple \(did you mean snp-example\?\); .* has emulated, "
    ):
        load_host("snp-exmple")
    with pytest.raises(UsageError, match="has none"):
        load_host("local", tmp_path)
    with pytest.raises(UsageError, match=r"host's file .*/nothing\.yaml cannot be read: No such file"):
        load_host(tmp_path / "nothing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe4\n")
    with pytest.raises(UsageError, match="is no text in UTF-8"):
        load_host(tmp_path / "latin.yaml")


def test_an_editor_is_told_the_same() -> None:
    schema = json_schema()
    parts = schema["$defs"]
    assert parts["Requires"]["properties"]["kernel_min"]["type"] == ["string", "number"]
    assert parts["HostConfig"]["properties"]["knobs"]["additionalProperties"]["type"] == [
        "string",
        "integer",
        "boolean",
    ]
    assert '"also"' not in json.dumps(schema)
    assert json.loads(json.dumps(schema)) == schema
    assert "schema" in parts["HostConfig"]["properties"]
    assert parts["Ssh"]["additionalProperties"] is False
    assert parts["Thp"]["properties"]["sizes"]["propertyNames"]["pattern"] == "^[1-9][0-9]*kB$"
